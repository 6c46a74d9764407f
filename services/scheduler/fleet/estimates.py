"""Learned load and run times: exponentially weighted means per model, spec and tier.

Until something is measured, loading takes (file size x 1.2) over the bandwidth of the tier, and a run takes
`FIRST_RUN_S_PER_UNIT` per unit of work (schemas.jobs.work_units). Of the last runs the slowest are known too,
to tell a run that takes long from one that does not go on.
"""

from collections import deque

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
RUNS_KEPT = 64
LEARNT_RUNS = 16
"""So many runs of a spec must have been seen before any is called slow."""
FIXED_LOAD_S: dict[Tier, float] = {"base": 0.05, "parked": 0.02, "warm": 0.2, "cold": 0.5}
"""What loading costs however small the file: process, imports, graph."""


def _blend(old: float | None, new: float) -> float:
    return new if old is None else old + SMOOTHING * (new - old)


class Estimates:
    """Predicts seconds. All methods are O(1)."""

    def __init__(self) -> None:
        self._loads: dict[tuple[str, str, Tier], float] = {}
        self._runs: dict[tuple[str, str], float] = {}
        self._last_runs: dict[tuple[str, str], deque[tuple[float, float]]] = {}

    def learn_load(self, model: str, spec: str, tier: Tier, seconds: float) -> None:
        key = (model, spec, tier)
        self._loads[key] = _blend(self._loads.get(key), seconds)

    def learn_run(self, model: str, spec: str, units: float, seconds: float) -> None:
        key = (model, spec)
        per_unit = seconds / max(units, 1.0)
        self._runs[key] = _blend(self._runs.get(key), per_unit)
        last = self._last_runs.get(key)
        if last is None:
            last = self._last_runs[key] = deque(maxlen=RUNS_KEPT)
        last.append((seconds, per_unit))

    def forget(self, model: str) -> None:
        """A model is gone: nobody needs its times. O(everything that was learned)."""
        self._loads = {key: seconds for key, seconds in self._loads.items() if key[0] != model}
        self._runs = {key: seconds for key, seconds in self._runs.items() if key[0] != model}
        self._last_runs = {key: last for key, last in self._last_runs.items() if key[0] != model}

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

    def slowest_s(self, model: str, spec: str, units: float) -> float | None:
        """Seconds that the slowest of the last runs would have taken for this size; None while few were seen.

        An answer may be much longer or shorter than its units say, so a run of any size counts as it was, too.
        """
        last = self._last_runs.get((model, spec))
        if last is None or len(last) < LEARNT_RUNS:
            return None
        return max(max(seconds, per_unit * units) for seconds, per_unit in last)
