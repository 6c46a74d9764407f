"""What a worker loads next, and what makes room for it. Pure.

One load at a time on each worker, in the background while hot models run; beside it one of another engine
that is shorter and fits into free memory, so that a small model does not wait for a large one. Of the models
that wait there the one comes first whose jobs have waited the most for each second that it takes. Room is made
by what nobody waits for. Where that is not enough, others have to be *closed*: the jobs that were meant for
them have their turn, the next ones go elsewhere or wait, then they are evicted. Closing costs those
others a wait, so it has to pay for itself: the waiting that has gathered is `WORTH` times what all
others on the worker lose while it loads and they are loaded again. Or it is due: a tenant waits that
was given so much less than the one that is served that it would have the device by now, the switch
included.
"""

from dataclasses import dataclass

from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.placing.placement import Predictor, Weights
from stoker.services.scheduler.placing.plan import Lot
from stoker.services.scheduler.protocol.commands import Command, ReadOnWorker

WORTH = 8.0


@dataclass(frozen=True, slots=True)
class Switch:
    """Load this lot's model, after these weights are evicted."""

    lot: Lot
    victims: tuple[Weights, ...]


class Switcher:
    """Decides for one worker at a time. Reads the books and the plan; closes models in the plan."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._plan = predictor.plan
        self._ledger = predictor.ledger

    def next(self, worker: Worker, now: float) -> Switch | None:
        """The load that can begin now, or None; what has to be closed for it is closed."""
        intent = self._plan.on(worker.id)
        waiting = [lot for lot in intent.lots.values() if worker.tier(lot.model, lot.spec.name) != "hot"]
        if not waiting:
            self._plan.reopen(worker.id)
            return None
        if worker.is_loading:
            return self._beside(worker, waiting, now)
        waiting.sort(key=lambda lot: (-self._urgency(worker, lot, now), lot.model))
        weights = self._predictor.in_memory(worker)
        pool = [one for one in weights if not one.is_in_use and self._may_go(worker, one)]
        for lot in waiting:
            if worker.tier(lot.model, lot.spec.name) == "base":
                return self._begin(worker, Switch(lot, ()))
            victims = self._predictor.victims(
                worker, self._predictor.needed_bytes(worker, lot.model, lot.spec), pool, now
            )
            if victims is not None:
                return self._begin(worker, Switch(lot, tuple(victims)))
        if not intent.room_for:
            self._close_for(worker, waiting[0], weights, now)
        return None

    def read_ahead(self, worker: Worker, now: float) -> list[Command]:
        """What a worker should read from its disk while it has no room: the model that it loads next, once."""
        lots = self._plan.on(worker.id).lots.values()
        waiting = [lot for lot in lots if worker.tier(lot.model, lot.spec.name) == "warm"]
        if worker.is_loading or not waiting:
            return []
        lot = min(waiting, key=lambda one: (-self._urgency(worker, one, now), one.model))
        if lot.model in worker.read_ahead:
            return []
        worker.read_ahead.add(lot.model)
        return [ReadOnWorker(worker.id, lot.model, lot.spec)]

    def _beside(self, worker: Worker, waiting: list[Lot], now: float) -> Switch | None:
        """A load that may go beside the one under way: of another engine, shorter than what that still takes,
        into memory that is free, as the worker says.
        """
        if len(worker.ordered) != 1:
            return None
        [(loading, order)] = worker.ordered.items()
        resident = worker.residents.get(loading)
        if resident is None or resident.tier != "loading":  # what it takes is not told yet
            return None
        left_s = self._predictor.left_s(worker, loading, now)
        for lot in sorted(
            waiting, key=lambda one: (self._predictor.load_s(worker, one.model, one.spec), one.model)
        ):
            if lot.spec.engine == order.engine or worker.tier(lot.model, lot.spec.name) == "loading":
                continue
            is_shorter = self._predictor.load_s(worker, lot.model, lot.spec) < left_s
            if (
                is_shorter
                and self._predictor.missing_bytes(
                    worker, self._predictor.needed_bytes(worker, lot.model, lot.spec)
                )
                <= 0
            ):
                return Switch(lot, ())
        return None

    def _begin(self, worker: Worker, switch: Switch) -> Switch:
        self._plan.reopen(worker.id)
        return switch

    def _may_go(self, worker: Worker, one: Weights) -> bool:
        """Whether nobody waits for the weights here, or all of them had their turn."""
        lots = self._plan.on(worker.id).lots
        return all(
            resident.model not in lots or not self._plan.has_turn(worker.id, resident.model)
            for resident in one.residents
        )

    def _waited_s(self, lot: Lot, now: float) -> float:
        """How long the jobs of a lot have waited, all together."""
        waiting = self._ledger.queue(lot.model).waiting
        return waiting.waited_s(now) * lot.jobs / max(len(waiting), 1)

    def _work_s(self, lot: Lot) -> float:
        return lot.jobs * self._predictor.mean_run_s(lot.model, lot.spec.name)

    def _urgency(self, worker: Worker, lot: Lot, now: float) -> float:
        takes_s = self._work_s(lot) + self._predictor.load_s(worker, lot.model, lot.spec)
        return self._waited_s(lot, now) / max(takes_s, 1e-3)

    def _close_for(self, worker: Worker, lot: Lot, weights: list[Weights], now: float) -> None:
        """Close others on the worker for a lot that waits, where that is worth it."""
        victims = self._predictor.victims(
            worker, self._predictor.needed_bytes(worker, lot.model, lot.spec), weights, now
        )
        if victims is None:
            return
        going = {resident.model for one in victims for resident in one.residents}
        others = [one for one in self._plan.on(worker.id).lots.values() if one.model != lot.model]
        stays_s = sum(
            self._work_s(one)
            for one in others
            if one.model not in going and worker.tier(one.model, one.spec.name) == "hot"
        )
        back_s = sum(self._predictor.reload_s(worker, one.residents[0]) for one in victims if one.jobs)
        price_s = max(self._predictor.load_s(worker, lot.model, lot.spec) - stays_s, 0.0) + back_s
        delayed = sum(one.jobs for one in others)
        if self._waited_s(lot, now) >= WORTH * price_s * delayed:
            self._plan.close(worker.id, going, lot.model)
        elif self._is_due(lot, going, price_s):
            self._plan.close(worker.id, going, lot.model)
            for model in self._plan.on(worker.id).closing:
                self._plan.on(worker.id).closing[model] = 0

    def _is_due(self, lot: Lot, going: set[str], price_s: float) -> bool:
        """Whether who waits was given less, by more than the price of a switch, than each who would be
        served.
        """
        mine = self._ledger.queue(lot.model).waiting.order()
        orders = [self._ledger.queue(model).waiting.order() for model in sorted(going)]
        served = [order for order in orders if order is not None]
        if mine is None or not served:
            return False
        priority, given = min(served)
        return mine[0] < priority or (mine[0] == priority and mine[1] + price_s < given)
