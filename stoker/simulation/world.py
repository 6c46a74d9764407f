"""Virtual time, and workers in it: the production worker core and model cache, with loads and runs that
take as long as the scenario says.

A worker loads one model after another. Weights come from where the cache has them (RAM, disk, or the
network onto the disk first), and room is made when they are here; LoRAs are laid on hot weights. A lane
runs as many jobs as its engine has slots. A heartbeat goes out each second and soon after a change, and
a message takes a millisecond.
"""

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from schemas.workers import Assignment, Finished, Heartbeat, ResidentModel, RunningJob, Tier
from services.worker.jobs.core import WorkerCore
from services.worker.models.cache import ModelCache, NoRoomNow
from stoker.simulation.scenario import ENGINES, GB, Plan, SimJob, SimModel, Workers

MESSAGE_S, CHANGE_S, BEAT_S, TICK_S = 0.001, 0.02, 1.0, 0.1
FIXED_S = {"parked": 0.1, "warm": 0.6, "cold": 1.0}
"""What a load costs however small the weights are."""
LORA_S = 0.4
BEGAN_AT = 1000.0
TIERS: tuple[Tier, ...] = ("hot", "loading", "base", "parked", "warm", "cold")


class Policy(Protocol):
    """Who decides. It is told of what happens, and gives jobs to workers."""

    def begin(self, world: "World") -> None: ...

    def arrived(self, job: SimJob) -> None: ...

    def finished(self, worker: "SimWorker", job: SimJob) -> None: ...

    def beat(self, worker: "SimWorker") -> None: ...

    def tick(self) -> None: ...


