"""Learned load and run times: exponentially weighted means per model, spec and tier.

Until a model's load is measured, it takes (file size x 1.2) over the bandwidth of the tier, as other
models' loads show it, or as assumed; a run takes `FIRST_RUN_S_PER_UNIT` per unit of work
(schemas.jobs.work_units). Of the last runs the slowest are known too, to tell a run that takes long
from one that does not go on.
"""

from collections import deque

from stoker.schemas.catalog import Model, Spec, batch_limit, memory_needed_bytes, weights_key
from stoker.schemas.jobs import Job, work_units
from stoker.schemas.workers import Tier
from stoker.services.scheduler.fleet.batch_gains import BatchGains
from stoker.services.scheduler.fleet.picture_sizes import PictureSizes, pixels

SMOOTHING = 0.3
FIRST_RUN_S_PER_UNIT = 0.01
UNKNOWN_SIZE_BYTES = 1_000_000_000
BANDWIDTH_BYTES_PER_S: dict[Tier, float] = {
    "base": 1e11,
    "parked": 8e9,
    "warm": 1e9,
    "cold": 1e8,
}
LEARNT_BYTES = 100_000_000
"""Loads of less say nothing about the bandwidth of a tier."""
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
        self._s_per_byte: dict[Tier, float] = {}
        self._sizes: dict[tuple[str, str], int] = {}
        self._runs: dict[tuple[str, str], float] = {}
        self._runs_of_kind: dict[str, float] = {}
        self._batch_costs: dict[tuple[str, str], float] = {}
        """What one more in a batch costs, of a run alone."""
        self._batch_limits: dict[tuple[str, str], int] = {}
        self.gains = BatchGains()
        self._picture_sizes = PictureSizes()
        self._kinds: dict[tuple[str, str], tuple[str, str]] = {}
        """By model and spec: the key of its weights, and its engine, for runs that nobody has seen yet."""
        self._first_spec: dict[str, str] = {}
        self._last_runs: dict[tuple[str, str], deque[tuple[float, float]]] = {}

    def learn_load(self, model: str, spec: str, tier: Tier, seconds: float, memory_bytes: int = 0) -> None:
        """A load was measured. memory_bytes: of the model; other models of the tier are judged by it too."""
        key = (model, spec, tier)
        self._loads[key] = _blend(self._loads.get(key), seconds)
        if memory_bytes:
            self._sizes[model, spec] = memory_bytes
        if memory_bytes >= LEARNT_BYTES and tier in FIXED_LOAD_S:
            per_byte = max(seconds - FIXED_LOAD_S[tier], 0.0) / memory_bytes
            self._s_per_byte[tier] = _blend(self._s_per_byte.get(tier), per_byte)

    def units(self, job: Job, spec: str) -> float:
        """How much work a job is: that of pictures by their size too; what is less than a unit counts as one.
        spec "": the first of the model.
        """
        factor = self._size_factor(job, spec or self._first_spec.get(job.model, ""))
        return max(work_units(job.input), 1.0) * factor

    def _size_factor(self, job: Job, spec: str) -> float:
        size = pixels(job.input)
        return 1.0 if size is None else self._picture_sizes.factor(job.model, spec, size)

    def learn_job(self, job: Job, spec: str, units: float, seconds: float, batch: int = 1) -> None:
        """A run of a job was measured. units: of its work (schemas.jobs.work_units)."""
        size, units = pixels(job.input), max(units, 1.0)
        if size is not None and batch == 1:
            self._picture_sizes.learn(job.model, spec, size, seconds / units)
        self.learn_run(job.model, spec, units * self._size_factor(job, spec), seconds, batch)

    def learn_run(self, model: str, spec: str, units: float, seconds: float, batch: int = 1) -> None:
        """A run was measured. units: above 0. batch: how many jobs it was of."""
        key = (model, spec)
        per_unit = seconds / units
        if batch > 1:
            alone = self._runs.get(key)
            if alone:
                cost = min(max((per_unit / alone - 1.0) / (batch - 1), 0.0), 1.0)
                self._batch_costs[key] = _blend(self._batch_costs.get(key), cost)
            per_unit /= 1.0 + self._batch_costs.get(key, 1.0) * (batch - 1)
            if alone is None:
                self._runs[key] = per_unit
            return
        self._runs[key] = _blend(self._runs.get(key), per_unit)
        for kind in self._kinds.get(key, ()):
            self._runs_of_kind[kind] = _blend(self._runs_of_kind.get(kind), per_unit)
        last = self._last_runs.get(key)
        if last is None:
            last = self._last_runs[key] = deque(maxlen=RUNS_KEPT)
        last.append((seconds, per_unit))

    def forget(self, model: str) -> None:
        """A model is gone: nobody needs its times. O(everything that was learned)."""
        self._loads = {key: seconds for key, seconds in self._loads.items() if key[0] != model}
        self._sizes = {key: size for key, size in self._sizes.items() if key[0] != model}
        self._runs = {key: seconds for key, seconds in self._runs.items() if key[0] != model}
        self._first_spec.pop(model, None)
        self.gains.forget(model)
        self._picture_sizes.forget(model)
        self._kinds = {key: kinds for key, kinds in self._kinds.items() if key[0] != model}
        self._batch_costs = {key: cost for key, cost in self._batch_costs.items() if key[0] != model}
        self._batch_limits = {key: limit for key, limit in self._batch_limits.items() if key[0] != model}
        self._last_runs = {key: last for key, last in self._last_runs.items() if key[0] != model}

    def know(self, model: Model) -> None:
        """A model of the catalog: until it has run, it is taken for one like those that share its
        weights, or at least its engine.
        """
        for spec in reversed(model.specs):
            kinds = (weights_key(model.name, spec), spec.engine)
            if self._kinds.get((model.name, spec.name)) != kinds:
                self._sizes.pop((model.name, spec.name), None)  # they are other weights now
            self._kinds[model.name, spec.name] = kinds
            self._batch_limits[model.name, spec.name] = batch_limit(spec)
            self._first_spec[model.name] = spec.name

    def measured_bytes(self, model: str, spec: Spec) -> int:
        """What its weights took in memory when they were last loaded; 0: not measured."""
        return self._sizes.get((model, spec.name), 0)

    def load_s(self, model: str, spec: Spec, tier: Tier) -> float:
        """Seconds until the model is in device memory when it is now in `tier`."""
        if tier in ("hot", "loading"):
            return 0.0
        learned = self._loads.get((model, spec.name, tier))
        if learned is not None:
            return learned
        size = self.measured_bytes(model, spec) or memory_needed_bytes(spec) or UNKNOWN_SIZE_BYTES
        if tier in self._s_per_byte:
            return FIXED_LOAD_S[tier] + size * self._s_per_byte[tier]
        bare_s = FIXED_LOAD_S[tier] + size / BANDWIDTH_BYTES_PER_S[tier]
        return bare_s + (self.load_s(model, spec, "warm") if tier == "cold" else 0.0)

    def run_s(self, model: str, spec: str, units: float) -> float:
        """Seconds in the engine for a job of this size. spec "": the first of the model."""
        spec = spec or self._first_spec.get(model, "")
        per_unit = self._runs.get((model, spec))
        if per_unit is None:
            known = (self._runs_of_kind.get(kind) for kind in self._kinds.get((model, spec), ()))
            per_unit = next((one for one in known if one is not None), FIRST_RUN_S_PER_UNIT)
        return per_unit * units

    def least_s(self, model: str, spec: str, *, is_sized: bool) -> float:
        """Seconds below which no job of size 1 is expected to run: the shortest of the last runs.

        is_sized: its jobs say how much work they are (schemas.jobs.work_units). Others may be of any size, so
        that nothing is said before many were seen.
        """
        last = self._last_runs.get((model, spec), ())
        if not is_sized:
            return min(seconds for seconds, _ in last) if len(last) >= LEARNT_RUNS else 0.0
        return min((per_unit for _, per_unit in last), default=self.run_s(model, spec, 1.0))

    def share(self, model: str, spec: str, jobs: int) -> float:
        """The share of a run alone that each of so many waiting jobs takes of the device, where they are drawn
        in batches.
        """
        limit = self._batch_limits.get((model, spec), 1)
        batch = min(self.gains.size(model, spec, limit), jobs)
        if batch <= 1:
            return 1.0
        return (1.0 + self._batch_costs.get((model, spec), 1.0) * (batch - 1)) / batch

    def batch_size(self, model: str, spec: Spec) -> int:
        """How many like jobs are drawn as one: what gains the most, up to the spec's option `batch`."""
        limit = batch_limit(spec)
        return self.gains.size(model, spec.name, limit) if limit > 1 else 1

    def slowest_s(self, model: str, spec: str, units: float) -> float | None:
        """Seconds that the slowest of the last runs would have taken for this size; None while few were seen.

        An answer may be much longer or shorter than its units say, so a run of any size counts as it was, too.
        """
        last = self._last_runs.get((model, spec))
        if last is None or len(last) < LEARNT_RUNS:
            return None
        return max(max(seconds, per_unit * units) for seconds, per_unit in last)
