"""Discovery: what a model takes, and drawing by exactly that (document 002).

At zero a request is not queued: it is answered 202 at once, starts one load, and is to be repeated.
"""

import base64
import time
from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.datastructures import State

from schemas.catalog import Model
from schemas.discovery import Schema
from schemas.job_events import ImageOutput
from schemas.jobs import LoadInput
from services.gateway.edge.exchange import Exchange
from services.gateway.edge.http import json_answer
from services.gateway.edge.problems import RequestError
from services.gateway.gateway import Gateway, LoadAttempt, completed_or_raise
from services.gateway.jobs.discovered import discovered_input
from services.gateway.jobs.own_jobs import finished, job_headers
from services.gateway.jobs.requests import decode
from services.records.blobs import attach, get_pictures

KANDINSKY_PREFIX = "kandinsky-"
MB = 1e6
DISK_BYTES_PER_S = 1e9
FIRST_LOAD_S = 2.0
RETRY_LOAD_S = 5.0


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
        for beat in gateway.live_workers()
        for resident in beat.models
        if resident.model == model.name and resident.load_s
    ]
    size = max((spec.size_bytes for spec in model.specs), default=0)
    return max(round(min(measured, default=FIRST_LOAD_S + size / DISK_BYTES_PER_S)), 1)


def start_loading(gateway: Gateway, model: Model) -> str:
    """See to it that the model is being loaded, once; the reason why the last try failed, if it did."""
    attempt = gateway.loads.setdefault(model.name, LoadAttempt())
    if not attempt.is_under_way and time.monotonic() - attempt.ended_at > RETRY_LOAD_S:
        attempt.is_under_way = True
        gateway.own(_load(gateway, model, attempt))
    return attempt.failure


async def _load(gateway: Gateway, model: Model, attempt: LoadAttempt) -> None:
    job = gateway.make_job(model, "", LoadInput())
    try:
        completed_or_raise((await gateway.run(job)).event)
        attempt.failure = ""
        attempt.ended_at = 0.0
    except RequestError as error:
        attempt.failure = error.message
        attempt.ended_at = time.monotonic()
    finally:
        gateway.streams.forget(job.id)
        attempt.is_under_way = False


def check_can_load(gateway: Gateway, model: Model) -> None:
    """Start loading. Raises RequestError 503 when it cannot be loaded."""
    depth = gateway.depths.get(model.name)
    if depth is not None and depth.impossible:
        raise RequestError(503, depth.impossible, code="impossible")
    failure = start_loading(gateway, model)
    if failure:
        message = f"{model.name} cannot be loaded: {failure}"
        raise RequestError(503, message, code="load_failed", retry_after_s=int(RETRY_LOAD_S))


def scaling_up(gateway: Gateway, model: Model, deployment: str) -> Response[bytes]:
    """The answer at zero."""
    seconds = eta_s(gateway, model)
    body = {
        "status": "scaling_up",
        "message": f"{model.name} is being loaded; ask again in {seconds} s",
        "model": model.name,
        "estimated_ready_time_seconds": seconds,
        "retry_after": seconds,
        "poll_url": f"/{deployment}/v1/health",
        "action": "retry_later",
    }
    headers = {"Retry-After": str(seconds), "X-Status": "scaling-up", "X-Action": "retry-later"}
    return json_answer(body, 202, headers)


@get("/{deployment:str}/v1/schema", summary="What a model takes", opt={"answers": Schema})
async def schema(state: State, deployment: str) -> Response[bytes]:
    gateway: Gateway = state.gateway
    model = find_deployment(gateway, deployment)
    found = gateway.schemas.get(model.name)
    if found is None:  # no worker has seen the model yet
        check_can_load(gateway, model)
        return scaling_up(gateway, model, deployment)
    return json_answer(found)


@post(
    "/{deployment:str}/v1/generate",
    status_code=200,
    summary="Draw by a model's own parameters",
    opt={"asks": dict[str, Any]},
)
async def generate(state: State, request: Request[Any, Any, Any], deployment: str) -> Response[bytes]:
    gateway: Gateway = state.gateway
    exchange = Exchange(request.scope, request.receive, request.send)
    began = time.monotonic()
    model = find_deployment(gateway, deployment)
    given = decode(dict[str, Any], await exchange.body())
    found = gateway.schemas.get(model.name)
    if found is None or not gateway.is_hot(model.name):
        if found is not None:
            discovered_input(found, model, given)  # what is wrong is said now, not after the load
        check_can_load(gateway, model)
        return scaling_up(gateway, model, deployment)
    drawn, files, seed = discovered_input(found, model, given)
    job = gateway.make_job(model, "", drawn, seed=seed)
    attached = {name: await attach(gateway.bus, f"{job.id}/{name}", content) for name, content in files.items()}
    job = gateway.with_input(job, msgspec.structs.replace(drawn, files=attached))
    completed, raw = await finished(gateway, exchange, job)
    output = completed.output
    assert isinstance(output, ImageOutput)
    pictures = await get_pictures(gateway.bus, output, raw)
    answer = {
        "status": "success",
        "model": model.name,
        "image": _data_url(pictures[0]),
        "parameters": output.details.get("parameters", {}) | {"seed": output.pictures[0].seed},
        "compute_metrics": _metrics(output.details.get("resources", {}), time.monotonic() - began),
    }
    if len(pictures) > 1:
        answer["images"] = [_data_url(picture) for picture in pictures]
    return json_answer(answer, headers=job_headers(job, completed))


def _data_url(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _metrics(resources: dict[str, Any], duration_s: float) -> dict[str, Any]:
    """Resources of the replica; GPU fields are null without a GPU."""

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


@get("/{deployment:str}/v1/health", summary="Whether a model is ready")
async def health(state: State, deployment: str) -> Response[bytes]:
    gateway: Gateway = state.gateway
    model = find_deployment(gateway, deployment)
    is_ready = gateway.is_hot(model.name)
    attempt = gateway.loads.get(model.name, LoadAttempt())
    body: dict[str, Any] = {
        "status": "healthy" if is_ready else "scaling_up" if attempt.is_under_way else "scaled_to_zero",
        "ready": is_ready,
        "model": model.name,
    }
    if not is_ready and attempt.failure:
        body |= {"status": "failed", "reason": attempt.failure}
    return json_answer(body, 200 if is_ready else 503)


@get("/{deployment:str}/v1/models", summary="The deployments")
async def deployments(state: State, deployment: str) -> Response[bytes]:
    gateway: Gateway = state.gateway
    find_deployment(gateway, deployment)
    names = sorted(name for name, model in gateway.models.items() if "ImageGeneration" in model.features)
    listed = [{"id": name, "ready": gateway.is_hot(name), **_class_of(gateway, name)} for name in names]
    return json_answer({"models": listed})


def _class_of(gateway: Gateway, name: str) -> dict[str, Any]:
    found = gateway.schemas.get(name)
    if found is None:
        return {"pipeline_class": None, "capabilities": []}
    return {"pipeline_class": found.pipeline_class, "capabilities": found.capabilities}


ROUTES = [
    schema,
    generate,
    health,
    deployments,
]
