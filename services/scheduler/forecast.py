"""What the scheduler tells of the future: positions and etas of waiting jobs, depths of queues, impossibility.

Pure, like the core whose books it reads. `now` is in seconds since 1970.
"""

import math
from itertools import islice
from statistics import fmean

import msgspec

from stoker.schemas.fleet import JobView, ModelReplicas, Replica
from stoker.schemas.job_events import Downloading, Loading, Provisioning, Queued
from stoker.services.scheduler.jobs.queues import ModelQueue
from stoker.services.scheduler.jobs.record import Record as JobRecord
from stoker.services.scheduler.placing.calibration import Calibration
from stoker.services.scheduler.placing.dispatch import Dispatcher
from stoker.services.scheduler.placing.placement import why_never
from stoker.services.scheduler.placing.possibility import Possibility
from stoker.services.scheduler.placing.unserved import Unserved
from stoker.services.scheduler.protocol.commands import Command, Notify, PublishDepth
from stoker.services.scheduler.protocol.endings import GivenUp
from stoker.services.scheduler.protocol.events import PossibleNoted, ReplicasChanged

QUEUE_LIMIT = 10_000
"""Jobs of one model that may wait before the gateway answers 429."""
DEPTH_EVERY_S = 0.05
DEPTH_ANYWAY_S = 1.0
NOTIFY_EVERY_S = 1.0
NOTIFIED_AT_A_TIME = 400
DEPTHS_AT_A_TIME = 32
MAX_STREAMS = 32
"""Workers of one model that are looked at for an eta, and jobs of each."""
NOTIFIED_JOBS = 200
"""How many waiting jobs of a model are told their position every second."""
UNSIZED = frozenset({"Function", "Weights"})
"""Features of models whose jobs run code of users: their size cannot be told from what they are given."""


