"""One place where a job could run, with its predicted terms. Pure."""

from dataclasses import dataclass

from stoker.schemas.catalog import Spec
from stoker.schemas.fleet import Candidate
from stoker.schemas.workers import Tier
from stoker.services.scheduler.fleet.worker import Worker

TIER_ORDER: dict[Tier, int] = {"hot": 0, "loading": 1, "base": 2, "parked": 3, "warm": 4, "cold": 5}


@dataclass(frozen=True, slots=True)
class Option:
    """One worker with one spec, and its predicted terms in seconds. load_s, eviction_s: as they are
    charged.
    """

    worker: Worker
    spec: Spec
    tier: Tier
    wait_s: float
    load_s: float
    eviction_s: float
    run_s: float

    @property
    def total_s(self) -> float:
        return self.wait_s + self.load_s + self.eviction_s + self.run_s

    def candidate(self, verdict: str) -> Candidate:
        """As it is shown by `explain`."""
        return Candidate(
            worker=self.worker.id,
            spec=self.spec.name,
            tier=self.tier,
            wait_s=round(self.wait_s, 4),
            load_s=round(self.load_s, 4),
            run_s=round(self.run_s, 4),
            eviction_s=round(self.eviction_s, 4),
            verdict=verdict,
        )
