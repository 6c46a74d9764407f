"""Consistent hashing with bounded loads: requests that begin alike go to the same replica while it has room.

A replica's cache holds the prefixes that it has seen. Each replica has `replication` points on a ring of 64-bit
hashes; a request's prefix is a point too, and the walk goes clockwise from there. The bound on loads: Mirrokni,
Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016), in the form that KubeAI gave it. Pure.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping

from xxhash import xxh64_intdigest

DEFAULT_REPLICATION = 256
DEFAULT_MEAN_LOAD_PERCENTAGE = 125


def _hash(text: str) -> int:
    return int(xxh64_intdigest(text.encode()))


class HashRing:
    """Replicas by name. Adding and removing one moves only the keys that fall to it or fell to it."""

    def __init__(self, replication: int = DEFAULT_REPLICATION) -> None:
        self.replication = replication
        self._points: list[tuple[int, str]] = []
        self._names: set[str] = set()

    def add(self, name: str) -> None:
        if name not in self._names:
            self._names.add(name)
            for index in range(self.replication):
                insort(self._points, (_hash(f"{name}#{index}"), name))

    def remove(self, name: str) -> None:
        if name in self._names:
            self._names.discard(name)
            self._points = [point for point in self._points if point[1] != name]

    def keep(self, names: Iterable[str]) -> None:
        """Make the ring these replicas and no others."""
        wanted = set(names)
        for name in self._names - wanted:
            self.remove(name)
        for name in sorted(wanted - self._names):
            self.add(name)

    def pick(
        self,
        key: str,
        in_flight: Mapping[str, int],
        mean_load_percentage: int = DEFAULT_MEAN_LOAD_PERCENTAGE,
        can_serve: Callable[[str], bool] | None = None,
        floor: int = 0,
    ) -> str | None:
        """The first replica clockwise of the key that can serve and is not overloaded.

        Overloaded: more in flight than (total + 1) / n x mean_load_percentage / 100, and not below `floor`.
        Where every one that can serve is, the first of them; None where none can.
        """
        total = sum(in_flight.get(name, 0) for name in self._names)
        bound = (total + 1) / max(len(self._names), 1) * mean_load_percentage / 100
        start = bisect_left(self._points, (_hash(key), ""))
        first_able: str | None = None
        considered: set[str] = set()
        for step in range(len(self._points)):
            name = self._points[(start + step) % len(self._points)][1]
            if name in considered:
                continue
            considered.add(name)
            if can_serve is None or can_serve(name):
                load = in_flight.get(name, 0)
                if total == 0 or load <= bound or load < floor:
                    return name
                first_able = first_able or name
            if len(considered) == len(self._names):
                break
        return first_able