class Forecast:
    """Reads the dispatcher's books and fleet; its own state is when it published last."""

    def __init__(self, dispatcher: Dispatcher, now: float) -> None:
        self._dispatcher = dispatcher
        self._ledger = dispatcher.ledger
        self._fleet = dispatcher.fleet
        self.possibility = Possibility(dispatcher, now)
        self._began_at = now
        self._launched: dict[str, ModelReplicas] = {}
        self._calibration = Calibration()
        self._unserved = Unserved(dispatcher)

    def told(self, event: ReplicasChanged | PossibleNoted) -> None:
        """The autoscaler, or an earlier leader, has written something down."""
        match event:
            case ReplicasChanged():
                self.replicas_changed(event.model, event.replicas)
            case PossibleNoted():
                self.possibility.noted(event.name, event.model)

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

    def etas_s(self, model: str, position: int, now: float) -> tuple[float | None, float | None]:
        """Predicted seconds until the job at this position starts, and within which nine of ten do; None
        where nothing is known of it.
        """
        planned_s = self._start_s(model, position, now)
        if planned_s is None:
            return None, None
        half, most = self._calibration.expected(planned_s)
        return round(half, 3), round(most, 3)

    def view(self, job: str, now: float) -> JobView | None:
        """A live job, with position and etas while it waits, or one of the last that ended."""
        view = self._ledger.view(job)
        if view is None or view.position is None:
            return view
        eta_s, eta_p90_s = self.etas_s(view.model, view.position, now)
        waiting_for = self.waiting_for(view.model)
        return msgspec.structs.replace(view, eta_s=eta_s, eta_p90_s=eta_p90_s, waiting_for=waiting_for)

    def began(self, record: JobRecord, at: float) -> None:
        """A job has ended that began to run then: what it was told when it came, can be judged."""
        if record.told is not None:
            predicted_s, told_at = record.told
            self._calibration.note(predicted_s, at - told_at)

    def _start_s(self, model: str, position: int, now: float) -> float | None:
        """As the plan has it: each worker that the model is planned on gives out its jobs one after
        another.
        """
        streams = sorted(self._streams(model, now))
        if not streams:
            return self._start_eta_s(model, now)
        wanted, started, rate, at = position + 1, 0.0, 0.0, 0.0
        for begins_s, jobs_per_s in streams:
            until = started + rate * (begins_s - at)
            if until >= wanted:
                break
            started, at, rate = until + 1.0, begins_s, rate + jobs_per_s
            if started >= wanted:
                return at
        return at + (wanted - started) / rate if rate else at

    def _streams(self, model: str, now: float) -> list[tuple[float, float]]:
        """For each worker that will run the model: when it begins, seconds from now, and its jobs a
        second.
        """
        predictor, plan = self._dispatcher.predictor, self._dispatcher.plan
        found: list[tuple[float, float]] = []
        for lot in islice(plan.of(model).values(), MAX_STREAMS):
            worker = self._fleet.workers.get(lot.worker)
            if worker is None:
                continue
            slots = max(worker.slots(lot.spec), 1)
            lane_s = predictor.held_s(worker, lot.lane, now) / slots
            is_hot = worker.tier(model, lot.spec.name) == "hot"
            ready_s = 0.0 if is_hot else predictor.load_s(worker, model, lot.spec, now)
            ready_s += 0.0 if is_hot or worker.is_loading else predictor.owed_s(worker, model, now)
            share = lot.jobs / max(worker.planned.get(lot.lane, 0), lot.jobs)
            run_s = max(predictor.mean_run_s(model, lot.spec.name), 1e-3)
            found.append((max(lane_s, ready_s), share * slots / run_s))
        if not found:
            for worker in islice(self._fleet.replicas(model), MAX_STREAMS):
                slots = max(worker.engine_slots(worker.replica_engine(model) or ""), 1)
                held = worker.busy.get(model, 0)
                some = (one.run_s for one in worker.held.values() if one.model == model) if held else ()
                run_s = fmean(islice(some, MAX_STREAMS)) if held else 0.0
                found.append((run_s / slots if held >= slots else 0.0, slots / max(run_s, 1e-9)))
        return found

    def position(self, record: JobRecord, place: int, now: float) -> list[Command]:
        """What a waiting job's watchers are told."""
        model = record.job.model
        planned_s = self._start_s(model, place, now)
        if planned_s is not None and record.told is None:
            record.told = (planned_s, now)
        eta_s, eta_p90_s = self.etas_s(model, place, now)
        queued: list[Command] = [Notify(record.job, Queued(position=place, eta_s=eta_s, eta_p90_s=eta_p90_s))]
        if not len(self._fleet.replicas(model)) and self._is_provisioned(model):
            queued.append(Notify(record.job, self._provisioning(model, eta_s)))
        return queued

    def _provisioning(self, model: str, eta_s: float | None) -> Provisioning:
        """What has to come up before a job of the model can start."""
        launched = self._launched.get(model)
        specs = {spec.spec: spec for spec in (launched.specs if launched is not None else ())}
        starting = [
            one for one in (launched.replicas if launched is not None else ())
            if one.phase in ("launching", "starting")
        ]  # fmt: skip
        if not starting:
            down = [f"{one.spec}: {one.condition.reason}" for one in specs.values() if one.condition]
            return Provisioning(
                f"no replica is ready ({'; '.join(down)})" if down else "no replica is ready", eta_s
            )

        def ready_at(replica: Replica) -> float:
            known = specs.get(replica.spec)
            return replica.launched_at + (math.inf if known is None else known.start_s or math.inf)

        first = min(starting, key=ready_at)
        names = ", ".join(sorted({one.spec for one in starting}))
        known = specs.get(first.spec)
        return Provisioning(
            f"no replica is ready; starting: {names}",
            eta_s,
            first.spec,
            first.launched_at,
            known.start_s if known is not None else None,
            known.slow_start_s if known is not None else None,
        )

    def waiting_for(self, model: str) -> str:
        """What has to come up before a job of the model can start; "" where something serves it."""
        if self._is_provisioned(model):
            return "" if len(self._fleet.replicas(model)) else self._provisioning(model, None).reason
        if (found := self.possibility.impossible.get(model)) is not None:
            return f"a worker that can run it ({found[1]})"
        return "" if self._fleet.workers else "a worker"

    def positions(self, queues: list[ModelQueue], now: float) -> list[Command]:
        """Tell those who wait where they stand, once in `NOTIFY_EVERY_S`; some queues at a time."""
        commands: list[Command] = []
        looked_at = 0
        for queue in queues:
            if now - max(queue.notified_at, self._began_at) < NOTIFY_EVERY_S:
                continue
            queue.notified_at = now
            loading = self._loading(queue.name)
            for place, job in enumerate(queue.waiting.first(NOTIFIED_JOBS)):
                record = self._ledger.records[job]
                looked_at += 1
                if record.job.wants_events:
                    commands += self.position(record, place, now)
                    commands += [Notify(record.job, event) for event in loading]
            if looked_at >= NOTIFIED_AT_A_TIME:
                break
        return commands

    def _loading(self, model: str) -> list[Downloading | Loading]:
        """How far the load is that jobs of a model wait for."""
        for name in self._dispatcher.plan.of(model):
            worker = self._fleet.workers.get(name)
            order = worker.ordered.get(model) if worker is not None else None
            if worker is None or order is None:
                continue
            resident = worker.residents.get(model)
            percent = resident.percent if resident is not None else None
            return [Downloading(percent=percent) if percent is not None else Loading(tier=order.tier)]
        return []

    def hopeless(self, now: float) -> list[tuple[JobRecord, str]]:
        """Waiting jobs that no worker can ever run, and why. O(models)."""
        for name in self.possibility.look(now):
            self._ledger.queue(name).is_changed = True
        found: list[tuple[JobRecord, str]] = []
        for name in self.possibility.impossible:
            if reason := self.possibility.why(name, now):
                found += [(record, reason) for record in self._ledger.waiting(name)]
        first: dict[str, tuple[JobRecord, str]] = {}
        for one in (*found, *self._without_model(), *self._hopeless_sets(now)):
            first.setdefault(one[0].id, one)
        return list(first.values())

    def _without_model(self) -> list[tuple[JobRecord, str]]:
        """Those that came back into the queue after their model, or its adapter, had left the catalog."""
        found: list[tuple[JobRecord, str]] = []
        for queue in self._ledger.waiting_queues():
            model = self._dispatcher.models.get(queue.name)
            waiting = self._ledger.waiting(queue.name) if model is None else self._particular(queue)
            reasons = [(record, why_never(record.job, model)) for record in waiting]
            found += [one for one in reasons if one[1] and (model is None or one[0].job.spec is None)]
        return found

    def _particular(self, queue: ModelQueue) -> list[JobRecord]:
        return [self._ledger.records[job] for job in queue.particular]

    def unserved(self, now: float) -> list[GivenUp]:
        """Jobs whose clients do not wait longer for a model that nothing serves at this instant."""
        return self._unserved.look(self._launched, self.possibility.impossible, now)

    def _hopeless_sets(self, now: float) -> list[tuple[JobRecord, str]]:
        """Those that need several models which no worker can hold together any more."""
        reasons: dict[tuple[str, ...], str] = {}
        found: list[tuple[JobRecord, str]] = []
        for queue in self._ledger.waiting_queues():
            for record in self._particular(queue):
                if record.models and record.models not in reasons:
                    reasons[record.models] = self.possibility.why_never_together(record.models, now)
                if record.models and reasons[record.models]:
                    found.append((record, reasons[record.models]))
        return found

    def depths(self, now: float) -> list[Command]:
        """The queues that have changed, and each one once in `DEPTH_ANYWAY_S`; of these some at a time."""
        commands: list[Command] = []
        anyway = 0
        for name in dict.fromkeys((*self._dispatcher.models, *self._ledger.queues)):
            queue = self._ledger.queue(name)
            age = now - queue.published_at
            is_due = age >= DEPTH_ANYWAY_S and (anyway := anyway + 1) <= DEPTHS_AT_A_TIME
            if is_due or (queue.is_changed and age >= DEPTH_EVERY_S):
                queue.settle_rate(now)
                queue.is_changed, queue.published_at = False, now
                eta_s, eta_p90_s = self.etas_s(name, len(queue.waiting), now)
                depth = msgspec.structs.replace(
                    self._ledger.depth(queue, now, QUEUE_LIMIT),
                    eta_s=eta_s,
                    eta_p90_s=eta_p90_s,
                    best_s=self._best_s(name),
                    impossible=self.possibility.why(name, now),
                    work_s=round(queue.waiting.seconds / self._slots(name), 3),
                )
                commands.append(PublishDepth(depth))
        return commands

    def _slots(self, name: str) -> int:
        """Jobs of a model at a time on one worker, of one that has it or is meant to."""
        plan, fleet = self._dispatcher.plan, self._fleet
        for lot in plan.of(name).values():
            if (worker := fleet.workers.get(lot.worker)) is not None:
                return max(worker.slots(lot.spec), 1)
        for worker in fleet.replicas(name):
            return max(worker.engine_slots(worker.replica_engine(name) or ""), 1)
        return 1

    def _best_s(self, name: str) -> float | None:
        """The shortest run to be expected of a job of size 1, for deadlines that cannot be met."""
        model = self._dispatcher.models.get(name)
        if model is None:
            return None
        estimates = self._dispatcher.estimates
        is_sized = not UNSIZED.intersection(model.features)
        runs_s = (estimates.least_s(name, spec.name, is_sized=is_sized) for spec in model.specs)
        return min(runs_s, default=None)
