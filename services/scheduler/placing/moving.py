"""A worker with nothing to do takes over what another has too much of. Pure."""

from collections.abc import Mapping
from itertools import islice

from stoker.schemas.catalog import Model
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.placing.placement import Predictor
from stoker.services.scheduler.placing.plan import Lot

LEAST_GAIN_S = 0.3
MOVE_EVERY_S = 0.2
IDLE_SHARE = 0.5
"""How much of an eviction is charged where the worker does nothing: what it has was not asked for lately."""
LOOKED_AT = 16
"""The most burdened workers that are looked at."""


class Mover:
    """Moves lots in the plan."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._plan = predictor.plan
        self._fleet = predictor.fleet

    def take_over(self, worker: Worker, models: Mapping[str, Model], now: float) -> None:
        """Mean a lot for the idle worker that would end there sooner: all of it, or half where it is hot."""
        intent = self._plan.on(worker.id)
        if now - intent.moved_at < MOVE_EVERY_S:
            return
        best: tuple[float, Lot, int] | None = None
        for source in islice(reversed(self._fleet.by_burden), LOOKED_AT):
            if source is worker or not source.planned:
                continue
            for lot in self._plan.on(source.id).lots.values():
                if models.get(lot.model) is None or not worker.can_run(lot.model, lot.spec):
                    continue
                gain, jobs = self._gain(worker, source, lot, now)
                if gain > LEAST_GAIN_S and (best is None or gain > best[0]):
                    best = (gain, lot, jobs)
        if best is not None:
            _, lot, jobs = best
            intent.moved_at = now
            self._plan.take(lot, jobs)
            self._plan.put(worker, lot.model, lot.spec, jobs)

    def _gain(self, worker: Worker, source: Worker, lot: Lot, now: float) -> tuple[float, int]:
        """Seconds sooner that a lot, or half of it, would end here; and how many jobs that is."""
        predictor = self._predictor
        if lot.model in worker.facts.failed_loads or worker.is_doubtful(lot.model):
            return 0.0, 0
        if predictor.ledger.queue(lot.model).particular:  # some of them may have to go where they are meant to
            return 0.0, 0
        is_hot = source.tier(lot.model, lot.spec.name) == "hot"
        jobs = (lot.jobs + 1) // 2 if is_hot else lot.jobs
        slots = max(source.slots(lot.spec), 1)
        there_s = predictor.wait_s(source, lot.lane, slots, now)
        if not is_hot:
            there_s = max(there_s, predictor.room_s(source, lot.model, lot.spec, now))
            there_s += predictor.load_s(source, lot.model, lot.spec, now)
        idle = [one for one in predictor.in_memory(worker) if not one.is_in_use]
        is_here = worker.tier(lot.model, lot.spec.name) in ("hot", "base")
        victims = (
            []
            if is_here
            else predictor.victims(worker, predictor.needed_bytes(worker, lot.model, lot.spec), idle, now)
        )
        if victims is None:
            return 0.0, 0
        here_s = predictor.load_s(worker, lot.model, lot.spec, now)
        here_s += IDLE_SHARE * sum(predictor.worth_s(worker, one, now) for one in victims)
        work_s = jobs * predictor.mean_run_s(lot.model, lot.spec.name) / slots
        return there_s - here_s - work_s, jobs
