"""The waiting jobs of one model, and what is measured of its demand. Pure."""

from dataclasses import dataclass, field

from services.scheduler.jobs.fair_queue import FairQueue

RATE_WINDOW_S = 10.0


@dataclass(slots=True)
class ModelQueue:
    """running: jobs that workers have. by_spec: those by spec. expand_at: when placing may look wider again."""

    name: str
    waiting: FairQueue = field(default_factory=FairQueue)
    running: int = 0
    by_spec: dict[str, int] = field(default_factory=dict)
    arrival_rate: float = 0.0
    arrived: int = 0
    rate_at: float = 0.0
    published_at: float = 0.0
    is_changed: bool = True
    expand_at: float = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether no job of the model is live."""
        return not (len(self.waiting) or self.running)

    def count_arrival(self, now: float) -> None:
        self.arrived += 1
        self.is_changed = True
        if not self.rate_at:
            self.rate_at = now

    def settle_rate(self, now: float) -> None:
        """Fold the arrivals since the last call into the rate (jobs a second, over `RATE_WINDOW_S`)."""
        elapsed = now - self.rate_at
        if elapsed < 1.0:
            return
        share = min(elapsed / RATE_WINDOW_S, 1.0)
        self.arrival_rate += share * (self.arrived / elapsed - self.arrival_rate)
        self.arrived, self.rate_at = 0, now
