"""How long a spec rests after a failure, and when its failures are forgotten.

The pause doubles with each failure in a row and grows with the number of specs, so that every spec of a model
has its turn before the first is tried again (document 004, consideration 2, option B). What was
launched before a failure was seen belongs to it: a batch that is refused is one failure. After it one
replica at a time is tried, and only one that was launched after the failure, and is ready for a while,
forgives it.

Out of stock is nobody's fault: it is asked again every `PROBE_S`, and an order that is taken says that
stock is back. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from stoker.schemas.fleet import Condition

FIRST_PAUSE_S = 2.0
"""Per spec of the model."""
MAX_PAUSE_S = 300.0
STABLE_S = 30.0
"""A replica that was ready for this long has proved its spec."""
LONGEST_DOUBLING = 16
OUT_OF_STOCK = "OutOfStock"
PROBE_S = 10.0
"""Seconds between two tries of what is out of stock."""


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

    def failed(self, reason: str, message: str, specs: int, launched_at: float, now: float) -> Condition:
        """A replica that was launched then has failed; the condition with the time of the next try."""
        known = self.condition
        if known is not None and launched_at <= known.at:
            self.condition = msgspec.structs.replace(known, reason=reason, message=message)
            return self.condition
        failures = self.failures + 1
        rest_s = PROBE_S if reason == OUT_OF_STOCK else pause_s(failures, specs)
        self.condition = Condition(reason, message, now, failures, now + rest_s)
        return self.condition

    def may_launch(self, launched_at: Iterable[float], now: float) -> bool:
        """Whether one more may be launched beside those that were launched then and are not ready."""
        if self.condition is None:
            return True
        return now >= self.condition.retry_at and not any(at > self.condition.at for at in launched_at)

    def taken(self, launched_at: float) -> None:
        """The launcher has taken an order: what was out of stock is there again."""
        known = self.condition
        if known is not None and known.reason == OUT_OF_STOCK and launched_at > known.at:
            self.condition = None

    def proved(self, ready_at: float) -> None:
        """A replica is stable since then: what was before does not count any more."""
        if self.condition is not None and ready_at > self.condition.at:
            self.condition = None
