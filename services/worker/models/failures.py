"""Loads that failed lately: what a heartbeat says of them, so that other workers are tried first. Pure but for
the time, which is given.
"""

from dataclasses import dataclass, field

from stoker.services.worker.models.asking import LoadError

REMEMBERED_S = 30.0
"""How long a failed load is reported."""
CRASHES_BELIEVED = 2
"""A load under which the runner crashed so often in a row has failed."""


@dataclass(slots=True)
class LoadFailures:
    """counts: how often each model could not be loaded. `now`: seconds on the monotonic clock."""

    counts: dict[str, int] = field(default_factory=dict)
    _crashes: dict[str, int] = field(default_factory=dict)
    _lately: dict[str, tuple[float, str]] = field(default_factory=dict)

    def note(self, model: str, error: LoadError, now: float) -> None:
        """What was killed from outside has not failed, and one crash of a runner may be an accident."""
        if error.was_killed:
            return
        self._lately[model] = (now, str(error))
        self._crashes[model] = self._crashes.get(model, 0) + 1 if error.is_lost else 0
        if not error.is_lost or self._crashes[model] >= CRASHES_BELIEVED:
            self.counts[model] = self.counts.get(model, 0) + 1

    def loaded(self, model: str) -> None:
        """It could be loaded after all."""
        self._lately.pop(model, None)
        self._crashes.pop(model, None)

    def lately(self, now: float) -> dict[str, str]:
        """Models whose load failed lately, with the reason."""
        self._lately = {model: found for model, found in self._lately.items() if now - found[0] < REMEMBERED_S}
        return {model: reason for model, (_, reason) in self._lately.items()}
