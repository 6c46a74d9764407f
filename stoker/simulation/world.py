"""Virtual time: workers (worker.py), what is launched (launching.py), and a policy that decides.

A heartbeat goes out each second and soon after a change, and a message takes a millisecond.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from stoker.schemas.fleet import ModelReplicas, QueueDepth
from stoker.schemas.workers import Finished
from stoker.services.worker.jobs.core import WorkerCore
from stoker.services.worker.models.cache import ModelCache
from stoker.simulation.launching import Launching
from stoker.simulation.making import Plan, SimJob, SimModel
from stoker.simulation.scenario import ENGINES, GB, Workers
from stoker.simulation.worker import SimWorker

BEAT_S, TICK_S = 1.0, 0.1
BEGAN_AT = 1000.0


class Policy(Protocol):
    """Who decides. It is told of what happens, and gives jobs to workers."""

    def begin(self, world: "World") -> None: ...

    def arrived(self, job: SimJob) -> None: ...

    def finished(self, worker: SimWorker, job: SimJob) -> None: ...

    def beat(self, worker: SimWorker) -> None: ...

    def tick(self) -> None: ...


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
        self.gone: list[SimWorker] = []
        self.left = len(plan.jobs)
        self.launching: Launching | None = None
        self.loaded: list[Hot] = []
        self._due: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0
        for kind in plan.scenario.workers:
            for _ in range(kind.count):
                self._add_worker(kind)
        policy.begin(self)
        for number, worker in enumerate(self.workers.values()):
            self.after(BEAT_S * number / len(self.workers), self._beat, worker)
        if plan.scenario.specs:
            self.launching = Launching(self)
        self._tick()
        for job in plan.jobs:
            job.at += BEGAN_AT
            self._count += 1
            heapq.heappush(self._due, (job.at, self._count, policy.arrived, (job,)))

    def _add_worker(self, kind: Workers) -> None:
        name = f"w{len(self.workers):03}"
        worker = self.workers[name] = self.worker(name, kind)
        self._fill_disk(worker, self.plan.models)

    def worker(self, name: str, kind: Workers) -> SimWorker:
        """A worker that is not there yet."""
        cache = ModelCache(int(kind.memory_gb * GB), int(kind.ram_gb * GB))
        return SimWorker(self, name, kind, cache, WorkerCore(ENGINES), began_at=self.now)

    def _fill_disk(self, worker: SimWorker, models: list[SimModel]) -> None:
        for model in models:
            if self.chance.random() < worker.kind.on_disk:
                worker.cache.note(model.key, model.engine, "warm", model.size_bytes)

    def join(self, worker: SimWorker) -> None:
        """A worker that was launched is there, and loads its model."""
        model = self.models[worker.only]
        self._fill_disk(worker, [model])
        self.workers[worker.name] = worker
        self._beat(worker)
        worker.want(model)

    def leave(self, worker: SimWorker) -> None:
        """A worker ends."""
        worker.ended_at = self.now
        self.beat(worker)
        del self.workers[worker.name]
        self.gone.append(worker)

    def everyone(self) -> list[SimWorker]:
        """The workers that are there and those that were."""
        return [*self.workers.values(), *self.gone]

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

    def beat(self, worker: SimWorker) -> None:
        """A worker says how it is."""
        if self.workers.get(worker.name) is worker:
            self.policy.beat(worker)
            if self.launching is not None:
                self.launching.beat(worker)

    def _beat(self, worker: SimWorker) -> None:
        self.beat(worker)
        if self.workers.get(worker.name) is worker:
            self.after(BEAT_S, self._beat, worker)

    def _tick(self) -> None:
        self.policy.tick()
        if self.launching is not None:
            self.launching.tick()
        self.after(TICK_S, self._tick)

    def told_depth(self, depth: QueueDepth) -> None:
        """The scheduler says how long a queue is."""
        if self.launching is not None:
            self.launching.told_depth(depth)

    def told_replicas(self, replicas: ModelReplicas) -> None:
        """The autoscaler has written down what there is."""
        told = getattr(self.policy, "told_replicas", None)
        if told is not None:
            told(replicas)

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
        if self.launching is not None:
            self.launching.has_ended(worker)

    def noted_load(self, worker: SimWorker, model: SimModel, source: str) -> None:
        self.loaded.append(Hot(self.now - BEGAN_AT, worker.name, model.name, source))
