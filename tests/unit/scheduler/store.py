"""The results as the server keeps them in the simulated world: one record per job, written to under a fence.

As services/records/results.py and its stream do it: a write is taken only where its writer knows the last record, and
those of a leader only while its term is the newest that was admitted.
"""

from dataclasses import dataclass, field

from stoker.services.records.results import Order, Outcome


@dataclass
class Results:
    """ended: the stored end of each job. notes: the last record of a job that has none: its number and attempt."""

    term: int = 0
    ended: dict[str, str] = field(default_factory=dict)
    notes: dict[str, tuple[int, Order]] = field(default_factory=dict)
    _last: int = 0

    def admit(self, term: int) -> bool:
        """A new leader; False, and nothing changes, where a later one was admitted."""
        self.term = max(self.term, term)
        return self.term == term

    def end(self, job: str, end: str, fence: int) -> Outcome:
        """An attempt ends its job."""
        if job in self.ended:
            return "ended_before"
        place, _ = self.notes.get(job, (0, (0, 0)))
        if place and place != fence:
            return "superseded"
        self.ended[job] = end
        return "stored"

    def decide(self, job: str, end: str, term: int) -> Outcome | None:
        """The leader of a term ends a job; None: the server does not take it."""
        if term != self.term:
            return None
        if job in self.ended:
            return "ended_before"
        self.ended[job] = end
        return "stored"

    def supersede(self, job: str, term: int, attempt: int) -> int | None:
        """The leader notes who has the job: the fence, or None where it has ended. Raises ValueError as refused."""
        if term != self.term:
            raise ValueError(f"term {self.term} is admitted, this is {term}")
        if job in self.ended:
            return None
        place, order = self.notes.get(job, (0, (0, 0)))
        if order >= (term, attempt):
            if order > (term, attempt):
                raise ValueError(f"attempt {order} of {job} is noted already")
            return place
        self._last += 1
        self.notes[job] = (self._last, (term, attempt))
        return self._last
