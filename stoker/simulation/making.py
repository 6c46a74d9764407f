"""What a seed makes of a scenario: models and requests. The same seed makes the same, to the last digit."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from stoker.schemas.catalog import DEFAULT_SPEC, DEFAULT_WAITING_COST, Model, Spec
from stoker.schemas.jobs import CompletionInput, ImageInput, Job, JobInput
from stoker.simulation.scenario import (
    ENGINES,
    GB,
    LAUNCHER,
    Arrivals,
    Ask,
    BadScenario,
    ModelRule,
    NamedModel,
    Scenario,
)

IMAGE_SIZES_GB, TEXT_SIZES_GB = (2, 4, 7, 7, 12, 24), (2, 4, 5, 8, 16, 24)
IMAGE_UNITS, TEXT_UNITS = (8, 20, 28, 40), (32, 64, 128, 256)
"""Steps of pictures, tokens of texts."""
BASES_SHARE = 8
"""Of so many models with LoRAs one is the base of the others."""
RUN_SPREAD = (0.9, 1.1)
BURST_S, BURST_EVERY_S, BURST_TIMES, BETWEEN_TIMES = 10.0, 60.0, 4.0, 0.4
DAY_S, DAY_SWING = 600.0, 0.8
SHIFT_EVERY_S, SHIFT_BY = 120.0, 7


@dataclass(frozen=True, slots=True)
class SimModel:
    """A model of the simulation. key: of its weights; models that share them have the same."""

    name: str
    engine: str
    size_bytes: int
    unit_s: float
    key: str
    has_lora: bool = False
    batch: int = 1
    batch_cost: float = 1.0
    own_slots: int = 0

    @property
    def slots(self) -> int:
        """Requests at a time on one worker."""
        return self.own_slots or ENGINES[self.engine].slots

    @property
    def spec(self) -> Spec:
        options = {"batch": self.batch} if self.batch > 1 else {}
        return Spec(
            DEFAULT_SPEC,
            self.engine,
            f"file:///{self.key}",
            options=options,
            memory_bytes=self.size_bytes,
            slots=self.own_slots,
        )

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
            specs.insert(0, msgspec.structs.replace(self.spec, target_requests=self.slots))
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
        weight * _mean_run_s(model) / model.slots for weight, model in zip(weights, made.models, strict=True)
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
    return SimModel(
        one.name, one.engine, int(size_gb * GB), one.seconds_per_unit, key, bool(one.base), one.batch,
        one.batch_cost, one.slots,
    )  # fmt: skip


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
