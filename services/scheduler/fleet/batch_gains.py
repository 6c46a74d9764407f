"""How many like pictures are worth drawing at once, as measured. Pure.

Of each batch it is known what share each of its pictures took of the time of one alone, asked for in the same
way. Whoever is drawn in a batch waits for all of it, so the smallest is taken that gains about as much as the
best one; where none gains, each is drawn alone. Sizes are tried from the limit of the spec downwards, by
halves, until each was measured TRIED times. What was found is forgotten after KEPT_RUNS: drivers change. Each
job of a batch says how long it took, so there is a measurement for each of its jobs.
"""

import statistics
from collections import OrderedDict, deque

TRIED = 3
"""The first batch of a size is slow: kernels are chosen, memory is laid out."""
SAMPLES = 5
LEAST_GAIN = 0.05
"""A batch whose pictures take more than 1 minus this of one alone is not worth the wait."""
ABOUT_AS_GOOD = 0.03
KEPT_RUNS = 1000
MOST_KINDS = 256
"""Ways to ask for a picture whose time alone is known."""


class BatchGains:
    """`alike`: what pictures have in common that can be drawn as one (schemas.jobs.likeness)."""

    def __init__(self) -> None:
        self._alone_s: OrderedDict[bytes, float] = OrderedDict()
        self._shares: dict[tuple[str, str], dict[int, deque[float]]] = {}
        self._runs: dict[tuple[str, str], int] = {}

    def learn(self, model: str, spec: str, alike: bytes, batch: int, run_s: float) -> None:
        """A job has run: with so many, itself included, which took so long together."""
        key = (model, spec)
        self._runs[key] = self._runs.get(key, 0) + 1
        if self._runs[key] >= KEPT_RUNS:
            self._forget_spec(key)
        if batch == 1:
            known = self._alone_s.pop(alike, run_s)
            self._alone_s[alike] = (known + run_s) / 2
            if len(self._alone_s) > MOST_KINDS:
                self._alone_s.popitem(last=False)
        elif alone_s := self._alone_s.get(alike):
            self._note(key, batch, run_s / batch / alone_s)

    def too_many(self, model: str, spec: str, batch: int) -> None:
        """The device had no memory for so many."""
        for _ in range(TRIED * batch):
            self._note((model, spec), batch, float("inf"))

    def _note(self, key: tuple[str, str], batch: int, share: float) -> None:
        self._shares.setdefault(key, {}).setdefault(batch, deque(maxlen=SAMPLES * batch)).append(share)

    def size(self, model: str, spec: str, limit: int) -> int:
        """How many are drawn at once. limit: of the spec. O(sizes that were measured)."""
        known = self._shares.get((model, spec), {})
        measured = {
            batch: statistics.median(shares)
            for batch, shares in known.items()
            if batch <= limit and len(shares) >= TRIED * batch
        }
        size = limit
        while size > 1:
            if size not in measured:
                return size
            size //= 2
        best = min(measured.values(), default=1.0)
        if best > 1.0 - LEAST_GAIN:
            return 1
        return min(batch for batch, share in measured.items() if share <= best + ABOUT_AS_GOOD)

    def forget(self, model: str) -> None:
        """A model is gone."""
        for key in [key for key in self._runs if key[0] == model]:
            self._forget_spec(key)

    def _forget_spec(self, key: tuple[str, str]) -> None:
        self._runs.pop(key, None)
        self._shares.pop(key, None)
