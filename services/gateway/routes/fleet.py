"""The fleet as people see it: workers, models, replicas; health and metrics of the gateway itself."""

import msgspec
from litestar import Response, get
from litestar.datastructures import State
from litestar.response import Redirect

from schemas.catalog import Model
from schemas.fleet import QueueDepth
from schemas.workers import Heartbeat, Tier
from services.bus.telemetry import exposition
from services.gateway.gateway import Gateway
from services.gateway.http import json_answer


class FleetModel(msgspec.Struct, frozen=True):
    """A model, its queue, and the workers that have it, by tier."""

    name: str
    features: tuple[str, ...]
    specs: tuple[str, ...]
    queue: QueueDepth
    workers: dict[str, Tier]


class Fleet(msgspec.Struct, frozen=True):
    workers: tuple[Heartbeat, ...]
    models: tuple[FleetModel, ...]


@get("/v1/fleet", summary="Workers, models and queues", opt={"answers": Fleet})
async def fleet(state: State) -> Response[bytes]:
    gateway: Gateway = state.gateway
    workers = gateway.live_workers()
    models = [_model(gateway, workers, model) for model in gateway.models.values()]
    return json_answer(Fleet(tuple(workers), tuple(sorted(models, key=lambda model: model.name))))


def _model(gateway: Gateway, workers: list[Heartbeat], model: Model) -> FleetModel:
    tiers = {
        beat.worker: resident.tier
        for beat in workers
        for resident in beat.models
        if resident.model == model.name
    }
    depth = gateway.depths.get(model.name) or QueueDepth(model.name, 0, 0)
    specs = tuple(spec.name for spec in model.specs)
    return FleetModel(model.name, model.features, specs, depth, tiers)


@get("/health/live", summary="The process answers")
async def live() -> Response[bytes]:
    return json_answer({"status": "ok"})


@get("/health/ready", summary="NATS is connected, the catalog is read, a scheduler answers")
async def ready(state: State) -> Response[bytes]:
    gateway: Gateway = state.gateway
    reason = await gateway.is_ready()
    if reason:
        return json_answer({"status": "not ready", "reason": reason}, 503)
    return json_answer({"status": "ready"})


@get("/metrics", summary="Prometheus metrics")
async def metrics() -> Response[bytes]:
    text, media_type = exposition()
    return Response(text, media_type=media_type)


@get("/", include_in_schema=False)
async def root() -> Redirect:
    return Redirect("/schema")


ROUTES = [fleet, live, ready, metrics, root]
