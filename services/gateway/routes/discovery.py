"""Discovery: what a model takes, and drawing by exactly that (document 002).

At zero a request is not queued: it is answered 202 at once, starts one load, and is to be repeated.
"""

import base64
from typing import Any

import msgspec

from stoker.schemas.catalog import Model
from stoker.schemas.discovery import Schema
from stoker.schemas.job_events import ImageOutput, Picture
from stoker.services.gateway.edge.decoding import decode
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError
from stoker.services.gateway.edge.routing import get, post
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.discovered import FILES, discovered_input
from stoker.services.gateway.jobs.loading import RETRY_LOAD_S
from stoker.services.gateway.jobs.own_jobs import finished, job_headers
from stoker.services.gateway.jobs.remote_files import with_bytes
from stoker.services.gateway.jobs.submission import with_input
from stoker.services.records.blobs import attach, get_pictures

KANDINSKY_PREFIX = "kandinsky-"
MB = 1e6
DISK_BYTES_PER_S = 1e9
FIRST_LOAD_S = 2.0


def find_deployment(gateway: Gateway, deployment: str) -> Model:
    """The image model of a deployment. Raises RequestError 404."""
    for name in (deployment, deployment.removeprefix(KANDINSKY_PREFIX)):
        model = gateway.models.get(name)
        if model is not None and "ImageGeneration" in model.features:
            return model
    known = ", ".join(sorted(n for n, m in gateway.models.items() if "ImageGeneration" in m.features))
    raise RequestError(
        404, f"there is no deployment {deployment!r}; known are: {known or 'none'}", code="deployment_not_found"
    )


def eta_s(gateway: Gateway, model: Model) -> int:
    """Seconds until a model is ready, from its measured loads where there were any."""
    measured = [
        resident.load_s
        for beat in gateway.fleet.live_workers()
        for resident in beat.models
        if resident.model == model.name and resident.load_s
    ]
    size = max((spec.size_bytes for spec in model.specs), default=0)
    return max(round(min(measured, default=FIRST_LOAD_S + size / DISK_BYTES_PER_S)), 1)


def check_can_load(gateway: Gateway, model: Model) -> None:
    """Start loading. Raises RequestError 503 when it cannot be loaded."""
    depth = gateway.fleet.depths.get(model.name)
    if depth is not None and depth.impossible:
        raise RequestError(503, depth.impossible, code="impossible", retry_after_s=RETRY_AFTER_S)
    failure = gateway.loading.start(model).failure
    if failure:
        message = f"{model.name} cannot be loaded: {failure}"
        raise RequestError(503, message, code="load_failed", retry_after_s=int(RETRY_LOAD_S))


async def answer_scaling_up(
    gateway: Gateway, exchange: Exchange, model: Model, deployment: str, what: str
) -> None:
    """The answer at zero. what: the route that was asked, which is to be asked again."""
    seconds = eta_s(gateway, model)
    body = {
        "status": "scaling_up",
        "message": f"{model.name} is being loaded; ask again in {seconds} s",
        "model": model.name,
        "estimated_ready_time_seconds": seconds,
        "retry_after": seconds,
        "poll_url": f"/{deployment}/v1/{what}",
        "health_url": f"/{deployment}/v1/health",
        "action": "retry_later",
    }
    headers = {"retry-after": str(seconds), "x-status": "scaling-up", "x-action": "retry-later"}
    await exchange.answer(body, 202, headers)


@get("/{deployment}/v1/schema", summary="What a model takes", answers=Schema)
async def schema(gateway: Gateway, exchange: Exchange) -> None:
    deployment = exchange.parameter("deployment")
    model = find_deployment(gateway, deployment)
    found = gateway.fleet.schemas.get(model.name)
    if found is None:  # no worker has seen the model yet
        check_can_load(gateway, model)
        await answer_scaling_up(gateway, exchange, model, deployment, "schema")
        return
    await exchange.answer(found)


