"""Who is served next: priorities first, then tenants by what they were given, then age.

One clock for all models. Each tenant has a counter of the device seconds that it was given, over its
weight, and of those who wait the one with the least is next (virtual token counters, Sheng et al.,
"Fairness in Serving Large Language Models", arXiv 2401.00588, with seconds for tokens). The clock shows
the counter of the tenant that was served last. One that begins to wait starts at the clock, or with
those who wait for the same model, where these are behind it: what it was served while nobody else
waited is not held against it. Who waits behind the clock has a claim, of at most `CLAIM_S`: what could
not be served for long does not stop everybody else afterwards. A job is charged when it is given to a
worker, by prediction, and what it took besides is charged when it ends.

Within one tenant and model the first to come is the first. Pure: no clock, no randomness.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from sortedcontainers import SortedDict

Order = tuple[int, float]
"""How urgent a waiting job is: its priority, negated, and its tenant's counter. The least goes first."""


CLAIM_S = 30.0
"""How far behind the clock a tenant can be, device seconds."""
KEPT_TENANTS = 1000
"""Counters of tenants that do not wait may lie about until so many are there."""


class FairClock:
    """The tenants' counters, in device seconds over their weight. All methods are O(1) amortised."""

    def __init__(self) -> None:
        self.now = 0.0
        self._given: dict[str, float] = {}
        self._credit: dict[str, float] = {}
        """What was charged too much, used up by the next charges: a counter never goes back."""
        self._waiting: dict[str, int] = {}

    def given(self, tenant: str) -> float:
        """The tenant's counter."""
        return max(self._given.get(tenant, self.now), self.now - CLAIM_S)

    def begin_waiting(self, tenant: str, beside: float | None = None) -> None:
        """One more job of the tenant waits. beside: the least counter of those who wait for the same
        model.
        """
        count = self._waiting.get(tenant, 0)
        self._waiting[tenant] = count + 1
        if not count:
            start = self.now if beside is None else min(beside, self.now)
            self._given[tenant] = max(self._given.get(tenant, 0.0), start)

    def stop_waiting(self, tenant: str) -> None:
        """One job of the tenant less waits."""
        self._waiting[tenant] -= 1
        if not self._waiting[tenant]:
            del self._waiting[tenant]
        if not self._waiting:
            self._given.clear()
            self._credit.clear()
        elif len(self._given) > 2 * len(self._waiting) + KEPT_TENANTS:
            self._given = {one: given for one, given in self._given.items() if one in self._waiting}
            self._credit = {one: credit for one, credit in self._credit.items() if one in self._waiting}

    def charge(self, tenant: str, seconds: float) -> None:
        """The tenant was given so much more; negative: so much less than it was charged for.

        While nobody waits it is held against nobody.
        """
        if not self._waiting:
            return
        given = self.given(tenant)
        owed = seconds - self._credit.pop(tenant, 0.0)
        if owed < 0:
            self._credit[tenant] = -owed
        else:
            self.now = max(self.now, given)
            self._given[tenant] = given + owed

    def validate(self) -> None:
        """Raise AssertionError where the books contradict each other."""
        assert all(count > 0 for count in self._waiting.values())
        assert self._waiting.keys() <= self._given.keys()


