"""The waiting jobs of one model, and what is measured of its demand. Pure."""

import math
from dataclasses import dataclass, field

from stoker.services.scheduler.jobs.fair_queue import FairQueue

RATE_WINDOW_S = 10.0
HEAT_S = 60.0
"""A model's heat is the number of jobs that came within this time, older ones counting less and less."""


@dataclass(slots=True)
class ModelQueue:
    """particular: waiting jobs with needs of their own. calls: those that other jobs have called. running: jobs
    that workers have. by_spec: those by spec. last_spec: of the last one. peak, given_to: the most jobs at a
    time, and the specs that got some, since its depth was last published.
    """

    name: str
    waiting: FairQueue = field(default_factory=FairQueue)
    particular: dict[str, None] = field(default_factory=dict)
    calls: dict[str, None] = field(default_factory=dict)
    running: int = 0
    by_spec: dict[str, int] = field(default_factory=dict)
    last_spec: str = ""
    arrival_rate: float = 0.0
    arrived: int = 0
    rate_at: float = 0.0
    published_at: float = 0.0
    notified_at: float = 0.0
    is_changed: bool = True
    peak: int = 0
    given_to: set[str] = field(default_factory=set)
    _heat: float = 0.0
    _heat_at: float = 0.0

    @property
    def live(self) -> int:
        """Jobs of the model that wait or run."""
        return len(self.waiting) + self.running

    @property
    def is_idle(self) -> bool:
        """Whether no job of the model is live."""
        return not self.live

    def take_peak(self) -> int:
        """The most jobs at a time since the last call."""
        peak, self.peak = max(self.peak, self.live), self.live
        return peak

    def take_given(self) -> tuple[str, ...]:
        """The specs that got jobs since the last call."""
        given, self.given_to = self.given_to, set()
        return tuple(sorted(given))

    def count_arrival(self, now: float) -> None:
        self._heat, self._heat_at = self.heat(now) + 1.0, now
        self.arrived += 1
        self.peak = max(self.peak, self.live + 1)
        self.is_changed = True
        if not self.rate_at:
            self.rate_at = now

    def heat(self, now: float) -> float:
        """Jobs that may be expected within `HEAT_S`, by those that came."""
        return self._heat * math.exp((self._heat_at - now) / HEAT_S) if self._heat else 0.0

    def settle_rate(self, now: float) -> None:
        """Fold the arrivals since the last call into the rate (jobs a second, over `RATE_WINDOW_S`)."""
        elapsed = now - self.rate_at
        if elapsed < 1.0:
            return
        share = min(elapsed / RATE_WINDOW_S, 1.0)
        self.arrival_rate += share * (self.arrived / elapsed - self.arrival_rate)
        self.arrived, self.rate_at = 0, now