@post("/{deployment}/v1/generate", summary="Draw by a model's own parameters", asks=dict[str, Any])
async def generate(gateway: Gateway, exchange: Exchange) -> None:
    deployment = exchange.parameter("deployment")
    model = find_deployment(gateway, deployment)
    given = decode(dict[str, Any], await exchange.json_body())
    named = {name: value for name in FILES if isinstance(value := given.get(name), str)}
    given |= {name: await with_bytes(gateway, value, name) for name, value in named.items()}
    found = gateway.fleet.schemas.get(model.name)
    if found is None or not gateway.fleet.is_hot(model.name):
        if found is not None:
            discovered_input(found, model, given)  # what is wrong is said now, not after the load
        check_can_load(gateway, model)
        await answer_scaling_up(gateway, exchange, model, deployment, "generate")
        return
    drawn, files, seed = discovered_input(found, model, given)
    job = gateway.submission.make_job(model, "", drawn, seed=seed)
    attached = {name: await attach(gateway.bus, f"{job.id}/{name}", content) for name, content in files.items()}
    job = with_input(job, msgspec.structs.replace(drawn, files=attached))
    completed, raw = await finished(gateway, exchange, job)
    output = completed.output
    assert isinstance(output, ImageOutput)
    pictures = await get_pictures(gateway.bus, output, raw)
    urls = [_data_url(content, told) for content, told in zip(pictures, output.pictures, strict=True)]
    kind = "video" if output.pictures[0].content_type.startswith("video/") else "image"
    answer = {
        "status": "success",
        "model": model.name,
        kind: urls[0],
        "parameters": output.details.get("parameters", {}) | {"seed": output.pictures[0].seed},
        "compute_metrics": _metrics(output.details.get("resources", {}), completed.timings.run_s),
    }
    if len(urls) > 1:
        answer[f"{kind}s"] = urls
    await exchange.answer(answer, headers=job_headers(job, completed))


def _data_url(content: bytes, told: Picture) -> str:
    return f"data:{told.content_type};base64,{base64.b64encode(content).decode()}"


def _metrics(resources: dict[str, Any], duration_s: float) -> dict[str, Any]:
    """Resources of the replica; GPU fields are null without a GPU. duration_s: in the engine, not the queue."""

    def mb(name: str) -> float | None:
        value = resources.get(f"gpu_{name}_bytes")
        return None if value is None else round(value / MB, 2)

    return {
        "query_duration_seconds": round(duration_s, 3),
        "replica_cpu_percent": resources.get("cpu_percent", 0.0),
        "replica_memory_mb": round(resources.get("rss_bytes", 0) / MB, 2),
        "replica_gpu_memory_allocated_mb": mb("allocated"),
        "replica_gpu_memory_reserved_mb": mb("reserved"),
        "replica_gpu_memory_total_mb": mb("total"),
        "replica_gpu_memory_used_mb": mb("used"),
        "replica_gpu_utilization_percent": resources.get("gpu_utilization_percent"),
    }


@get("/{deployment}/v1/health", summary="Whether a model is ready")
async def health(gateway: Gateway, exchange: Exchange) -> None:
    model = find_deployment(gateway, exchange.parameter("deployment"))
    is_ready = gateway.fleet.is_hot(model.name)
    load = gateway.loading.state_of(model.name)
    body: dict[str, Any] = {
        "status": "healthy" if is_ready else "scaling_up" if load.phase == "loading" else "scaled_to_zero",
        "ready": is_ready,
        "model": model.name,
    }
    if not is_ready and load.failure:
        body |= {"status": "failed", "reason": load.failure}
    await exchange.answer(body, 200 if is_ready else 503)


@get("/{deployment}/v1/models", summary="The deployments")
async def deployments(gateway: Gateway, exchange: Exchange) -> None:
    find_deployment(gateway, exchange.parameter("deployment"))
    names = sorted(name for name, model in gateway.models.items() if "ImageGeneration" in model.features)
    hot = gateway.fleet.hot_models()
    listed = [{"id": name, "ready": name in hot, **_class_of(gateway, name)} for name in names]
    await exchange.answer({"models": listed})


def _class_of(gateway: Gateway, name: str) -> dict[str, Any]:
    found = gateway.fleet.schemas.get(name)
    if found is None:
        return {"pipeline_class": None, "capabilities": []}
    return {"pipeline_class": found.pipeline_class, "capabilities": found.capabilities}


ROUTES = [schema, generate, health, deployments]
