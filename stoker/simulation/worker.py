"""A worker in virtual time: the production worker core and model cache, with loads and runs that take as long
as the scenario says.

A worker loads one model after another. Weights come from where the cache has them (RAM, disk, or the
network onto the disk first), and room is made when they are here; LoRAs are laid on hot weights. A lane
runs as many jobs as its engine has slots.
"""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stoker.schemas.catalog import DEFAULT_SPEC
from stoker.schemas.workers import Assignment, Finished, Heartbeat, ResidentModel, RunningJob, Tier
from stoker.services.worker.agent import GATHER_S
from stoker.services.worker.jobs.core import WorkerCore
from stoker.services.worker.models.cache import ModelCache, NoRoomNow
from stoker.simulation.making import SimJob, SimModel
from stoker.simulation.scenario import ENGINES, GB, Workers

if TYPE_CHECKING:
    from stoker.simulation.world import World

MESSAGE_S, CHANGE_S = 0.001, 0.02
FIXED_S = {"parked": 0.1, "warm": 0.6, "cold": 1.0}
"""What a load costs however small the weights are."""
LORA_S = 0.4


@dataclass
class SimWorker:
    """One worker. wanted: models to be loaded, in order, and what may be evicted first for each.

    only, spec: where it was launched for one spec of a model. ended_at: infinite while it is there.
    """

    world: "World"
    name: str
    kind: Workers
    cache: ModelCache
    core: WorkerCore
    only: str = ""
    spec: str = DEFAULT_SPEC
    speed: float = 1.0
    began_at: float = 0.0
    ended_at: float = math.inf
    is_draining: bool = False
    wanted: dict[str, frozenset[str]] = field(default_factory=dict)
    loading: str = ""
    loads: Counter[str] = field(default_factory=Counter)
    busy_s: float = 0.0
    load_s: float = 0.0
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
        if model.batch > 1:
            self.world.after(GATHER_S, self._start, self.lane(model))
        else:
            self._start(self.lane(model))

    def _start(self, lane: str) -> None:
        while batch := self.core.next_to_run(lane):
            jobs = [self.world.jobs[attempt.job] for attempt in batch]
            model = jobs[0].model
            run_s = max(job.run_s for job in jobs) / self.speed * (1 + model.batch_cost * (len(jobs) - 1))
            self.busy_s += run_s / model.slots
            for attempt, job in zip(batch, jobs, strict=True):
                job.started_at, job.worker = self.world.now, self.name
                self.world.after(run_s, self._ran, attempt.key, job, run_s)

    def _ran(self, key: str, job: SimJob, run_s: float) -> None:
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
            run_s=run_s,
            units=float(job.units),
            batch=attempt.batch,
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
        self.world.beat(self)

    def heartbeat(self) -> Heartbeat:
        self._seq += 1
        models: list[ResidentModel] = []
        for model in [self.world.models[self.only]] if self.only else self.world.models.values():
            entry, tier = self.cache.entries.get(model.key), self.tier(model)
            if entry is not None:
                kept = (entry.memory_bytes, entry.load_s, entry.loaded_from, model.key)
                models.append(ResidentModel(model.name, self.spec, model.engine, tier, *kept))
            elif tier == "loading":
                loading = ResidentModel(model.name, self.spec, model.engine, tier, weights=model.key)
                models.append(loading)
        running = tuple(
            RunningJob(one.job, one.model, self.spec, one.assignment.attempt, one.assignment.term)
            for one in self.core.listed()
        )
        return Heartbeat(
            worker=self.name,
            started_at=max(self.began_at, 1.0),
            seq=self._seq,
            spec=f"{self.only}/{self.spec}" if self.only else "",
            profile=self.kind.profile,
            device="cuda",
            host="simulation",
            engines=ENGINES,
            memory_total_bytes=self.cache.memory_bytes,
            memory_used_bytes=self.cache.used_bytes,
            ram_total_bytes=self.cache.ram_bytes,
            models=tuple(models),
            running=running,
            is_draining=self.is_draining,
            is_leaving=self.ended_at < math.inf,
        )
