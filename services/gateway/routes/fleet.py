"""The fleet as people see it: workers, models, replicas; health of the gateway itself."""

from collections.abc import Mapping

import msgspec

from stoker.schemas.catalog import Model, Spec
from stoker.schemas.configuration import ConfigurationState
from stoker.schemas.fleet import Condition, ModelReplicas, QueueDepth, Replica, SpecReplicas
from stoker.schemas.workers import CapabilityCard, Heartbeat, Tier
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.routing import get
from stoker.services.gateway.gateway import Gateway

NO_TIERS: Mapping[str, dict[str, Tier]] = {}


class FleetSpec(msgspec.Struct, frozen=True):
    """One spec, how many replicas of it are wanted and are there, and why not more. price_per_hour: of one.

    condition: what went wrong last; None while nothing is wrong. start_s: measured, from launch to ready.
    """

    name: str
    engine: str
    profile: str
    launcher: str
    target_requests: int
    min_replicas: int
    max_replicas: int | None
    running: int
    desired: int = 0
    ready: int = 0
    starting: int = 0
    draining: int = 0
    start_s: float | None = None
    condition: Condition | None = None
    price_per_hour: float = 0.0


class FleetModel(msgspec.Struct, frozen=True):
    """A model, its queue, its specs, and the workers that have it, by tier. replicas: the launched ones. card:
    what it can do, once it was loaded.
    """

    name: str
    features: tuple[str, ...]
    specs: tuple[FleetSpec, ...]
    queue: QueueDepth
    workers: dict[str, Tier]
    replicas: tuple[Replica, ...]
    card: CapabilityCard = CapabilityCard()


class Fleet(msgspec.Struct, frozen=True):
    workers: tuple[Heartbeat, ...]
    models: tuple[FleetModel, ...]
    configuration: ConfigurationState = ConfigurationState()


@get("/v1/fleet", summary="Workers, models and queues", answers=Fleet, role="operate")
async def fleet(gateway: Gateway, exchange: Exchange) -> None:
    await exchange.answer(fleet_of(gateway))


def fleet_of(gateway: Gateway) -> Fleet:
    """Everything as it is now."""
    workers = gateway.fleet.live_workers()
    tiers: dict[str, dict[str, Tier]] = {}
    for beat in workers:
        for resident in beat.models:
            tiers.setdefault(resident.model, {})[beat.worker] = resident.tier
    return Fleet(tuple(workers), models_of(gateway, tiers), gateway.configuration())


def models_of(gateway: Gateway, tiers: Mapping[str, dict[str, Tier]] = NO_TIERS) -> tuple[FleetModel, ...]:
    """Every model as it is now. tiers: by model and worker; without them nothing is said of workers."""
    models = sorted(gateway.fleet.models.values(), key=lambda model: model.name)
    return tuple(_model(gateway, tiers.get(model.name, {}), model) for model in models)


def _model(gateway: Gateway, tiers: dict[str, Tier], model: Model) -> FleetModel:
    depth = gateway.fleet.depths.get(model.name) or QueueDepth(model.name, 0, 0)
    recorded = gateway.fleet.replicas.get(model.name)
    specs = tuple(_spec(spec, depth, recorded) for spec in model.specs)
    replicas = recorded.replicas if recorded is not None else ()
    return FleetModel(model.name, model.features, specs, depth, tiers, replicas, gateway.fleet.card(model.name))


def _spec(spec: Spec, depth: QueueDepth, recorded: ModelReplicas | None) -> FleetSpec:
    found = recorded.specs if recorded is not None else ()
    seen = next((one for one in found if one.spec == spec.name), SpecReplicas(spec.name, 0, 0))
    return FleetSpec(
        name=spec.name,
        engine=spec.engine,
        profile=f"{spec.profile}:{spec.profile_count}" if spec.profile else "",
        launcher=spec.launcher or "static",
        target_requests=spec.target_requests,
        min_replicas=spec.min_replicas,
        max_replicas=spec.max_replicas or None,
        running=depth.by_spec.get(spec.name, 0),
        desired=seen.desired,
        ready=seen.ready,
        starting=seen.starting,
        draining=seen.draining,
        start_s=seen.start_s,
        condition=seen.condition,
        price_per_hour=seen.price_per_hour,
    )


@get("/health/live", summary="The process answers")
async def live(_: Gateway, exchange: Exchange) -> None:
    await exchange.answer({"status": "ok"})


@get("/health/ready", summary="NATS is connected, the catalog is read, a scheduler answers")
async def ready(gateway: Gateway, exchange: Exchange) -> None:
    reason = await gateway.why_not_ready()
    if reason:
        await exchange.answer({"status": "not ready", "reason": reason}, 503)
    else:
        await exchange.answer({"status": "ready"})


ROUTES = [fleet, live, ready]
