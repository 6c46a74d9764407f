"""Which hot replica may take a job now, and which workers a job has to avoid. Pure."""

from collections.abc import Iterator, Mapping

from stoker.schemas.catalog import Model, Spec
from stoker.services.scheduler.fleet.estimates import Estimates
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.jobs.record import Record as JobRecord
from stoker.services.scheduler.placing.balance import Balancer, Ready
from stoker.services.scheduler.placing.calling import may_begin
from stoker.services.scheduler.placing.candidates import SMALL_FLEET, candidates
from stoker.services.scheduler.placing.model_sets import ModelSets
from stoker.services.scheduler.placing.placement import has_adapter
from stoker.services.scheduler.placing.plan import Plan

MOST_FULL = 4
"""Replicas without a free slot that are looked at before it is believed that none has one."""


class Replicas:
    """Looks at the fleet. models: the catalog."""

    def __init__(self, fleet: Fleet, plan: Plan, models: Mapping[str, Model], estimates: Estimates) -> None:
        self._fleet = fleet
        self._plan = plan
        self._models = models
        self._estimates = estimates
        self._balancer = Balancer()
        self.sets = ModelSets(fleet, models)

    def avoids(self, record: JobRecord, worker: Worker, model: Model, now: float) -> bool:
        """Whether a job must not go to a worker: it was refused or failed there a moment ago, or lost there.

        Where it was lost it is tried again only when no other worker could run it.
        """
        if not record.is_particular:
            return False
        if record.refused_lately(worker.id, now) or record.failed_lately(worker.id, now):
            return True
        if record.models and not self.sets.fits(record.models, worker):
            return True
        if any(worker.id == other for other, _ in record.beside):
            return True
        if worker.id not in record.lost_on:
            return False
        return any(
            other.is_open
            and other.id not in record.lost_on
            and not record.failed_lately(other.id, now)
            and other.can_run(model.name, spec)
            and (not record.models or self.sets.fits(record.models, other))
            for other in self._fleet.workers.values()
            for spec in model.specs
        )

    def has_another(self, record: JobRecord) -> bool:
        """Whether a worker on which the job has not failed yet could run it."""
        model = self._models.get(record.job.model)
        return model is not None and any(
            worker.is_open
            and worker.id not in record.failed_on
            and worker.could_run(model.name, spec)
            and (not record.models or self.sets.fits(record.models, worker))
            for worker in self._fleet.workers.values()
            for spec in model.specs
            if has_adapter(spec, record.job.adapter)
        )

    def to_score(self, record: JobRecord, model: Model, now: float) -> list[Worker]:
        """The workers that are worth scoring for a job."""
        found = candidates(self._fleet, self._plan, model)
        may = [worker for worker in found if not self.avoids(record, worker, model, now)]
        if may or not record.models:
            return may
        fitting = self.sets.fitting(record.models, SMALL_FLEET)
        return [worker for worker in fitting if not self.avoids(record, worker, model, now)]

    def with_slot(
        self, model: Model, specs: Mapping[str, Spec], record: JobRecord, now: float
    ) -> tuple[Worker, Spec] | None:
        """The least burdened hot replica with a free slot; one that is suspected where no other has the
        model.
        """
        suspected: tuple[Worker, Spec] | None = None
        has_other, full = False, 0
        for worker, spec, can_serve in self.hot(model, specs, record, now):
            if worker.is_doubtful(model.name):
                suspected = suspected or ((worker, spec) if can_serve else None)
                continue
            has_other = True
            if can_serve and worker.burden(model.name, spec.engine) < worker.slots(spec):
                return worker, spec
            if not record.is_particular and (full := full + 1) == MOST_FULL:
                return None  # those that follow have more to do
        return None if has_other else suspected

    def balanced(
        self, model: Model, specs: Mapping[str, Spec], record: JobRecord, now: float
    ) -> tuple[Worker, Spec] | None:
        """The replica that targets, standbys and prefixes say (balance.py)."""
        sound: list[Ready] = []
        suspected: list[Ready] = []
        for worker, spec, can_serve in self.hot(model, specs, record, now):
            (suspected if worker.is_doubtful(model.name) else sound).append(Ready(worker, spec, can_serve))
        chosen = self._balancer.choose(model, record.job, sound or suspected)
        return (chosen.worker, chosen.spec) if chosen is not None else None

    def hot(
        self, model: Model, specs: Mapping[str, Spec], record: JobRecord, now: float
    ) -> Iterator[tuple[Worker, Spec, bool]]:
        """Hot replicas of the model, the least burdened first, and whether they may take the job now."""
        name = model.name
        for worker in self._fleet.replicas(name):
            resident = worker.hot(name)
            spec = specs.get(resident.spec) if resident is not None else None
            if spec is None or not worker.is_open or not has_adapter(spec, record.job.adapter):
                continue
            batch = self._estimates.batch_size(name, spec)
            usable = self._plan.has_turn(worker.id, name) and not self.avoids(record, worker, model, now)
            usable = usable and worker.has_room(name, spec, batch)
            yield worker, spec, usable and may_begin(worker, record, spec)
