"""What a lane of a worker has to do, known without a look at each of its jobs: it may have thousands. Pure."""

from dataclasses import dataclass
from heapq import heapify, heappop, heappush

MOST_PASSED = 64
"""So many jobs that are gone may stand among the ends before these are sorted anew."""


@dataclass(slots=True)
class Held:
    """A slot that a job takes up. run_s: how long it is predicted to, from `since`, load_s included.

    slots: of its lane: a job takes the device for 1 / slots of its time. is_ahead: it was sent ahead of
    a free slot, to hide the latency of the wire; `since` is set when it has one. likeness, batch: so many that
    are alike run as one. depth: as in Job. waits_since: since when it waits for calls of its own, and takes no
    slot; None where it does not. goes_on: its worker says that something of it has come in the last seconds.
    """

    job: str
    model: str
    spec: str
    lane: str
    attempt: int
    since: float
    run_s: float = 0.0
    load_s: float = 0.0
    slots: int = 1
    is_ahead: bool = False
    likeness: bytes = b""
    batch: int = 1
    depth: int = 0
    waits_since: float | None = None
    goes_on: bool = False


class Lane:
    """The jobs of a lane: those that have a slot, and those that were sent ahead of one.

    jobs: how many. ahead: those that were sent ahead, in their order. Sums are whole microseconds, so that they
    are zero again when all have left.
    """

    __slots__ = ("_ahead_us", "_by_end", "_ends", "_ends_us", "ahead", "jobs")

    def __init__(self) -> None:
        self.jobs = 0
        self.ahead: dict[str, Held] = {}
        self._ahead_us = 0
        self._ends: dict[str, int] = {}
        """When each that has a slot is predicted to end; not of those that should have ended already."""
        self._ends_us = 0
        self._by_end: list[tuple[int, str]] = []
        """The same as a heap, the earliest first, and ends of jobs that have left."""

    def enter(self, held: Held) -> None:
        self.jobs += 1
        if held.is_ahead:
            self.ahead[held.job] = held
            self._ahead_us += _us(held.run_s)
            return
        end = _us(held.since + held.run_s)
        self._ends[held.job] = end
        self._ends_us += end
        if len(self._by_end) > 2 * len(self._ends) + MOST_PASSED:
            self._by_end = [(end, job) for job, end in self._ends.items()]
            heapify(self._by_end)
        else:
            heappush(self._by_end, (end, held.job))

    def leave(self, held: Held) -> None:
        self.jobs -= 1
        if self.ahead.pop(held.job, None) is not None:
            self._ahead_us -= _us(held.run_s)
        else:
            self._ends_us -= self._ends.pop(held.job, 0)

    def begin(self, held: Held, now: float) -> None:
        """One that was sent ahead has a slot."""
        self.leave(held)
        held.is_ahead, held.since = False, now
        self.enter(held)

    def work_s(self, now: float) -> float:
        """Seconds until all have run, one after the other; one that takes longer than predicted counts nothing.

        `now` never goes back.
        """
        now_us = _us(now)
        while self._by_end and self._by_end[0][0] <= now_us:
            end, job = heappop(self._by_end)
            if self._ends.get(job) == end:
                del self._ends[job]
                self._ends_us -= end
        return (self._ahead_us + self._ends_us - len(self._ends) * now_us) / 1e6


def _us(seconds: float) -> int:
    return round(1e6 * seconds)
