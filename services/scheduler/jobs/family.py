"""Which jobs have called which: the calls of every live job, and those whose caller has ended. Pure.

A call ends with the job that made it, whichever way that ends. A job that is given to another worker is the
same job: its calls go on, and its next attempt finds them.
"""

from stoker.schemas.children import SHOWN_CHILDREN, ChildView
from stoker.schemas.jobs import Job, Status

ENDED = frozenset({"completed", "failed", "cancelled", "expired"})


class Family:
    """By parent. All methods are O(1), but for `parent_ends` and `shown`."""

    def __init__(self) -> None:
        self._calls: dict[str, dict[str, ChildView]] = {}
        self._orphaned: list[str] = []

    def arrived(self, job: Job) -> None:
        """A call has arrived of a job that is live."""
        self._calls.setdefault(job.parent, {})[job.id] = ChildView(job.id, job.model)

    def ended(self, parent: str, call: str, model: str, status: Status) -> None:
        """A call of a live job has ended, now or before this term."""
        self._calls.setdefault(parent, {})[call] = ChildView(call, model, status)

    def parent_ends(self, job: str) -> None:
        """A job has ended: its calls are to be cancelled."""
        calls = self._calls.pop(job, {})
        self._orphaned += [call for call, view in calls.items() if view.status not in ENDED]

    def take_orphaned(self) -> list[str]:
        """The calls that are to be cancelled since the last time."""
        orphaned, self._orphaned = self._orphaned, []
        return orphaned

    def count(self, job: str) -> int:
        """How many calls a live job has made."""
        return len(self._calls.get(job, ()))

    def shown(self, job: str) -> tuple[ChildView, ...]:
        """The first calls of a live job; the state of those that are live is as it was when they arrived."""
        calls = self._calls.get(job)
        return tuple(calls.values())[:SHOWN_CHILDREN] if calls else ()

    def validate(self, live: dict[str, str]) -> None:
        """Raise AssertionError where the calls and the live jobs disagree. live: the parent of each."""
        for parent, calls in self._calls.items():
            assert parent in live, f"{parent} has ended, and its calls are in the books"
            for call, view in calls.items():
                assert (call in live) == (view.status not in ENDED), f"{call} of {parent}: {view.status}"
        for job, parent in live.items():
            assert not parent or parent not in live or job in self._calls.get(parent, ()), f"{job}: a lost call"
