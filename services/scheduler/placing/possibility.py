"""Which models no worker can run: since when, why, and whether that is certain. Pure.

A model that was possible is not called impossible before AWAY_GRACE_S: its worker restarts, is upgraded, or its
machine is. So that a later leader knows of it too, what was possible is noted in the catalog (the note
`possible.<model>` has the model as it was then), and forgotten when the grace is over or the model is gone.
"""

from stoker.schemas.catalog import Model
from stoker.services.scheduler.placing.dispatch import Dispatcher
from stoker.services.scheduler.placing.placement import why_impossible

STARTING_GRACE_S = 10.0
"""How long a worker that has not told its engines may be the one that has the engine; and how long a later
leader waits for workers to tell it of themselves.
"""
AWAY_GRACE_S = 600.0
"""How long a model that was possible must have been impossible before its jobs are refused: a worker
restarts, is upgraded, or its machine is.
"""


class Possibility:
    """Reads the dispatcher's catalog and fleet. impossible: models that no worker can run; since when, why."""

    def __init__(self, dispatcher: Dispatcher, now: float) -> None:
        self.impossible: dict[str, tuple[float, str]] = {}
        self._dispatcher = dispatcher
        self._fleet = dispatcher.fleet
        self._began_at = now
        self._was_possible: dict[str, Model] = {}
        """Models that a worker could run, as they were then: one with other specs is judged anew."""
        self._to_note: dict[str, Model | None] = {}
        self._told: dict[str, str] = {}
        """What is said of them to those who ask."""
        self._seen: tuple[int, int] = (-1, -1)
        self._starting_since: float | None = None
        """Since when there is a worker that has not told its engines: its runner is starting."""

    def noted(self, name: str, model: Model) -> None:
        """An earlier leader knew that some worker could run a model, as it was then."""
        self._was_possible.setdefault(name, model)

    def take_notes(self) -> dict[str, Model | None]:
        """What is to be noted since the last call: models that are possible now; None: it is not any more."""
        notes, self._to_note = self._to_note, {}
        return notes

    def give_back(self, name: str, model: Model | None) -> None:
        """It could not be noted."""
        self._to_note.setdefault(name, model)

    def forget(self, name: str) -> None:
        """A model is gone from the catalog."""
        self.impossible.pop(name, None)
        self._told.pop(name, None)
        self._never_mind(name)

    def _never_mind(self, name: str) -> None:
        if self._was_possible.pop(name, None) is not None:
            self._to_note[name] = None

    def look(self, now: float) -> list[str]:
        """Judge what may be another now; the models whose answer to those who ask has changed. O(models)."""
        self._note_starting(now)
        changed: list[str] = []
        if self._seen != (seen := (self._fleet.kinds_changed, self._dispatcher.models_changed)):
            self._seen = seen
            changed = [name for name in self._dispatcher.models if self._judge(name, now)]
        for name in self.impossible:
            reason = self.why(name, now)
            if reason != self._told.get(name, ""):
                self._told[name] = reason
                changed.append(name)
        for name in [name for name, reason in self._told.items() if reason and name in self._was_possible]:
            self._never_mind(name)
        return changed

    def _judge(self, name: str, now: float) -> bool:
        """Whether any worker that there is could run a model; True when that was told otherwise."""
        model, has_workers = self._dispatcher.models[name], bool(self._fleet.workers)
        reason = why_impossible(self._fleet, model) if has_workers else ""
        if reason:
            since, _ = self.impossible.get(name, (now, ""))
            self.impossible[name] = (since, reason)
            return False
        self.impossible.pop(name, None)
        if has_workers and self._was_possible.get(name) != model:
            self._was_possible[name] = model
            if not any(spec.launcher for spec in model.specs):  # a launched one is possible anyway
                self._to_note[name] = model
        return bool(self._told.pop(name, ""))

    def _note_starting(self, now: float) -> None:
        if all(kind[0] for kind in self._fleet.kinds):
            self._starting_since = None
        elif self._starting_since is None:
            self._starting_since = now

    def why(self, name: str, now: float) -> str:
        """Why jobs of a model are refused; "" while they may wait.

        They may while a worker starts that could have the engine, while a later leader has not heard everybody,
        and where it was possible within `AWAY_GRACE_S`.
        """
        since, reason = self.impossible.get(name, (now, ""))
        if self._starting_since is not None and now - self._starting_since <= STARTING_GRACE_S:
            return ""
        if self._is_new(now):
            return ""
        was_possible = self._was_possible.get(name)
        is_certain = was_possible != self._dispatcher.models.get(name) or now - since > AWAY_GRACE_S
        return reason if is_certain else ""

    def why_never_together(self, models: tuple[str, ...], now: float) -> str:
        """Why a job can never have all models that it needs; "" while it may, and while one of them is away."""
        if self._is_new(now) or any(name in self.impossible and not self.why(name, now) for name in models):
            return ""
        return self._dispatcher.replicas.sets.why_never(models, now)

    def _is_new(self, now: float) -> bool:
        """Whether this is a later leader that workers have not had time to tell of themselves."""
        return self._dispatcher.term > 1 and now - self._began_at <= STARTING_GRACE_S
