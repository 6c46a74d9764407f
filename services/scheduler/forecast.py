"""What the scheduler tells of the future: positions and etas of waiting jobs, depths of queues, impossibility.

Pure, like the core whose books it reads. `now` is in seconds since 1970.
"""

import msgspec

from schemas.fleet import ModelReplicas
from schemas.job_events import Provisioning, Queued
from services.scheduler.jobs.queues import ModelQueue
from services.scheduler.jobs.record import Record as JobRecord
from services.scheduler.placing.dispatch import Dispatcher
from services.scheduler.placing.placement import why_impossible
from services.scheduler.protocol.commands import Command, Notify, PublishDepth

QUEUE_LIMIT = 10_000
"""Jobs of one model that may wait before the gateway answers 429."""
DEPTH_EVERY_S = 0.05
DEPTH_ANYWAY_S = 1.0
NOTIFY_EVERY_S = 1.0
NOTIFIED_JOBS = 200
"""How many waiting jobs of a model are told their position every second."""
IMPOSSIBLE_GRACE_S = 10.0
"""How long a model that was possible must have been impossible before its jobs are refused: workers restart."""


class Forecast:
    """Reads the dispatcher's books and fleet; its own state is when it published last."""

    def __init__(self, dispatcher: Dispatcher, now: float) -> None:
        self._dispatcher = dispatcher
        self._ledger = dispatcher.ledger
        self._fleet = dispatcher.fleet
        self._impossible: dict[str, tuple[float, str]] = {}
        """Models that no worker can run: since when, and why."""
        self._was_possible: set[str] = set()
        self._starting_since: float | None = None
        """Since when there is a worker that has not told its engines: its runner is starting."""
        self._notified_at = now
        self._launched: dict[str, ModelReplicas] = {}

    def replicas_changed(self, model: str, replicas: ModelReplicas | None) -> None:
        """The autoscaler has recorded something new."""
        if replicas is not None:
            self._launched[model] = replicas
        else:
            self._launched.pop(model, None)

    def _start_eta_s(self, model: str, now: float) -> float | None:
        """Seconds until a replica that is being launched is ready, from measured starts; None if unknown."""
        launched = self._launched.get(model)
        if launched is None:
            return None
        start_s = {spec.spec: spec.start_s for spec in launched.specs if spec.start_s is not None}
        under_way = [
            max(replica.launched_at + start_s[replica.spec] - now, 0.0)
            for replica in launched.replicas
            if replica.phase in ("launching", "starting") and replica.spec in start_s
        ]
        seconds = under_way or list(start_s.values())
        return round(min(seconds), 3) if seconds else None

    def _is_provisioned(self, model: str) -> bool:
        """Whether somebody launches replicas for the model when it needs some."""
        found = self._dispatcher.models.get(model)
        return found is not None and any(spec.launcher for spec in found.specs)

    def eta_s(self, model: str, position: int, now: float) -> float | None:
        """Predicted seconds until the job at this position starts; None where nothing is known of it."""
        replicas = list(self._fleet.replicas(model).by_load())
        if not replicas:
            return self._start_eta_s(model, now)
        held = [held for worker in replicas for held in worker.held.values() if held.model == model]
        mean_run_s = sum(one.run_s for one in held) / len(held) if held else 0.0
        slots = sum(
            capability.slots
            for worker in replicas
            if (capability := worker.capability(worker.replica_engine(model) or "")) is not None
        )
        return round((position + 1) * mean_run_s / max(slots, 1), 3)

    def position(self, record: JobRecord, place: int, now: float) -> list[Command]:
        """What a waiting job's watchers are told."""
        model = record.job.model
        eta_s = self.eta_s(model, place, now)
        queued: list[Command] = [Notify(record.job, Queued(position=place, eta_s=eta_s))]
        if not len(self._fleet.replicas(model)) and self._is_provisioned(model):
            queued.append(Notify(record.job, Provisioning(reason=self._why_waiting(model), eta_s=eta_s)))
        return queued

    def _why_waiting(self, model: str) -> str:
        launched = self._launched.get(model)
        replicas = launched.replicas if launched is not None else ()
        starting = sorted({one.spec for one in replicas if one.phase in ("launching", "starting")})
        if starting:
            return f"no replica is ready; starting: {', '.join(starting)}"
        conditions = [spec for spec in (launched.specs if launched is not None else ()) if spec.condition]
        last = "; ".join(f"{spec.spec}: {spec.condition.reason}" for spec in conditions if spec.condition)
        return f"no replica is ready ({last})" if last else "no replica is ready"

    def positions(self, queues: list[ModelQueue], now: float) -> list[Command]:
        """Tell those who wait where they stand, once in `NOTIFY_EVERY_S`."""
        if now - self._notified_at < NOTIFY_EVERY_S:
            return []
        self._notified_at = now
        return [
            command
            for queue in queues
            for place, job in enumerate(queue.waiting.first(NOTIFIED_JOBS))
            if (record := self._ledger.records[job]).job.wants_events
            for command in self.position(record, place, now)
        ]

    def hopeless(self, now: float) -> list[tuple[JobRecord, str]]:
        """Waiting jobs that no worker can ever run, and why."""
        workers = self._fleet.workers.values()
        self._note_starting(now)
        found: list[tuple[JobRecord, str]] = []
        for name, model in self._dispatcher.models.items():
            reason = why_impossible(workers, model) if workers else ""
            before = self._why_impossible(name, now)
            if reason:
                since, _ = self._impossible.get(name, (now, ""))
                self._impossible[name] = (since, reason)
            else:
                self._impossible.pop(name, None)
                if workers:
                    self._was_possible.add(name)
            reason = self._why_impossible(name, now)
            if reason != before:
                self._ledger.queue(name).is_changed = True
            if reason:
                found += [(record, reason) for record in self._ledger.waiting(name)]
        return found

    def _note_starting(self, now: float) -> None:
        if all(worker.engines for worker in self._fleet.workers.values()):
            self._starting_since = None
        elif self._starting_since is None:
            self._starting_since = now

    def _why_impossible(self, name: str, now: float) -> str:
        """Why jobs of a model are refused; "" while they may wait.

        They may while a worker starts that could have the engine, and where it was possible a moment ago; both
        for `IMPOSSIBLE_GRACE_S` at most.
        """
        since, reason = self._impossible.get(name, (now, ""))
        if self._starting_since is not None and now - self._starting_since <= IMPOSSIBLE_GRACE_S:
            return ""
        is_certain = name not in self._was_possible or now - since > IMPOSSIBLE_GRACE_S
        return reason if is_certain else ""

    def forget(self, name: str) -> None:
        """A model is gone from the catalog."""
        self._impossible.pop(name, None)
        self._was_possible.discard(name)

    def depths(self, now: float) -> list[Command]:
        """The queues that have changed, and each one once in `DEPTH_ANYWAY_S`."""
        commands: list[Command] = []
        for name in dict.fromkeys((*self._dispatcher.models, *self._ledger.queues)):
            queue = self._ledger.queue(name)
            queue.settle_rate(now)
            age = now - queue.published_at
            if age >= DEPTH_ANYWAY_S or (queue.is_changed and age >= DEPTH_EVERY_S):
                queue.is_changed, queue.published_at = False, now
                depth = msgspec.structs.replace(
                    self._ledger.depth(queue, now, QUEUE_LIMIT),
                    eta_s=self.eta_s(name, len(queue.waiting), now),
                    best_s=self._best_s(name),
                    impossible=self._why_impossible(name, now),
                )
                commands.append(PublishDepth(depth))
        return commands

    def _best_s(self, name: str) -> float | None:
        """The shortest predicted run of a typical job, for deadlines that cannot be met."""
        model = self._dispatcher.models.get(name)
        if model is None:
            return None
        estimates = self._dispatcher.estimates
        return min((estimates.run_s(name, spec.name, 1.0) for spec in model.specs), default=None)
