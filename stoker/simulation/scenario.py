"""Scenarios: workers, models and arrivals as a YAML file says them, and what a seed makes of them.

The same scenario and seed give the same models, the same requests and so the same answer, to the last digit.
"""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.catalog import DEFAULT_SPEC, DEFAULT_WAITING_COST, Model, Spec
from schemas.jobs import CompletionInput, ImageInput, Job, JobInput
from schemas.ranges import Weight
from schemas.workers import EngineCapability
from services.catalog.documents import ConfigurationError, read
from stoker.json_lines import read_json_lines

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
IMAGE_SIZES_GB, TEXT_SIZES_GB = (2, 4, 7, 7, 12, 24), (2, 4, 5, 8, 16, 24)
IMAGE_UNITS, TEXT_UNITS = (8, 20, 28, 40), (32, 64, 128, 256)
"""Steps of pictures, tokens of texts."""
BASES_SHARE = 8
"""Of so many models with LoRAs one is the base of the others."""
RUN_SPREAD = (0.9, 1.1)
BURST_S, BURST_EVERY_S, BURST_TIMES, BETWEEN_TIMES = 10.0, 60.0, 4.0, 0.4
DAY_S, DAY_SWING = 600.0, 0.8
SHIFT_EVERY_S, SHIFT_BY = 120.0, 7


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

    popularity: how often it is asked for, beside the others.
    """

    name: str
    engine: Literal["llamacpp", "diffusers"] = "diffusers"
    size_gb: Positive = 4.0
    seconds_per_unit: Positive = 0.05
    base: str = ""
    popularity: Annotated[float, Meta(ge=0)] = 1.0


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


@dataclass(frozen=True, slots=True)
class SimModel:
    """A model of the simulation. key: of its weights; models that share them have the same."""

    name: str
    engine: str
    size_bytes: int
    unit_s: float
    key: str
    has_lora: bool = False

    @property
    def spec(self) -> Spec:
        return Spec(DEFAULT_SPEC, self.engine, f"file:///{self.key}", memory_bytes=self.size_bytes)

    def as_model(self, scenario: Scenario | None = None) -> Model:
        """As the catalog has it, with the specs of a scenario that replicas are launched of."""
        launched = scenario.specs if scenario is not None else ()
        specs = [
            msgspec.structs.replace(
                self.spec,
                name=one.name,
                profile=one.name,
                launcher=LAUNCHER,
                min_replicas=one.min_replicas,
                max_replicas=one.count,
                target_requests=one.target_requests,
                scale_down_delay_s=one.scale_down_delay_seconds,
                scale_group=one.group,
            )
            for one in launched
        ]
        if scenario is None or scenario.workers:
            specs.insert(0, msgspec.structs.replace(self.spec, target_requests=ENGINES[self.engine].slots))
        feature: Literal["ImageGeneration", "TextGeneration"] = (
            "ImageGeneration" if self.engine == "diffusers" else "TextGeneration"
        )
        cost = scenario.waiting_cost_per_hour if scenario is not None else DEFAULT_WAITING_COST
        return Model(self.name, (feature,), tuple(specs), waiting_cost_per_hour=cost)


@dataclass(slots=True)
class SimJob:
    """One request. at, started_at, ended_at: virtual seconds; run_s: what it takes in the engine."""

    number: int
    at: float
    model: SimModel
    units: int
    run_s: float
    tenant: str = ""
    priority: int = 0
    weight: float = 1.0
    worker: str = ""
    started_at: float = math.nan
    ended_at: float = math.nan
    eta_s: float | None = None
    eta_p90_s: float | None = None
    """What it was told when it came."""

    @property
    def id(self) -> str:
        return str(self.number)

    def as_job(self) -> Job:
        """As the stream has it."""
        asked: JobInput = CompletionInput("x", max_tokens=self.units)
        if self.model.engine == "diffusers":
            asked = ImageInput("x", num_inference_steps=self.units)
        return Job(
            self.id, self.model.name, asked, "simulation", self.at, tenant=self.tenant, priority=self.priority,
            weight=self.weight, wants_events=True, admission_timeout_s=1e9,
        )  # fmt: skip


@dataclass(slots=True)
class Plan:
    """What a seed makes of a scenario."""

    scenario: Scenario
    seed: int
    models: list[SimModel] = field(default_factory=list)
    jobs: list[SimJob] = field(default_factory=list)


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


# From a seed --------------------------------------------------------------------------------------


def plan(scenario: Scenario, seed: int, trace: Sequence[Ask] | None = None) -> Plan:
    """The models and requests of a scenario; those of a trace where one is given. Raises BadScenario."""
    chance = random.Random(seed)
    made = Plan(scenario, seed)
    if isinstance(scenario.models, ModelRule):
        made.models = _by_rule(chance, scenario.models)
        weights = [(rank + 1) ** -scenario.models.zipf for rank in range(scenario.models.count)]
    else:
        made.models = [_named(one, scenario.models) for one in scenario.models]
        weights = [one.popularity for one in scenario.models]
    if trace is not None:
        made.jobs = _traced(chance, made.models, trace)
        return made
    count = sum(workers.count for workers in scenario.workers) or 1
    each_s = sum(
        weight * _mean_run_s(model) / ENGINES[model.engine].slots
        for weight, model in zip(weights, made.models, strict=True)
    ) / sum(weights)
    began, arrivals = 0.0, scenario.arrivals
    while arrivals is not None:
        rate = arrivals.rate or count * (arrivals.load or 1.0) / each_s
        began = _arrive(chance, made, weights, arrivals, rate, began)
        arrivals = arrivals.then  # type: ignore[assignment]  # None ends the loop
    return made


def _typical_units(model: SimModel) -> int:
    return 24 if model.engine == "diffusers" else 128


def _mean_run_s(model: SimModel) -> float:
    return model.unit_s * _typical_units(model)


def _by_rule(chance: random.Random, rule: ModelRule) -> list[SimModel]:
    made: list[SimModel] = []
    for number in range(rule.count):
        kind = rule.mix if rule.mix != "mixed" else ("text" if chance.random() < 0.4 else "image")
        if kind == "text":
            size = int(chance.choice(TEXT_SIZES_GB) * GB)
            name = f"text{number}"
            made.append(SimModel(name, "llamacpp", size, 0.004 + size / GB * 0.0012, name))
        elif kind == "lora":
            bases = max(rule.count // BASES_SHARE, 1)
            base = number % bases
            size = (4 + 3 * (base % 3)) * GB
            unit_s = 0.06 + 0.02 * (base % 3)
            made.append(SimModel(f"lora{number}", "diffusers", size, unit_s, f"base{base}", number >= bases))
        else:
            size = int(chance.choice(IMAGE_SIZES_GB) * GB)
            name = f"image{number}"
            made.append(SimModel(name, "diffusers", size, 0.03 + size / GB * 0.008, name))
    return made


def _named(one: NamedModel, all_of_them: Sequence[NamedModel]) -> SimModel:
    size_gb = next((other.size_gb for other in all_of_them if other.name == one.base), one.size_gb)
    key = one.base or one.name
    return SimModel(one.name, one.engine, int(size_gb * GB), one.seconds_per_unit, key, bool(one.base))


def _arrive(
    chance: random.Random, made: Plan, weights: list[float], arrivals: Arrivals, mean_rate: float, began: float
) -> float:
    """Adds requests from `began` on; when the last one came."""
    shares = [1.0 if arrivals.is_even else 1 / (rank + 1) for rank in range(arrivals.tenants)]
    at = 0.0
    for number in range(arrivals.jobs):
        rate = mean_rate
        if arrivals.shape == "burst":
            rate *= BURST_TIMES if at % BURST_EVERY_S < BURST_S else BETWEEN_TIMES
        elif arrivals.shape == "diurnal":
            rate *= 1 + DAY_SWING * math.sin(at / DAY_S * 2 * math.pi)
        at += chance.expovariate(rate)
        if arrivals.shape == "rotation":
            model = made.models[number % len(made.models)]
        elif arrivals.shape == "shift":
            [rank] = chance.choices(range(len(made.models)), weights)
            model = made.models[(rank + int(at // SHIFT_EVERY_S) * SHIFT_BY) % len(made.models)]
        else:
            [model] = chance.choices(made.models, weights)
        units = chance.choice(TEXT_UNITS if model.engine == "llamacpp" else IMAGE_UNITS)
        [tenant] = chance.choices(range(arrivals.tenants), shares)
        run_s = model.unit_s * units * chance.uniform(*RUN_SPREAD)
        weight = arrivals.weights[tenant] if tenant < len(arrivals.weights) else 1.0
        job = SimJob(len(made.jobs), began + at, model, units, run_s, f"tenant{tenant}", weight=weight)
        made.jobs.append(job)
    return began + at


def _traced(chance: random.Random, models: Sequence[SimModel], trace: Sequence[Ask]) -> list[SimJob]:
    by_name = {model.name: model for model in models}
    jobs: list[SimJob] = []
    for ask in trace:
        model = by_name.get(ask.model)
        if model is None:
            raise BadScenario(f"the trace asks for {ask.model!r}, which is no model of the scenario")
        units = max(round(ask.units or ask.max_tokens or _typical_units(model)), 1)
        run_s = model.unit_s * units * chance.uniform(*RUN_SPREAD)
        jobs.append(SimJob(len(jobs), ask.at, model, units, run_s, ask.tenant, ask.priority))
    return jobs