@dataclass
class SimWorker:
    """One worker. wanted: models to be loaded, in order, and what may be evicted first for each."""

    world: "World"
    name: str
    kind: Workers
    cache: ModelCache
    core: WorkerCore
    wanted: dict[str, frozenset[str]] = field(default_factory=dict)
    loading: str = ""
    loads: Counter[str] = field(default_factory=Counter)
    busy_s: float = 0.0
    load_s: float = 0.0
    spec: str = ""
    _attached: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _seq: int = 0
    _is_changed: bool = False

    # Looking --------------------------------------------------------------------------------------

    def tier(self, model: SimModel) -> Tier:
        if self.is_hot(model):
            return "hot"
        if model.name in self.wanted:
            return "loading"
        tier = self.cache.tier(model.key)
        return "base" if tier == "hot" else tier

    def is_hot(self, model: SimModel) -> bool:
        is_attached = not model.has_lora or model.name in self._attached[model.key]
        return self.cache.tier(model.key) == "hot" and is_attached

    def fits(self, model: SimModel) -> bool:
        return model.size_bytes <= self.cache.memory_bytes

    def held(self) -> list[SimJob]:
        """The jobs that it has."""
        return [self.world.jobs[attempt.job] for attempt in self.core.listed()]

    def running(self, model: SimModel) -> int:
        """Jobs that run in the model's lane."""
        lane = self.lane(model)
        return sum(one.lane == lane and one.phase == "running" for one in self.core.listed())

    @staticmethod
    def lane(model: SimModel) -> str:
        shared = ENGINES[model.engine].lane
        return f"lane:{shared}" if shared else model.name

    def load_time_s(self, model: SimModel, source: Tier) -> float:
        """Seconds that a load takes from where the weights are."""
        if source in ("hot", "base"):
            return LORA_S
        size = model.size_bytes / GB
        lora_s = LORA_S if model.has_lora else 0.0
        if source == "parked":
            return FIXED_S["parked"] + size / self.kind.ram_gb_per_s + lora_s
        disk_s = FIXED_S["warm"] + size / self.kind.disk_gb_per_s + lora_s
        return disk_s + (self.download_s(model) if source == "cold" else 0.0)

    def download_s(self, model: SimModel) -> float:
        return FIXED_S["cold"] + model.size_bytes / GB / self.kind.network_gb_per_s

    # Jobs -----------------------------------------------------------------------------------------

    def take(self, assignment: Assignment) -> None:
        """A job comes: it runs when its model is hot and its lane has a slot."""
        self.core.assign(assignment, self.world.now)
        model = self.world.models[assignment.job.model]
        if self.is_hot(model):
            self._ready(model)
        else:
            self.want(model, frozenset(assignment.evict))

    def _ready(self, model: SimModel) -> None:
        """The model is hot: those that wait for it may run."""
        for attempt in self.core.attempts():
            if attempt.phase == "preparing" and attempt.model == model.name:
                self.cache.pin(model.key, self.world.now)
                attempt.hold(lambda: self.cache.unpin(model.key, self.world.now))
                self.core.move(attempt, "ready")
        self._start(self.lane(model))

    def _start(self, lane: str) -> None:
        while batch := self.core.next_to_run(lane):
            for attempt in batch:
                job = self.world.jobs[attempt.job]
                job.started_at = self.world.now
                self.busy_s += job.run_s / ENGINES[job.model.engine].slots
                self.world.after(job.run_s, self._ran, attempt.key, job)

    def _ran(self, key: str, job: SimJob) -> None:
        attempt = self.core.by_key(key)
        if attempt is None:
            return
        self.core.move(attempt, "ending")
        self.core.move(attempt, "gone")
        self.world.ended(job)
        self._start(attempt.lane)
        self._load()
        finished = Finished(
            job.id,
            job.model.name,
            attempt.assignment.attempt,
            "completed",
            run_s=job.run_s,
            units=float(job.units),
        )
        self.world.after(MESSAGE_S, self.world.told_finished, self, job, finished)

    def drop(self, job: str, attempt: int) -> None:
        """An attempt is taken back."""
        known = self.core.current(job)
        if known is not None and known.assignment.attempt == attempt:
            lane = known.lane
            self.core.stop(known, "revoked")
            if known.phase == "stopping":
                self.core.move(known, "gone")
            self._start(lane)

    # Loads ----------------------------------------------------------------------------------------

    def want(self, model: SimModel, evict: frozenset[str] = frozenset()) -> None:
        """Have a model loaded, after those that are wanted already."""
        if not self.is_hot(model) and model.name not in self.wanted:
            self.wanted[model.name] = evict
            self._load()
            self.changed()

    def _load(self) -> None:
        """Begin the first load that can begin: the link takes one at a time."""
        if self.loading:
            return
        for name in list(self.wanted):
            model = self.world.models[name]
            source = self.cache.tier(model.key)
            if source == "cold":
                self.loading = name
                self.world.after(self.download_s(model), self._downloaded, model)
                return
            if self._begin_load(model, source):
                return

    def _begin_load(self, model: SimModel, source: Tier, fetched_s: float = 0.0) -> bool:
        took_s = self.load_time_s(model, source)
        if source == "hot":
            self.cache.pin(model.key, self.world.now)
        else:
            evict = {self.world.models[one].key for one in self.wanted[model.name] if one in self.world.models}
            try:
                evictions = self.cache.plan(model.key, model.engine, model.size_bytes, self.world.now, evict)
            except NoRoomNow:
                return False
            for eviction in evictions:
                if eviction.to != "parked":
                    self._attached.pop(eviction.key, None)
        self.loading = model.name
        self.world.after(took_s, self._loaded, model, "cold" if fetched_s else source, took_s + fetched_s)
        return True

    def _downloaded(self, model: SimModel) -> None:
        """Its weights are on the disk now; room is made only here, as in production."""
        self.loading = ""
        self.cache.note(model.key, model.engine, "warm", model.size_bytes)
        if not self._begin_load(model, "warm", self.download_s(model)):
            self._load()

    def _loaded(self, model: SimModel, source: Tier, took_s: float) -> None:
        now = self.world.now
        if source == "hot":
            self.cache.unpin(model.key, now)
        else:
            self.cache.loaded(model.key, model.size_bytes, took_s, True, now)
            self.cache.entries[model.key].loaded_from = source
        if model.has_lora:
            self._attached[model.key].add(model.name)
        self.loads["lora" if source == "hot" else source] += 1
        self.load_s += took_s
        self.loading = ""
        del self.wanted[model.name]
        self.world.noted_load(self, model, source)
        self._ready(model)
        self._load()
        self.changed()

    # Heartbeats -----------------------------------------------------------------------------------

    def changed(self) -> None:
        if not self._is_changed:
            self._is_changed = True
            self.world.after(CHANGE_S, self._tell_change)

    def _tell_change(self) -> None:
        self._is_changed = False
        self.world.policy.beat(self)

    def heartbeat(self) -> Heartbeat:
        self._seq += 1
        models: list[ResidentModel] = []
        for model in self.world.models.values():
            entry, tier = self.cache.entries.get(model.key), self.tier(model)
            if entry is not None:
                kept = (entry.memory_bytes, entry.load_s, entry.loaded_from, model.key)
                models.append(ResidentModel(model.name, "default", model.engine, tier, *kept))
            elif tier == "loading":
                models.append(ResidentModel(model.name, "default", model.engine, tier, weights=model.key))
        running = tuple(
            RunningJob(one.job, one.model, "default", one.assignment.attempt, one.assignment.term)
            for one in self.core.listed()
        )
        return Heartbeat(
            worker=self.name,
            started_at=1.0,
            seq=self._seq,
            spec=self.spec,
            profile=self.kind.profile,
            device="cuda",
            host="simulation",
            engines=ENGINES,
            memory_total_bytes=self.cache.memory_bytes,
            memory_used_bytes=self.cache.used_bytes,
            ram_total_bytes=self.cache.ram_bytes,
            models=tuple(models),
            running=running,
        )


