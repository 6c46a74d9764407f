"""What the leading scheduler writes down for the time axis of the last day (stream STOKER_HISTORY).

Every second the jobs that ended, in one message; every ten a sample of queues and busy workers. What workers
have loaded and let go is told as events, as their heartbeats say it. Jobs that did not complete are kept as
they were accepted, so that they can be run again. All of it is published without waiting: who only looks on
must not delay a job.
"""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass

from stoker.schemas import wire
from stoker.schemas.fleet import EventKind, JobView, PlatformEvent
from stoker.schemas.history import EndedJob, EndedJobs, ModelSample, Sample
from stoker.schemas.jobs import Job
from stoker.schemas.workers import Finished, Heartbeat, ResidentModel, Tier
from stoker.services.bus.connection import Bus
from stoker.services.scheduler.core import Scheduler

JOBS_EVERY_S = 1.0
LOOKS_PER_SAMPLE = 10
MAX_JOBS_PER_MESSAGE = 1000
"""At about 250 bytes each."""
MAX_BUSY = 2000
"""Workers that a sample names."""
MAX_RETRY_BYTES = 256 * 1024
"""A larger job is not kept: its client has it."""
KEPT_TIMINGS = 10_000
KEPT_LOADS_S = 3600.0
NO_TIMINGS = Finished(job="", model="", attempt=0, outcome="completed")
WHERE: dict[Tier, str] = {
    "cold": "from the network", "warm": "from disk", "parked": "from RAM", "base": "its LoRAs only",
    "hot": "anew", "loading": "from disk",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoadSpan:
    """From when to when a worker loaded a model, seconds since 1970; fetch_s: how long it was fetched first."""

    began: float
    ended: float
    fetch_s: float


class Sampler:
    """Of one term. `run` it; tell it of heartbeats and of ended attempts."""

    def __init__(self, bus: Bus, core: Scheduler) -> None:
        self._bus = bus
        self._core = core
        self._hot: dict[str, dict[str, ResidentModel]] = {}
        self._seen: dict[str, tuple[ResidentModel, ...]] = {}
        self._loading: dict[tuple[str, str], float] = {}
        self._loads: dict[tuple[str, str], LoadSpan] = {}
        self._timings: OrderedDict[str, Finished] = OrderedDict()
        self._ended: dict[str, list[JobView]] = {}
        self._busy: dict[str, float] = {}

    def finished(self, finished: Finished) -> None:
        """An attempt has ended: how long it loaded and ran."""
        if finished.outcome == "lost":
            return
        self._timings[finished.job] = finished
        if len(self._timings) > KEPT_TIMINGS:
            self._timings.popitem(last=False)

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Tell what a worker has loaded and let go since its last heartbeat."""
        if heartbeat.is_leaving:
            self._hot.pop(heartbeat.worker, None)
            self._seen.pop(heartbeat.worker, None)
            return
        if self._seen.get(heartbeat.worker) is heartbeat.models:  # the same ones, where nothing has changed
            return
        self._seen[heartbeat.worker] = heartbeat.models
        now = time.time()
        for one in heartbeat.models:
            if one.tier == "loading":
                self._loading.setdefault((heartbeat.worker, one.model), now)
        hot = {one.model: one for one in heartbeat.models if one.tier == "hot"}
        before = self._hot.get(heartbeat.worker)
        self._hot[heartbeat.worker] = hot
        if before is None or before.keys() == hot.keys():
            return  # what a worker had when this term began is nothing new
        tiers = {one.model: one.tier for one in heartbeat.models}
        new = hot.keys() - before.keys()
        for model in new:
            self._loaded(heartbeat.worker, hot[model], now)
            self._tell("loaded", heartbeat.worker, model, _why_loaded(hot[model]))
        for model in before.keys() - hot.keys():
            wanted = [name for name, tier in tiers.items() if tier == "loading" or name in new]
            self._tell("evicted", heartbeat.worker, model, _why_evicted(tiers.get(model, "warm"), wanted))

    def _loaded(self, worker: str, resident: ResidentModel, now: float) -> None:
        """Note from when to when a model was loaded: jobs waited in its queue meanwhile."""
        began = self._loading.pop((worker, resident.model), now - (resident.load_s or 0.0))
        fetch_s = resident.fetch_s if resident.loaded_from == "cold" else 0.0
        self._loads[worker, resident.model] = LoadSpan(began, now, fetch_s)

    def _tell(self, kind: EventKind, worker: str, model: str, reason: str) -> None:
        event = PlatformEvent(kind, model, time.time(), reason, model, worker)
        self._bus.post(self._bus.subjects.event(kind, model), wire.encode(event), is_urgent=False)

    async def run(self) -> None:
        """Write down what happened, until cancelled."""
        while True:
            for _ in range(LOOKS_PER_SAMPLE):
                await asyncio.sleep(JOBS_EVERY_S)
                self.look(time.time())
            self.sample(time.time())

    def look(self, now: float) -> None:
        """Note the jobs that have ended, and which workers are busy."""
        ended, left_out = self._core.ledger.history.take_new()
        for view, job in ended:
            self._ended.setdefault(view.model, []).append(view)
            self._keep_for_retry(view, job)
        noted = [self._noted(view) for view, _ in ended]
        for start in range(0, len(noted), MAX_JOBS_PER_MESSAGE):
            page = EndedJobs(
                now, tuple(noted[start : start + MAX_JOBS_PER_MESSAGE]), left_out if not start else 0
            )
            self._bus.tell(self._bus.subjects.history("jobs"), page, is_urgent=False)
        for worker in self._core.fleet.workers.values():
            if worker.held:
                self._busy[worker.id] = self._busy.get(worker.id, 0.0) + len(worker.held) / LOOKS_PER_SAMPLE

    def sample(self, now: float) -> None:
        """Note the queues, and what has happened since the last sample."""
        queues = self._core.ledger.queues
        models: dict[str, ModelSample] = {}
        for name in queues.keys() | self._ended.keys():
            queue, ended = queues.get(name), self._ended.get(name, [])
            queued, running = (len(queue.waiting), queue.running) if queue is not None else (0, 0)
            if queued or running or ended:
                failed = sum(view.status in ("failed", "expired") for view in ended)
                models[name] = ModelSample(queued, running, len(ended), failed, _p95_s(ended))
        busiest = sorted(self._busy.items(), key=lambda item: -item[1])[:MAX_BUSY]
        busy = {worker: round(jobs, 2) for worker, jobs in busiest}
        self._ended, self._busy = {}, {}
        workers = self._core.fleet.workers
        self._hot = {name: hot for name, hot in self._hot.items() if name in workers}
        self._loading = {key: since for key, since in self._loading.items() if key[0] in workers}
        self._loads = {key: load for key, load in self._loads.items() if now - load.ended < KEPT_LOADS_S}
        found = Sample(now, models, busy, len(self._core.fleet.workers))
        self._bus.tell(self._bus.subjects.history("samples"), found, is_urgent=False)

    def _noted(self, view: JobView) -> EndedJob:
        timings = self._timings.pop(view.id, NO_TIMINGS)
        queued_s = view.queued_s if view.attempt else max(view.finished_at - view.created_at, 0.0)
        while_loading_s, fetching_s = self._waited_for_load(view)
        return EndedJob(
            id=view.id,
            model=view.model,
            status=view.status,
            created_at=view.created_at,
            finished_at=view.finished_at,
            worker=view.worker,
            spec=view.spec,
            attempt=view.attempt,
            tenant=view.tenant,
            queued_s=round(max(queued_s - while_loading_s, 0.0), 4),
            fetch_s=round(timings.fetch_s + fetching_s, 4),
            load_s=round(timings.load_s + while_loading_s, 4),
            run_s=timings.run_s,
        )

    def _waited_for_load(self, view: JobView) -> tuple[float, float]:
        """Seconds of a job's time in the queue in which its worker loaded its model, and fetched it."""
        load = self._loads.get((view.worker, view.model))
        if load is None:
            return 0.0, 0.0
        placed_at = view.created_at + view.queued_s
        waited_s = max(min(load.ended, placed_at) - max(load.began, view.created_at), 0.0)
        fetched_at = load.began + load.fetch_s
        return waited_s, max(min(fetched_at, placed_at) - max(load.began, view.created_at), 0.0)

    def _keep_for_retry(self, view: JobView, job: Job) -> None:
        """Calls of calls are repeated by their parents alone."""
        if view.status == "completed" or job.parent:
            return
        content = wire.encode(job)
        if len(content) <= MAX_RETRY_BYTES:
            self._bus.post(self._bus.subjects.retry(job.id), content, is_urgent=False)


def _why_loaded(resident: ResidentModel) -> str:
    took = f" in {resident.load_s:.2f} s" if resident.load_s is not None else ""
    return f"loaded{took}, {WHERE[resident.loaded_from]}"


def _why_evicted(tier: Tier, wanted: list[str]) -> str:
    where = {"parked": "parked in RAM", "loading": "loaded again"}.get(tier, "on disk only now")
    return f"{where}; its room was wanted for {', '.join(sorted(wanted)[:3])}" if wanted else where


def _p95_s(ended: list[JobView]) -> float:
    times = sorted(view.finished_at - view.created_at for view in ended if view.status == "completed")
    return round(max(times[min(int(len(times) * 0.95), len(times) - 1)], 0.0), 3) if times else 0.0
