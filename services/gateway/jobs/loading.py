"""Loads that this gateway has asked for: at most one of a model at a time, and why the last one failed.

idle ──start──▶ loading ──▶ idle (it is loaded, or may be tried again after RETRY_LOAD_S)
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from stoker.schemas.catalog import Model
from stoker.schemas.jobs import LoadInput
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.outcomes import completed_or_raise
from stoker.services.gateway.jobs.submission import Submission
from stoker.services.process.tasks import TaskOwner

RETRY_LOAD_S = 5.0
"""After a load that failed, the next may begin this much later."""


@dataclass(frozen=True, slots=True)
class LoadState:
    """failure: why the last load failed, until one succeeds. may_start_at: by the monotonic clock."""

    phase: Literal["idle", "loading"] = "idle"
    failure: str = ""
    may_start_at: float = 0.0


IDLE = LoadState()


class Loading:
    """Loads models in the background, in tasks of its own."""

    def __init__(
        self, submission: Submission, tasks: TaskOwner, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._submission = submission
        self._tasks = tasks
        self._clock = clock
        self._states: dict[str, LoadState] = {}

    def state_of(self, model: str) -> LoadState:
        return self._states.get(model, IDLE)

    def forget(self, model: str) -> None:
        """The model is gone from the catalog."""
        self._states.pop(model, None)

    def start(self, model: Model) -> LoadState:
        """See to it that the model is being loaded, once; how that stands."""
        state = self.state_of(model.name)
        if state.phase == "idle" and self._clock() >= state.may_start_at:
            state = self._states[model.name] = LoadState("loading", state.failure)
            self._tasks.start_contained(self._load, model)
        return state

    async def _load(self, model: Model) -> None:
        after = LoadState("idle", "the load was given up", self._clock())
        try:
            await load(self._submission, model)
            after = IDLE
        except RequestError as error:
            after = LoadState("idle", error.message, self._clock() + RETRY_LOAD_S)
        finally:
            if model.name in self._states:
                self._states[model.name] = after


async def load(submission: Submission, model: Model) -> None:
    """Have a model loaded, in turn with the jobs before it. Raises RequestError."""
    with submission.running(submission.make_job(model, "", LoadInput())) as ended:
        completed_or_raise((await ended).event)