@dataclass(slots=True)
class _Line:
    """The waiting jobs of one tenant and priority, by arrival; a job's value is what its tenant will be
    charged, predicted device seconds over its weight. charge_s: of all of them.
    """

    tenant: str
    priority: int
    jobs: "SortedDict[int, tuple[str, float]]" = field(default_factory=SortedDict)
    charge_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a job stands. seconds: of the device that it is predicted to take. since: when it began to
    wait.
    """

    line: _Line
    number: int
    seconds: float
    weight: float
    since: float


class FairQueue:
    """The waiting jobs of one model. `clock` is shared by the queues of all models.

    seconds: of the device that all of them are predicted to take.
    """

    def __init__(self, clock: FairClock | None = None) -> None:
        self._clock = clock if clock is not None else FairClock()
        self._lines: dict[tuple[int, str], _Line] = {}
        self._heads: list[tuple[int, float, int, str]] = []
        """(-priority, counter, number, tenant) of each line, as they were at some time: a counter only
        grows.
        """
        self._places: dict[str, _Place] = {}
        self._since_total = 0.0
        self._unused: _Line | None = None
        self.seconds = 0.0

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, job: str) -> bool:
        return job in self._places

    def push(
        self,
        job: str,
        number: int,
        priority: int = 0,
        tenant: str = "",
        seconds: float = 1.0,
        since: float = 0.0,
        weight: float = 1.0,
    ) -> None:
        """Add a job, or put one back. number: its place among the jobs of its tenant, unique in the queue.

        seconds: of the device that it is predicted to take. since: when it began to wait. weight: its
        tenant's; one of twice the weight gets twice the device.
        """
        head = self._head()
        self._clock.begin_waiting(tenant, self._clock.given(head.tenant) if head is not None else None)
        line = self._lines.get((priority, tenant))
        if line is None:
            line = self._lines[priority, tenant] = self._new_line(tenant, priority)
        line.jobs[number] = (job, seconds / weight)
        line.charge_s += seconds / weight
        self.seconds += seconds
        self._since_total += since
        self._places[job] = _Place(line, number, seconds, weight, since)
        if line.jobs.peekitem(0)[0] == number:
            self._note_head(line)

    def _new_line(self, tenant: str, priority: int) -> _Line:
        """One that is no longer used, where there is one: making it costs more than all else here."""
        if self._unused is None:
            return _Line(tenant, priority)
        line, self._unused = self._unused, None
        line.tenant, line.priority, line.charge_s = tenant, priority, 0.0
        return line

    def _note_head(self, line: _Line) -> None:
        number = line.jobs.peekitem(0)[0]
        heapq.heappush(self._heads, (-line.priority, self._clock.given(line.tenant), number, line.tenant))

    def _head(self) -> _Line | None:
        """The line whose first job is next."""
        while self._heads:
            negated, given, number, tenant = self._heads[0]
            line = self._lines.get((-negated, tenant))
            if line is None or line.jobs.peekitem(0)[0] != number:
                heapq.heappop(self._heads)
                continue
            now = self._clock.given(tenant)
            if now == given:
                return line
            heapq.heapreplace(self._heads, (negated, now, number, tenant))
        return None

    def peek(self) -> str | None:
        """The next job, or None."""
        line = self._head()
        return line.jobs.peekitem(0)[1][0] if line is not None else None

    def order(self) -> Order | None:
        """How urgent the next job is, or None where there is none."""
        first = self.first_with_order()
        return first[1] if first is not None else None

    def first_with_order(self) -> tuple[str, Order] | None:
        """The next job and how urgent it is, or None."""
        line = self._head()
        if line is None:
            return None
        return line.jobs.peekitem(0)[1][0], (-line.priority, self._clock.given(line.tenant))

    def take(self, job: str, seconds: float | None = None) -> None:
        """Serve a job, wherever it stands: its tenant is charged. Raises KeyError.

        seconds: what it is predicted to take where it goes; what it was pushed with where None.
        """
        place = self._leave(job)
        taken_s = place.seconds if seconds is None else seconds
        self._clock.charge(place.line.tenant, taken_s / place.weight)

    def remove(self, job: str) -> bool:
        """Forget a job that is not served; False when it is not here."""
        if job not in self._places:
            return False
        self._leave(job)
        return True

    def _leave(self, job: str) -> _Place:
        place = self._places.pop(job)
        line = place.line
        was_head = line.jobs.peekitem(0)[0] == place.number
        _, charge_s = line.jobs.pop(place.number)
        line.charge_s -= charge_s
        self.seconds -= place.seconds
        self._since_total -= place.since
        if not line.jobs:
            self._unused = self._lines.pop((line.priority, line.tenant))
        elif was_head:
            self._note_head(line)
        if not self._places:
            self._heads.clear()
            self.seconds = self._since_total = 0.0
        self._clock.stop_waiting(line.tenant)
        return place

    def waited_s(self, now: float) -> float:
        """How long all jobs together have waited."""
        return max(len(self._places) * now - self._since_total, 0.0)

    def in_order(self) -> Iterator[str]:
        """The jobs as they would be served now: O(log tenants) each. None may come or go meanwhile."""
        given = {tenant: self._clock.given(tenant) for _, tenant in self._lines}
        nexts = [
            (-line.priority, given[line.tenant], *line.jobs.peekitem(0), 0, key)
            for key, line in self._lines.items()
        ]
        heapq.heapify(nexts)
        while nexts:
            negated, known, number, (job, charge_s), index, key = nexts[0]
            if known != (now := given[key[1]]):  # a job of this tenant in another line went before
                heapq.heapreplace(nexts, (negated, now, number, (job, charge_s), index, key))
                continue
            heapq.heappop(nexts)
            yield job
            given[key[1]] += charge_s
            jobs = self._lines[key].jobs
            if index + 1 < len(jobs):
                heapq.heappush(nexts, (negated, given[key[1]], *jobs.peekitem(index + 1), index + 1, key))

    def first(self, count: int) -> Iterator[str]:
        """The next `count` jobs in order."""
        return islice(self.in_order(), count)

    def position(self, job: str) -> int | None:
        """Jobs ahead of this one, about; None when it is not here. O(log jobs + tenants)."""
        place = self._places.get(job)
        if place is None:
            return None
        mine = place.line
        rank: int = mine.jobs.bisect_left(place.number)
        begins_at = self._clock.given(mine.tenant) + mine.charge_s * rank / len(mine.jobs)
        ahead = rank
        for line in self._lines.values():
            if line is mine or line.priority < mine.priority:
                continue
            if line.priority > mine.priority:
                ahead += len(line.jobs)
                continue
            each_s = line.charge_s / len(line.jobs)
            lead_s = begins_at - self._clock.given(line.tenant)
            if lead_s > 0:
                ahead += min(len(line.jobs), int(lead_s / each_s) + 1 if each_s > 0 else len(line.jobs))
        return ahead