@dataclass(frozen=True, slots=True)
class Hot:
    """A model became hot on a worker. at: virtual seconds since the beginning."""

    at: float
    worker: str
    model: str
    source: str


class World:
    """A plan, a policy, and time. `run` to the end."""

    def __init__(self, plan: Plan, policy: Policy) -> None:
        self.now = BEGAN_AT
        self.plan = plan
        self.policy = policy
        self.chance = random.Random(plan.seed)
        self.models = {model.name: model for model in plan.models}
        self.jobs = {job.id: job for job in plan.jobs}
        self.workers: dict[str, SimWorker] = {}
        self.left = len(plan.jobs)
        self.loaded: list[Hot] = []
        self._due: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0
        for kind in plan.scenario.workers:
            for _ in range(kind.count):
                self._add_worker(kind)
        policy.begin(self)
        for number, worker in enumerate(self.workers.values()):
            self.after(BEAT_S * number / len(self.workers), self._beat, worker)
        self._tick()
        for job in plan.jobs:
            job.at += BEGAN_AT
            self._count += 1
            heapq.heappush(self._due, (job.at, self._count, policy.arrived, (job,)))

    def _add_worker(self, kind: Workers) -> None:
        name = f"w{len(self.workers):03}"
        cache = ModelCache(int(kind.memory_gb * GB), int(kind.ram_gb * GB))
        worker = self.workers[name] = SimWorker(self, name, kind, cache, WorkerCore(ENGINES))
        for model in self.plan.models:
            if self.chance.random() < kind.on_disk:
                worker.cache.note(model.key, model.engine, "warm", model.size_bytes)

    def after(self, delay_s: float, action: Callable[..., None], *arguments: object) -> None:
        self._count += 1
        heapq.heappush(self._due, (self.now + delay_s, self._count, action, arguments))

    def run(self, advanced: Callable[[int], None] = lambda left: None, limit_s: float = 20_000.0) -> None:
        """Until every request has ended, or nothing more would happen. advanced: is told how many are
        left.
        """
        end, told = self.now + limit_s, self.left
        while self.left and self._due and self._due[0][0] < end:
            self.now, _, action, arguments = heapq.heappop(self._due)
            action(*arguments)
            if told - self.left >= 50 or not self.left:
                told = self.left
                advanced(told)

    def _beat(self, worker: SimWorker) -> None:
        self.policy.beat(worker)
        self.after(BEAT_S, self._beat, worker)

    def _tick(self) -> None:
        self.policy.tick()
        self.after(TICK_S, self._tick)

    def ended(self, job: SimJob) -> None:
        if job.ended_at != job.ended_at:  # not a number: it is the first time
            job.ended_at = self.now
            self.left -= 1

    def told_finished(self, worker: SimWorker, job: SimJob, finished: Finished) -> None:
        """The policy hears that a job has ended."""
        told = getattr(self.policy, "told", None)
        if told is not None:
            told(worker, finished)
        self.policy.finished(worker, job)

    def noted_load(self, worker: SimWorker, model: SimModel, source: str) -> None:
        self.loaded.append(Hot(self.now - BEGAN_AT, worker.name, model.name, source))
