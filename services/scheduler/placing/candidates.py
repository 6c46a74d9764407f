"""Which workers are worth scoring for a job: some at most, however many there are. Pure."""

from stoker.schemas.catalog import Model
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.placing.plan import Plan

SMALL_FLEET = 16
"""Of so many workers all are scored."""
REPLICAS, PLANNED, NEAR, ANY = 6, 4, 6, 2
"""At most so many that have the model in device memory or are loading it, that will, that have it in
RAM or on disk, and of any others.
"""
LOOKED_AT = 24
"""Least burdened workers among which those are looked for that have a model near."""


def candidates(fleet: Fleet, plan: Plan, model: Model) -> list[Worker]:
    """The workers to score: the least burdened of each sort."""
    if len(fleet.workers) <= SMALL_FLEET:
        return list(fleet.workers.values())
    found: dict[str, Worker] = {}
    for worker in fleet.replicas(model.name):
        found[worker.id] = worker
        if len(found) == REPLICAS:
            break
    for name in list(plan.of(model.name))[:PLANNED]:
        if (planned := fleet.workers.get(name)) is not None:
            found[name] = planned
    near: list[tuple[int, Worker]] = []
    others: list[Worker] = []
    for looked_at, worker in enumerate(fleet.by_burden):
        if looked_at == LOOKED_AT:
            break
        if worker.id in found or not any(worker.can_run(model.name, spec) for spec in model.specs):
            continue
        resident = worker.residents.get(model.name)
        if resident is not None and resident.tier in ("base", "parked", "warm"):
            near.append((("base", "parked", "warm").index(resident.tier), worker))
        else:
            others.append(worker)
    near.sort(key=lambda one: one[0])
    for worker in (*(one for _, one in near[:NEAR]), *others[:ANY]):
        found[worker.id] = worker
    return list(found.values()) or _any_that_can(fleet, model)


def _any_that_can(fleet: Fleet, model: Model) -> list[Worker]:
    """Where none of the least burdened can run it: those of a kind that can. O(kinds + their workers)."""
    for workers in fleet.kinds.values():
        sample = next(iter(workers.values()))
        if any(sample.could_run(model.name, spec) for spec in model.specs):
            return list(workers.values())[:SMALL_FLEET]
    return []
