"""The queue of one model: priorities first, then weighted fairness between tenants, then age.

Start-time fair queueing (Goyal, Vin, Cheng 1996): a job's start tag is the later of the queue's virtual time
and its tenant's last finish tag; the smallest tag goes first. With one tenant that is first in, first out.
Pure: no clock, no randomness.
"""

import heapq
from collections.abc import Iterator
from itertools import islice

Key = tuple[int, float, int]


class FairQueue:
    """Job ids in the order in which they are to run. Removing is lazy: O(log n) amortised."""

    def __init__(self) -> None:
        self._heap: list[tuple[Key, str]] = []
        self._keys: dict[str, Key] = {}
        self._finish_tags: dict[tuple[int, str], float] = {}
        self._virtual_time = 0.0
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, job: str) -> bool:
        return job in self._keys

    def push(self, job: str, priority: int = 0, tenant: str = "", weight: float = 1.0) -> Key:
        """Add a job; its key puts it back to the same place with `push_back`."""
        start = max(self._virtual_time, self._finish_tags.get((priority, tenant), 0.0))
        self._finish_tags[priority, tenant] = start + 1.0 / weight
        self._arrivals += 1
        key = (-priority, start, self._arrivals)
        self.push_back(job, key)
        return key

    def push_back(self, job: str, key: Key) -> None:
        """Return a job to the place it had: it has waited already."""
        self._keys[job] = key
        heapq.heappush(self._heap, (key, job))

    def peek(self) -> str | None:
        """The next job, or None."""
        while self._heap:
            key, job = self._heap[0]
            if self._keys.get(job) == key:
                return job
            heapq.heappop(self._heap)
        return None

    def pop(self) -> str:
        """Take the next job. Raises IndexError when the queue is empty."""
        job = self.peek()
        if job is None:
            raise IndexError("the queue is empty")
        self.take(job)
        return job

    def take(self, job: str) -> None:
        """Serve a job, wherever it stands: the queue's virtual time moves on. Raises KeyError."""
        key = self._keys.pop(job)
        self._virtual_time = max(self._virtual_time, key[1])
        self._tidy()

    def remove(self, job: str) -> bool:
        """Forget a job that is not served; False when it is not here."""
        is_here = self._keys.pop(job, None) is not None
        self._tidy()
        return is_here

    def _tidy(self) -> None:
        if not self._keys:
            self._heap.clear()
            self._finish_tags.clear()
            self._virtual_time = 0.0

    def in_order(self) -> Iterator[str]:
        """The jobs in order; O(log n) for each that is looked at. Jobs may be taken meanwhile, none pushed."""
        heap = self._heap
        frontier = [(heap[0], 0)] if heap else []
        seen: set[str] = set()
        while frontier:
            (key, job), index = heapq.heappop(frontier)
            for child in (2 * index + 1, 2 * index + 2):
                if child < len(heap):
                    heapq.heappush(frontier, (heap[child], child))
            if self._keys.get(job) == key and job not in seen:
                seen.add(job)
                yield job

    def first(self, count: int) -> Iterator[str]:
        """The next `count` jobs in order."""
        return islice(self.in_order(), count)

    def position(self, job: str) -> int | None:
        """Jobs ahead of this one, or None when it is not here."""
        mine = self._keys.get(job)
        return None if mine is None else sum(1 for key in self._keys.values() if key < mine)
