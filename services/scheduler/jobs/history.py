"""What can still be asked about jobs that have ended, and why live ones went where they went. Pure, bounded."""

from collections import OrderedDict
from collections.abc import Callable

from stoker.schemas.fleet import Explanation, JobView

KEPT_EXPLANATIONS = 20_000
KEPT_ENDINGS = 10_000
"""How many of the last decisions and endings can be asked for."""


class History:
    """The last endings and decisions, oldest first."""

    def __init__(self) -> None:
        self.endings: OrderedDict[str, JobView] = OrderedDict()
        self._explanations: OrderedDict[str, Callable[[], Explanation]] = OrderedDict()

    def ended(self, view: JobView) -> None:
        """A job has ended."""
        self.endings[view.id] = view
        if len(self.endings) > KEPT_ENDINGS:
            self.endings.popitem(last=False)

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
