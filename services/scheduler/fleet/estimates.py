"""Learned load and run times: exponentially weighted means per model, spec and tier.

Until something is measured, loading takes (file size x 1.2) over the bandwidth of the tier, and a run takes
`FIRST_RUN_S_PER_UNIT` per unit of work (schemas.jobs.work_units).
"""

from schemas.catalog import Spec, memory_needed_bytes
from schemas.workers import Tier

SMOOTHING = 0.3
FIRST_RUN_S_PER_UNIT = 0.01
UNKNOWN_SIZE_BYTES = 1_000_000_000
BANDWIDTH_BYTES_PER_S: dict[Tier, float] = {
    "base": 1e11,
    "parked": 8e9,
    "warm": 1e9,
    "cold": 1e8,
}
FIXED_LOAD_S: dict[Tier, float] = {"base": 0.05, "parked": 0.02, "warm": 0.2, "cold": 0.5}
"""What loading costs however small the file: process, imports, graph."""


def _blend(old: float | None, new: float) -> float:
    return new if old is None else old + SMOOTHING * (new - old)


class Estimates:
    """Predicts seconds. All methods are O(1)."""

    def __init__(self) -> None:
        self._loads: dict[tuple[str, str, Tier], float] = {}
        self._runs: dict[tuple[str, str], float] = {}

    def learn_load(self, model: str, spec: str, tier: Tier, seconds: float) -> None:
        key = (model, spec, tier)
        self._loads[key] = _blend(self._loads.get(key), seconds)

    def learn_run(self, model: str, spec: str, units: float, seconds: float) -> None:
        key = (model, spec)
        self._runs[key] = _blend(self._runs.get(key), seconds / max(units, 1.0))

    def forget(self, model: str) -> None:
        """A model is gone: nobody needs its times. O(everything that was learned)."""
        self._loads = {key: seconds for key, seconds in self._loads.items() if key[0] != model}
        self._runs = {key: seconds for key, seconds in self._runs.items() if key[0] != model}

    def load_s(self, model: str, spec: Spec, tier: Tier) -> float:
        """Seconds until the model is in device memory when it is now in `tier`."""
        if tier in ("hot", "loading"):
            return 0.0
        learned = self._loads.get((model, spec.name, tier))
        if learned is not None:
            return learned
        if tier == "cold":
            size = memory_needed_bytes(spec) or UNKNOWN_SIZE_BYTES
            return (
                FIXED_LOAD_S["cold"] + size / BANDWIDTH_BYTES_PER_S["cold"] + self.load_s(model, spec, "warm")
            )
        size = memory_needed_bytes(spec) or UNKNOWN_SIZE_BYTES
        return FIXED_LOAD_S[tier] + size / BANDWIDTH_BYTES_PER_S[tier]

    def run_s(self, model: str, spec: str, units: float) -> float:
        """Seconds in the engine for a job of this size."""
        return self._runs.get((model, spec), FIRST_RUN_S_PER_UNIT) * max(units, 1.0)
