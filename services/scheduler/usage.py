"""What keys have used, by day and model, since it was last written down. Pure.

A job counts when it leaves the books, once, whoever ran it and however often. What a leader has not written yet
when it dies is lost: WRITE_EVERY_S at most.
"""

import datetime

from stoker.schemas.jobs import Job
from stoker.schemas.usage import DayUse, ModelUse
from stoker.schemas.workers import Finished

WRITE_EVERY_S = 10.0


class UsageBook:
    """now: seconds since 1970."""

    def __init__(self) -> None:
        self._uses: dict[tuple[str, str], dict[str, ModelUse]] = {}

    def note(self, job: Job, finished: Finished, now: float) -> None:
        """A job has ended on a worker."""
        day = datetime.datetime.fromtimestamp(now, datetime.UTC).date().isoformat()
        models = self._uses.setdefault((day, job.tenant), {})
        models[job.model] = models.get(job.model, ModelUse()) + ModelUse(
            1,
            finished.outcome != "completed",
            finished.prompt_tokens,
            finished.answer_tokens,
            finished.run_s / max(finished.batch, 1),
        )

    def take(self) -> list[DayUse]:
        """What was used since the last call."""
        uses, self._uses = self._uses, {}
        return [DayUse(day, key, models) for (day, key), models in uses.items()]

    def give_back(self, use: DayUse) -> None:
        """It could not be written down."""
        models = self._uses.setdefault((use.day, use.key), {})
        for name, one in use.models.items():
            models[name] = models.get(name, ModelUse()) + one
