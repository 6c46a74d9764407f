"""Requests of one model that wait or run, remembered over the longest window that anyone asks for. Pure."""

import math
from collections import deque

BUCKET_S = 0.25
"""Samples within this time are kept as their maximum; each holds until the next."""
MEMORY_S = 3600.0
"""The longest window; a longer scale-down delay sees this much."""


class Demand:
    """`known_since`: what was before that is unknown, and counts as unlimited."""

    def __init__(self, known_since: float = -math.inf) -> None:
        self.known_since = known_since
        self.now_requests = 0
        self._buckets: deque[tuple[float, int]] = deque()

    def note(self, requests: int, now: float) -> None:
        """This many requests wait or run now."""
        self.now_requests = requests
        began, most = self._buckets[-1] if self._buckets else (-math.inf, -1)
        if requests == most:  # it holds until the next one
            return
        if now - began < BUCKET_S:
            self._buckets[-1] = (began, max(most, requests))
        else:
            self._buckets.append((now, requests))
        while now - self._buckets[0][0] > MEMORY_S and len(self._buckets) > 1:
            self._buckets.popleft()

    def peak(self, window_s: float, now: float) -> float:
        """The most requests at any time within the window; infinite where that is not known."""
        return math.inf if self.known_since > now - window_s else self.recent(window_s, now)

    def lasted(self, since_s: float, until_s: float, now: float) -> bool:
        """Whether anything was asked for at any time from `since_s` to `until_s` seconds before now."""
        end = math.inf
        for began, requests in reversed(self._buckets):
            if end <= now - since_s:
                return False
            if requests and began < now - until_s:
                return True
            end = began
        return False

    def recent(self, window_s: float, now: float) -> float:
        """The most requests within the window, as far as is known."""
        start = now - window_s
        most = float(self.now_requests)
        for began, requests in reversed(self._buckets):
            most = max(most, requests)
            if began <= start:  # what held when the window began
                break
        return most
