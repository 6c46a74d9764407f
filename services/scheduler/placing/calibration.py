"""How true predicted waits were, and so what to make of the next prediction. Pure.

The plan predicts a wait as if nobody else came and every run took its mean. Of the last waits that were
predicted about as long it is kept how many times longer they were: the median corrects the next prediction,
and 9 of 10 waits end within the 90th percentile (split conformal prediction, with a window in place of a set).
"""

from bisect import bisect_right, insort
from collections import deque
from dataclasses import dataclass, field

KEPT = 200
FEW = 20
"""Until so many waits of a length were seen, predictions stand as they are."""
LENGTHS_S = (1.0, 5.0, 20.0, 80.0)
SMALL_S = 0.5
"""Added to both before they are divided: of short waits the difference counts, not the ratio."""
FIRST_P90 = 2.0


@dataclass(slots=True)
class _Ratios:
    """The last ratios, by age and by size."""

    by_age: deque[float] = field(default_factory=deque)
    by_size: list[float] = field(default_factory=list)

    def add(self, ratio: float) -> None:
        self.by_age.append(ratio)
        insort(self.by_size, ratio)
        if len(self.by_age) > KEPT:
            del self.by_size[bisect_right(self.by_size, self.by_age.popleft()) - 1]

    def quantile(self, share: float) -> float:
        return self.by_size[min(int((len(self.by_size) + 1) * share), len(self.by_size) - 1)]


class Calibration:
    """Of all waits of one scheduler."""

    def __init__(self) -> None:
        self._by_length = [_Ratios() for _ in range(len(LENGTHS_S) + 1)]

    def note(self, predicted_s: float, waited_s: float) -> None:
        """A job was predicted to wait so long by the plan, and waited so long."""
        ratio = (max(waited_s, 0.0) + SMALL_S) / (predicted_s + SMALL_S)
        self._by_length[bisect_right(LENGTHS_S, predicted_s)].add(ratio)

    def expected(self, predicted_s: float) -> tuple[float, float]:
        """What the plan predicts, corrected: the wait that half of those alike had, and nine of ten."""
        ratios = self._by_length[bisect_right(LENGTHS_S, predicted_s)]
        if len(ratios.by_age) < FEW:
            return predicted_s, FIRST_P90 * predicted_s
        half, most = (
            max(ratios.quantile(share) * (predicted_s + SMALL_S) - SMALL_S, 0.0) for share in (0.5, 0.9)
        )
        return half, most
