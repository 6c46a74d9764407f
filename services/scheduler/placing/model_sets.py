"""Jobs that need several models at once, as calls of functions do: where all of them have room together. Pure.

A set that no worker can ever hold together is refused when its job comes, never queued: its models would be
loaded one after another, and each would wait for the room that the others have. A worker where the set does
not fit is one that the job avoids.
"""

from collections.abc import Mapping

from stoker.schemas.catalog import Model, Spec, memory_needed_bytes
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.fleet.workers import Fleet

POSSIBLE_GRACE_S = 10.0
"""A set that fitted some worker a moment ago is not refused yet: workers restart."""
MAX_REMEMBERED = 1000
"""Sets of which it is remembered when they fitted last."""

Models = tuple[str, ...]


class ModelSets:
    """models: the catalog."""

    def __init__(self, fleet: Fleet, models: Mapping[str, Model]) -> None:
        self._fleet = fleet
        self._models = models
        self._fitted_at: dict[Models, float] = {}

    def fits(self, wanted: Models, worker: Worker) -> bool:
        """Whether a worker could ever hold all of these models together."""
        needed = [self._needed_bytes(name, worker) for name in wanted]
        known = [size for size in needed if size is not None]
        return len(known) == len(needed) and sum(known) <= worker.facts.memory_total_bytes

    def _needed_bytes(self, name: str, worker: Worker) -> int | None:
        """What a model takes there in the least of its specs; None where it cannot be there."""
        specs = self._specs(name)
        return min((memory_needed_bytes(spec) for spec in specs if worker.could_run(name, spec)), default=None)

    def _specs(self, name: str) -> tuple[Spec, ...]:
        model = self._models.get(name)
        return model.specs if model is not None else ()

    def fitting(self, wanted: Models, most: int) -> list[Worker]:
        """Some workers that could hold them. O(kinds + most)."""
        found: list[Worker] = []
        for workers in self._fleet.kinds.values():
            if self.fits(wanted, next(iter(workers.values()))):
                found += list(workers.values())[: most - len(found)]
        return found

    def why_never(self, wanted: Models, now: float) -> str:
        """Why no worker can ever hold these models together, with the sums; "" while one could, and while that
        is not known: no worker is there, one starts, or one that could was there a moment ago. O(kinds).
        """
        kinds = [next(iter(workers.values())) for workers in self._fleet.kinds.values()]
        if not wanted or not kinds or not all(worker.engines for worker in kinds):
            return ""
        if any(spec.launcher for name in wanted for spec in self._specs(name)):
            return ""
        if any(self.fits(wanted, worker) for worker in kinds):
            self._note_fitted(wanted, now)
            return ""
        if now - self._fitted_at.get(wanted, -POSSIBLE_GRACE_S) < POSSIBLE_GRACE_S:
            return ""
        return self._what_lacks(wanted, kinds)

    def _note_fitted(self, wanted: Models, now: float) -> None:
        self._fitted_at.pop(wanted, None)
        self._fitted_at[wanted] = now
        if len(self._fitted_at) > MAX_REMEMBERED:
            del self._fitted_at[next(iter(self._fitted_at))]

    def _what_lacks(self, wanted: Models, kinds: list[Worker]) -> str:
        having = [
            worker for worker in kinds if all(self._needed_bytes(name, worker) is not None for name in wanted)
        ]
        if not having:
            return f"no worker can have all of its models: {', '.join(wanted)}"
        largest = max(having, key=lambda worker: worker.facts.memory_total_bytes)
        sizes = {name: self._needed_bytes(name, largest) or 0 for name in wanted}
        terms = " + ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sizes.items())
        return (
            f"its models need {terms} = {sum(sizes.values()) / 1e6:.0f} MB of memory together, and the largest "
            f"worker has {largest.facts.memory_total_bytes / 1e6:.0f} MB"
        )
