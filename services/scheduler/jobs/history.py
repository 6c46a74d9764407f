"""What can still be asked about jobs that have ended, and why live ones went where they went. Pure, bounded."""

from collections import OrderedDict, deque
from collections.abc import Callable

from stoker.schemas.fleet import Explanation, JobView
from stoker.schemas.jobs import Job

KEPT_EXPLANATIONS = 20_000
KEPT_ENDINGS = 10_000
"""How many of the last decisions and endings can be asked for."""
MAX_NEW = 5_000
"""Endings that wait to be noted for the time axis: beyond that the oldest are only counted."""


class History:
    """The last endings and decisions, oldest first."""

    def __init__(self) -> None:
        self.endings: OrderedDict[str, JobView] = OrderedDict()
        self._explanations: OrderedDict[str, Callable[[], Explanation]] = OrderedDict()
        self._new: deque[tuple[JobView, Job]] = deque(maxlen=MAX_NEW)
        self._new_count = 0

    def ended(self, view: JobView, job: Job | None = None) -> None:
        """A job has ended. job: None where it is not to be noted for the time axis."""
        if job is not None:
            self._new.append((view, job))
            self._new_count += 1
        self.endings[view.id] = view
        if len(self.endings) > KEPT_ENDINGS:
            self.endings.popitem(last=False)

    def take_new(self) -> tuple[list[tuple[JobView, Job]], int]:
        """What has ended since the last call, and how many more there were than are kept."""
        found, more = list(self._new), self._new_count - len(self._new)
        self._new.clear()
        self._new_count = 0
        return found, more

    def note_ending(self, view: JobView) -> None:
        """Enter an ending from before this scheduler's term."""
        self.endings.setdefault(view.id, view)

    def decided(self, job: str, explain: Callable[[], Explanation]) -> None:
        """Keep a decision; it is put into words when somebody asks, which few do."""
        self._explanations[job] = explain
        if len(self._explanations) > KEPT_EXPLANATIONS:
            self._explanations.popitem(last=False)

    def explanation(self, job: str) -> Explanation | None:
        """Why a job went where it went last; None when it has not been placed, or is long over."""
        explain = self._explanations.get(job)
        return explain() if explain is not None else None
