"""How long a spec rests after a failure, and when its failures are forgotten.

The pause doubles with each failure in a row and grows with the number of specs, so that every spec of a model
has its turn before the first is tried again (document 004, consideration 2, option B). Pure.
"""

from dataclasses import dataclass

from schemas.fleet import Condition

FIRST_PAUSE_S = 2.0
"""Per spec of the model."""
MAX_PAUSE_S = 300.0
STABLE_S = 30.0
"""A replica that was ready for this long has proved its spec."""
LONGEST_DOUBLING = 16


def pause_s(failures: int, specs: int) -> float:
    """Seconds of rest after this many failures in a row, for a model with this many specs."""
    doubled = FIRST_PAUSE_S * 2.0 ** min(failures - 1, LONGEST_DOUBLING)
    return float(min(doubled * specs, MAX_PAUSE_S * max(specs, 1)))


@dataclass(slots=True)
class Health:
    """Failures of one spec in a row. condition: what is known of the last one."""

    condition: Condition | None = None

    @property
    def failures(self) -> int:
        return self.condition.failures if self.condition is not None else 0

    def is_resting(self, now: float) -> bool:
        return self.condition is not None and now < self.condition.retry_at

    def failed(self, reason: str, message: str, specs: int, now: float) -> Condition:
        """One more failure; the condition with the time of the next try."""
        failures = self.failures + 1
        retry_at = now + pause_s(failures, specs)
        self.condition = Condition(reason, message, now, failures, retry_at)
        return self.condition

    def proved(self) -> None:
        """A replica is stable: what was before does not count any more."""
        self.condition = None
