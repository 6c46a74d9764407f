"""Scenarios: workers, models and arrivals as a YAML file says them; what a seed makes of them: making.py."""

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from stoker.json_lines import read_json_lines
from stoker.schemas.catalog import DEFAULT_SPEC, DEFAULT_WAITING_COST
from stoker.schemas.ranges import Weight
from stoker.schemas.workers import EngineCapability
from stoker.services.catalog.documents import ConfigurationError, read

GB = 10**9
LAUNCHER = "simulation"
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Many = Annotated[int, Meta(ge=1, le=1_000_000)]
Shape = Literal["flat", "burst", "diurnal", "shift", "rotation"]
Mix = Literal["image", "text", "mixed", "lora"]

ENGINES = {
    "llamacpp": EngineCapability(4, 2, ("TextGeneration",)),
    "diffusers": EngineCapability(1, 1, ("ImageGeneration",), lane="device"),
}


class Workers(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Workers that are alike. onDisk: the share of the models that each has on its disk at the beginning.

    The bandwidths are of loads: from RAM, from disk, and over the network to the disk; gigabytes a second.
    pricePerHour: of one of them.
    """

    count: Many = 1
    profile: str = "gpu"
    memory_gb: Positive = 24.0
    ram_gb: Annotated[float, Meta(ge=0)] = 32.0
    on_disk: Share = 1.0
    ram_gb_per_s: Positive = 8.0
    disk_gb_per_s: Positive = 1.5
    network_gb_per_s: Positive = 0.25
    price_per_hour: Annotated[float, Meta(ge=0)] = 0.0


class NamedModel(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One model. secondsPerUnit: for a step or a token. base: a model whose weights it shares, under
    its LoRA.

    popularity: how often it is asked for, beside the others. batch: like requests that run as one; each
    beyond the first takes batchCost of its time. slots: requests at a time on one worker; 0 = the engine's.
    """

    name: str
    engine: Literal["llamacpp", "diffusers"] = "diffusers"
    size_gb: Positive = 4.0
    seconds_per_unit: Positive = 0.05
    base: str = ""
    popularity: Annotated[float, Meta(ge=0)] = 1.0
    batch: Annotated[int, Meta(ge=1, le=1000)] = 1
    batch_cost: Share = 0.4
    slots: Annotated[int, Meta(ge=0, le=100_000)] = 0


class ModelRule(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Models by chance. zipf: the k-th is asked for k to the minus this as often as the first."""

    count: Many
    mix: Mix = "image"
    zipf: Annotated[float, Meta(ge=0)] = 1.0


class Arrivals(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """jobs: how many come. load: of all slots of all workers, were nothing ever loaded; or rate, jobs a
    second.

    then: what follows, by the same rules. tenants: how many there are, the k-th asking for 1/k as much as the
    first; with isEven all alike. weights: of the tenants in the fair clock, in order; 1 for the others.
    """

    jobs: Many = 3000
    load: Positive | None = None
    rate: Positive | None = None
    shape: Shape = "flat"
    tenants: Many = 1
    is_even: bool = False
    weights: tuple[Weight, ...] = ()
    then: "Arrivals | None" = None


class Stock(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """share: of the time in which orders are taken. spellSeconds: how long it is out of stock at a time, on
    average.
    """

    share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    spell_seconds: Positive = 180.0


class LaunchedSpec(Workers, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Hardware that replicas of every model may be launched on, by the autoscaler. count: the most replicas of
    a model, 0 for no limit.

    startSeconds: from the order until the worker is there, which then loads its model. speed: how much faster
    than the scenario's models say it runs.
    """

    name: str = "gpu"
    count: Annotated[int, Meta(ge=0, le=100_000)] = 0
    start_seconds: Positive = 60.0
    speed: Positive = 1.0
    stock: Stock = Stock()
    target_requests: Annotated[int, Meta(ge=0)] = 1
    min_replicas: Annotated[int, Meta(ge=0)] = 0
    scale_down_delay_seconds: Annotated[float, Meta(ge=0)] = 30.0
    group: str = ""


class Scenario(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    name: str
    workers: tuple[Workers, ...] = ()
    models: ModelRule | tuple[NamedModel, ...] = ModelRule(1)
    arrivals: Arrivals = Arrivals()
    specs: tuple[LaunchedSpec, ...] = ()
    waiting_cost_per_hour: Annotated[float, Meta(ge=0)] = DEFAULT_WAITING_COST


class Ask(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request of a trace: seconds after the beginning, model, size of the work, a hash of the tenant.

    max_tokens: the size as traces of load tests have it. Where neither is said it is a typical request.
    """

    at: float
    model: str
    units: float = 0.0
    max_tokens: int = 0
    tenant: str = ""
    priority: int = 0


class BadScenario(ValueError):
    """A scenario that cannot be; says the file, the line and the field."""


def load(path: Path) -> list[Scenario]:
    """The scenarios of a file. Raises BadScenario."""
    try:
        documents = read(path)
    except ConfigurationError as error:
        raise BadScenario(str(error)) from error
    found: list[Scenario] = []
    for document in documents:
        try:
            found.append(msgspec.convert(document.content, Scenario))
        except msgspec.ValidationError as error:
            message, _, where = str(error).partition(" - at `$")
            keys = [int(key) if key.isdigit() else key for key in re.findall(r"\w+", where)]
            raise BadScenario(str(document.place(*keys).error(message))) from error
        _check(found[-1], path)
    return found


def _check(scenario: Scenario, path: Path) -> None:
    if not scenario.workers and not scenario.specs:
        raise BadScenario(f"{path}: {scenario.name}: it has no workers, and no specs to launch some of")
    names = [one.name for one in scenario.specs]
    if len(set(names)) < len(names) or DEFAULT_SPEC in names:
        raise BadScenario(f"{path}: {scenario.name}: two specs have the same name, or one is {DEFAULT_SPEC!r}")
    arrivals: Arrivals | None = scenario.arrivals
    while arrivals is not None:
        if (arrivals.load is None) == (arrivals.rate is None):
            raise BadScenario(f"{path}: arrivals: say either load or rate")
        arrivals = arrivals.then
    if isinstance(scenario.models, tuple):
        names = [one.name for one in scenario.models]
        if len(set(names)) < len(names):
            raise BadScenario(f"{path}: models: two have the same name")
        for one in scenario.models:
            if one.base and one.base not in names:
                raise BadScenario(f"{path}: models: {one.name}: there is no model {one.base!r} to be its base")


def read_trace(path: Path) -> list[Ask]:
    """A recorded trace: an object a line. Raises BadScenario, OSError."""
    return sorted(read_json_lines(path, Ask, BadScenario), key=lambda ask: ask.at)
