"""All workers, and indices of them: the least burdened, by model and of all, where weights are, which
kinds there are. Pure.

Assigning takes the slot here and now, not when the worker says so.
"""

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import TypeVar

from stoker.schemas.catalog import Spec
from stoker.schemas.workers import Heartbeat, ResidentModel
from stoker.services.scheduler.fleet.by_burden import ByBurden
from stoker.services.scheduler.fleet.lane import Held, Lane
from stoker.services.scheduler.fleet.places import Places
from stoker.services.scheduler.fleet.worker import Kind, OrderedLoad, Worker, newly_failed

LOAD_BELIEVED_S = 3.0
"""How long a load that was ordered counts as under way though no heartbeat shows it."""

K = TypeVar("K", bound=Hashable)
_NO_REPLICAS: "ByBurden[Worker]" = ByBurden()


class Fleet:
    """All workers, the replicas of each model, and where weights are in device memory.

    on_remove: is told of each worker that is about to be removed. kinds: how many workers of each kind
    there are, with one of them; kinds_changed: how often that changed.
    """

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self.by_burden: ByBurden[Worker] = ByBurden()
        self.kinds: dict[Kind, dict[str, Worker]] = {}
        self.kinds_changed = 0
        self.on_remove: Callable[[str], None] = lambda worker: None
        self._replicas: dict[str, ByBurden[Worker]] = {}
        self._kind_of: dict[str, Kind] = {}
        self._copies = Places()
        self._holders = Places()

    def replicas(self, model: str) -> ByBurden[Worker]:
        """The replicas of a model; to be read only."""
        return self._replicas.get(model, _NO_REPLICAS)

    def update(self, heartbeat: Heartbeat, now: float) -> Worker | None:
        """Take in a heartbeat; None when it is older than one already seen."""
        worker = self.workers.get(heartbeat.worker)
        if worker is None:
            worker = self.workers[heartbeat.worker] = Worker(heartbeat.worker, heartbeat, now, since=now)
            failed: set[str] = set()
            has_changed = True
        else:
            known = worker.facts
            has_changed = heartbeat.models is not known.models  # the same ones, where nothing has changed
            failed = newly_failed(known, heartbeat)
            if (heartbeat.started_at, heartbeat.seq) <= (known.started_at, known.seq):
                return None
            worker.facts = heartbeat
            worker.seen_at = now
        worker.turn("present", now)
        worker.trust_new_runners()
        engines = heartbeat.engines | heartbeat.coming
        if engines and engines != worker.engines:
            worker.engines = engines
        self._note_kind(worker)
        before, earlier = worker.replicas(), worker.residents
        if has_changed:
            self._note_weights(worker)
            worker.note_models(heartbeat.models)
        self._note_loads(worker, earlier, failed, now)
        after = worker.replicas()
        for model in (*before, *after):
            if (model in before) != (model in after):
                self._reindex(worker, model)
        return worker

    @staticmethod
    def _note_loads(
        worker: Worker, earlier: Mapping[str, ResidentModel], failed: Collection[str], now: float
    ) -> None:
        """A load counts as under way from the order, or from when it is first seen, until it is done or
        failed.
        """
        for model, order in list(worker.ordered.items()):
            resident = worker.residents.get(model)
            tier = resident.tier if resident is not None else "cold"
            is_lost = tier != "loading" and now - order.at > LOAD_BELIEVED_S
            if tier == "hot" or model in failed or is_lost:
                del worker.ordered[model]
        for model in worker.near:
            resident = worker.residents[model]
            if resident.tier == "loading" and model not in worker.ordered:
                source = earlier[model].tier if model in earlier else "cold"
                worker.ordered[model] = OrderedLoad(resident.spec, resident.engine, now, source)

    def _note_kind(self, worker: Worker) -> None:
        kind, known = worker.kind, self._kind_of.get(worker.id)
        if kind == known:
            return
        if known is not None:
            self._drop_kind(worker.id)
        else:
            self.by_burden.put(worker.id, worker, 0)
        self._kind_of[worker.id] = kind
        self.kinds.setdefault(kind, {})[worker.id] = worker
        self.kinds_changed += 1

    def _drop_kind(self, worker: str) -> None:
        kind = self._kind_of.pop(worker, None)
        if kind is not None:
            del self.kinds[kind][worker]
            if not self.kinds[kind]:
                del self.kinds[kind]
            self.kinds_changed += 1

    def _note_weights(self, worker: Worker | None, name: str = "") -> None:
        """Where weights are in device memory, or on their way there; and where they are at all."""
        name = worker.id if worker is not None else name
        models = worker.facts.models if worker is not None else ()
        there = [(one.weights or one.model, one.tier) for one in models if one.tier != "cold"]
        self._holders.note(name, frozenset(weights for weights, _ in there))
        self._copies.note(
            name, frozenset(weights for weights, tier in there if tier in ("hot", "loading", "base"))
        )

    def holders(self, weights: str) -> int:
        """Workers that have the weights on disk or nearer, or are fetching them."""
        return self._holders.count(weights)

    def copies(self, weights: str) -> int:
        """Workers that have the weights in device memory, or are loading them."""
        return self._copies.count(weights)

    def remove(self, worker: str) -> Worker | None:
        if worker in self.workers:
            self.on_remove(worker)
        for model in list(self._replicas):
            self._drop(model, worker)
        self._drop_kind(worker)
        self._note_weights(None, worker)
        self.by_burden.drop(worker)
        return self.workers.pop(worker, None)

    def _drop(self, model: str, worker: str) -> None:
        replicas = self._replicas.get(model)
        if replicas is not None:
            replicas.drop(worker)
            if not len(replicas):
                del self._replicas[model]

    def order_load(
        self,
        worker: Worker,
        model: str,
        spec: Spec,
        now: float,
        evict: frozenset[str] = frozenset(),
        evict_at: float = 0.0,
    ) -> None:
        """Remember that the worker was told to load this model, and what has to go for it from `evict_at`
        on.
        """
        tier = worker.tier(model, spec.name)
        order = OrderedLoad(spec.name, spec.engine, now, tier, evict_later=evict, evict_at=evict_at)
        before = worker.ordered.get(model)
        worker.ordered[model] = order
        worker.read_ahead.discard(model)
        for changed in (model, *(sorted(before.evict) if before is not None else ())):
            self._reindex(worker, changed)
        self.evict_due(worker, now)

    def evict_due(self, worker: Worker, now: float) -> None:
        """What has to go from now on for loads that were ordered is not hot any more."""
        for order in worker.ordered.values():
            if order.evict_later and now >= order.evict_at:
                order.evict, order.evict_later = order.evict_later, frozenset()
                for model in sorted(order.evict):
                    self._reindex(worker, model)

    def plan(self, worker: Worker, model: str, lane: str, jobs: int) -> None:
        """So many more jobs of a lane are meant for a worker; negative: fewer."""
        worker.planned[lane] = worker.planned.get(lane, 0) + jobs
        if not worker.planned[lane]:
            del worker.planned[lane]
        self._reindex_lane(worker, lane, model)

    def hold(self, worker: Worker, held: Held) -> None:
        worker.held[held.job] = held
        _count(worker.busy, held.model, 1)
        self._enter(worker, held)
        self._reindex_lane(worker, held.lane, held.model)

    def waits(self, worker: str, job: str) -> bool:
        """Whether a job waits for calls of its own on its worker."""
        found = self.workers.get(worker)
        held = found.held.get(job) if found is not None else None
        return held is not None and held.waits_since is not None

    def turn_waiting(self, worker: Worker, job: str, now: float, *, waits: bool) -> None:
        """A job waits for calls of its own from now on, and takes no slot; or it has one again."""
        held = worker.held[job]
        if waits == (held.waits_since is not None):
            return
        if held.waits_since is None:
            self._leave(worker, held, now)
            held.waits_since, held.is_ahead = now, False
        else:
            held.since += now - held.waits_since
            held.waits_since = None
            self._enter(worker, held)
        _count(worker.waiting, (held.lane, held.depth), 1 if waits else -1)
        self._reindex_lane(worker, held.lane, held.model)

    def release(self, worker: Worker, job: str, now: float) -> Held | None:
        held = worker.held.pop(job, None)
        if held is not None:
            _count(worker.busy, held.model, -1)
            if held.waits_since is not None:
                _count(worker.waiting, (held.lane, held.depth), -1)
            else:
                self._leave(worker, held, now)
            self._reindex_lane(worker, held.lane, held.model)
        return held

    @staticmethod
    def _enter(worker: Worker, held: Held) -> None:
        lane = worker.lanes.get(held.lane)
        if lane is None:
            lane = worker.lanes[held.lane] = Lane()
        lane.enter(held)

    @staticmethod
    def _leave(worker: Worker, held: Held, now: float) -> None:
        """A job leaves its lane. Where it had a slot, the next one begins that was sent ahead of one."""
        lane = worker.lanes[held.lane]
        had_slot = not held.is_ahead
        lane.leave(held)
        if not lane.jobs:
            del worker.lanes[held.lane]
        elif had_slot and lane.ahead:
            _start_following(worker, lane, held, now)

    def _reindex_lane(self, worker: Worker, lane: str, model: str) -> None:
        if worker.id in self.by_burden:
            self.by_burden.put(worker.id, worker, len(worker.held) + sum(worker.planned.values()))
        if lane == model:
            self._reindex(worker, model)
        else:
            for one in worker.replicas():
                self._reindex(worker, one)

    def _reindex(self, worker: Worker, model: str) -> None:
        engine = worker.replica_engine(model)
        if engine is None:
            self._drop(model, worker.id)
            return
        replicas = self._replicas.get(model)
        if replicas is None:
            replicas = self._replicas[model] = ByBurden()
        replicas.put(worker.id, worker, worker.burden(model, engine))

    def validate(self, holders: Mapping[str, str]) -> None:
        """Raise AssertionError where counts, index and slots disagree. holders: the worker of each live job."""
        for worker in self.workers.values():
            lanes: dict[str, int] = {}
            busy: dict[str, int] = {}
            waiting: dict[tuple[str, int], int] = {}
            for held in worker.held.values():
                assert holders.get(held.job) == worker.id, (
                    f"{worker.id} holds {held.job}, the books do not say so"
                )
                _count(busy, held.model, 1)
                if held.waits_since is None:
                    _count(lanes, held.lane, 1)
                else:
                    _count(waiting, (held.lane, held.depth), 1)
            assert worker.waiting == waiting, f"{worker.id}: waiting {worker.waiting}, held {waiting}"
            counted = {name: lane.jobs for name, lane in worker.lanes.items()}
            assert counted == lanes, f"{worker.id}: lanes {counted}, held {lanes}"
            assert worker.busy == busy, f"{worker.id}: busy {worker.busy}, held {busy}"
            ahead = {job for lane in worker.lanes.values() for job in lane.ahead}
            assert ahead == {one.job for one in worker.held.values() if one.is_ahead}
        for model, replicas in self._replicas.items():
            listed = {worker.id for worker in replicas}
            there = {name for name, worker in self.workers.items() if worker.replica_engine(model)}
            assert listed == there, f"replicas of {model}: listed {listed}, there {there}"


def _start_following(worker: Worker, lane: Lane, held: Held, now: float) -> None:
    """A slot is free: the next job that was sent ahead begins, and with it what is drawn as one with it."""
    if held.batch > 1 and any(
        not one.is_ahead and one.likeness == held.likeness and one.lane == held.lane
        for one in worker.held.values()
    ):
        return  # of its batch others are still to end
    following = next(iter(lane.ahead.values()))
    alike = [one for one in lane.ahead.values() if one.batch > 1 and one.likeness == following.likeness]
    for one in dict.fromkeys((following.job, *(one.job for one in alike[: following.batch]))):
        lane.begin(lane.ahead[one], now)


def _count(counts: dict[K, int], what: K, change: int) -> None:
    """So many more; what is zero is not kept."""
    counts[what] = counts.get(what, 0) + change
    if not counts[what]:
        del counts[what]
