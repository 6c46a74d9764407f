"""Which waiting jobs are meant for which worker. Pure bookkeeping: where they go is decided in placement.py.

Jobs of one model that wait are alike to whoever runs them, so the plan counts them: a `Lot` is a number
of jobs of one model that are meant for one worker. Which of them that will be is decided when a slot is
free: the next of the model's queue. So a lot can be moved, and another worker can take its job, without
anything being undone.

Lots are compared with the queue (a level, not an edge): `missing` says how many jobs have no lot yet,
and `trim` takes away what is too many, whatever happened to the jobs meanwhile.

A worker that has to make room for a model *closes* others: of these the jobs that were meant for it then have
their turn, and no more.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stoker.schemas.catalog import Spec
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.placing.option import Option


@dataclass(slots=True)
class Lot:
    """Jobs of one model that are meant for one worker. lane: the one that they will run in there.

    why: the worker and those that it was preferred to, when the last job was added.
    """

    worker: str
    model: str
    spec: Spec
    lane: str
    jobs: int = 0
    why: list[Option] = field(default_factory=list)


@dataclass(slots=True)
class Intent:
    """What is planned on one worker. closing: by model, jobs that still have their turn before it makes room.

    room_for: the model for which room is made. owed: when the loads that the lots need were added up, and their
    seconds; None where lots have come or gone since.
    """

    lots: dict[str, Lot] = field(default_factory=dict)
    closing: dict[str, int] = field(default_factory=dict)
    room_for: str = ""
    moved_at: float = 0.0
    owed: tuple[float, float] | None = None


class Plan:
    """All lots, by worker and by model."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._intents: dict[str, Intent] = {}
        self._by_model: dict[str, dict[str, Lot]] = {}
        self._planned: dict[str, int] = {}

    def on(self, worker: str) -> Intent:
        """What is planned on a worker."""
        found = self._intents.get(worker)
        if found is None:
            found = self._intents[worker] = Intent()
        return found

    def of(self, model: str) -> dict[str, Lot]:
        """The lots of a model, by worker; to be read only."""
        return self._by_model.get(model, {})

    def planned(self, model: str) -> int:
        """Jobs of a model that are meant for some worker."""
        return self._planned.get(model, 0)

    def workers(self) -> Iterator[str]:
        """Those on which something is planned."""
        return (name for name, intent in self._intents.items() if intent.lots)

    def put(self, worker: Worker, model: str, spec: Spec, jobs: int) -> Lot:
        """So many more jobs are meant for a worker."""
        intent = self.on(worker.id)
        lot = intent.lots.get(model)
        if lot is None:
            intent.owed = None
            lot = intent.lots[model] = Lot(worker.id, model, spec, worker.lane(model, spec.engine))
            self._by_model.setdefault(model, {})[worker.id] = lot
        self._add(lot, jobs)
        return lot

    def _add(self, lot: Lot, jobs: int) -> None:
        lot.jobs += jobs
        self._planned[lot.model] = self._planned.get(lot.model, 0) + jobs
        worker = self._fleet.workers.get(lot.worker)
        if worker is not None:
            self._fleet.plan(worker, lot.model, lot.lane, jobs)

    def take(self, lot: Lot, jobs: int = 1) -> None:
        """So many jobs of a lot are given out, or meant for somebody else now."""
        jobs = min(jobs, lot.jobs)
        self._add(lot, -jobs)
        if lot.jobs:
            return
        intent = self._intents[lot.worker]
        intent.owed = None
        del intent.lots[lot.model]
        del self._by_model[lot.model][lot.worker]
        if not self._by_model[lot.model]:
            del self._by_model[lot.model], self._planned[lot.model]
        if lot.model == intent.room_for:
            self.reopen(lot.worker)

    def given_out(self, model: str, worker: str) -> list[Option]:
        """A job of the model goes to this worker: out of its own lot, else out of the largest.

        Returns the options among which the worker was chosen for its lot; none where it has no lot.
        """
        lots = self._by_model.get(model)
        if not lots:
            return []
        own = lots.get(worker)
        self.take(own if own is not None else self.largest(model))
        closing = self.on(worker).closing
        if closing.get(model, 0) > 0:
            closing[model] -= 1
        return own.why if own is not None else []

    def largest(self, model: str) -> Lot:
        """The lot of a model on the worker that has the most to do."""
        return max(self._by_model[model].values(), key=lambda lot: (self._burden(lot), lot.worker))

    def _burden(self, lot: Lot) -> int:
        worker = self._fleet.workers.get(lot.worker)
        return worker.lane_burden(lot.lane) if worker is not None else lot.jobs

    def trim(self, model: str, waiting: int) -> None:
        """No more jobs may be planned than wait."""
        while (surplus := self.planned(model) - waiting) > 0:
            self.take(self.largest(model), surplus)

    def missing(self, model: str, waiting: int) -> int:
        """How many of the waiting jobs are not meant for anybody yet."""
        return max(waiting - self.planned(model), 0)

    def close(self, worker: str, models: Iterable[str], room_for: str) -> None:
        """Make room on a worker: these models have their turn, and no more."""
        intent = self.on(worker)
        intent.room_for = room_for
        intent.closing = {one: lot.jobs if (lot := intent.lots.get(one)) is not None else 0 for one in models}

    def reopen(self, worker: str) -> None:
        """No room is to be made any more, or it is made."""
        intent = self._intents.get(worker)
        if intent is not None:
            intent.closing, intent.room_for = {}, ""

    def has_turn(self, worker: str, model: str) -> bool:
        """Whether jobs of a model may still go to a worker, or it makes room there."""
        intent = self._intents.get(worker)
        return intent is None or intent.closing.get(model, 1) > 0

    def drop_worker(self, worker: str) -> None:
        """A worker gets nothing more: what was meant for it is meant for nobody."""
        for lot in list(self.on(worker).lots.values()):
            self.take(lot, lot.jobs)
        del self._intents[worker]

    def validate(self) -> None:
        """Raise AssertionError where the books contradict each other."""
        planned: dict[str, int] = {}
        for name, intent in self._intents.items():
            by_lane: dict[str, int] = {}
            for model, lot in intent.lots.items():
                assert lot.jobs > 0 and (lot.worker, lot.model) == (name, model)
                assert self._by_model[model][name] is lot
                planned[model] = planned.get(model, 0) + lot.jobs
                by_lane[lot.lane] = by_lane.get(lot.lane, 0) + lot.jobs
            worker = self._fleet.workers.get(name)
            assert worker is None or worker.planned == by_lane, f"{name}: {worker.planned}, lots {by_lane}"
            assert not intent.room_for or intent.room_for in intent.lots, f"{name} makes room for nobody"
        assert planned == self._planned, f"planned {planned}, counted {self._planned}"
