"""Asking the scheduler: where a job stands, what there is, why a job went where it went.

Nobody may lead at the moment, or not answer in time. That is an answer of its own (`Unknown`, or RequestError
503 with Retry-After): it never reads as "there is no such job".
"""

from dataclasses import dataclass

from stoker.schemas import wire
from stoker.schemas.fleet import Explanation, JobQuery, JobsPage, JobsQuery, JobView
from stoker.schemas.workers import Done
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError
from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError

ASK_TIMEOUT_S = 2.0
PING_TIMEOUT_S = 1.0
UNDER_WAY = ("queued", "assigned", "running")


@dataclass(frozen=True, slots=True)
class Known:
    """The scheduler holds the job, or remembers it."""

    view: JobView

    @property
    def is_under_way(self) -> bool:
        return self.view.status in UNDER_WAY


@dataclass(frozen=True, slots=True)
class NotKnown:
    """The leading scheduler does not know the job: it never was, has ended, or is not with it yet."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """No scheduler has answered; that says nothing about the job. reason: why not."""

    reason: str


JobLookup = Known | NotKnown | Unknown


def no_scheduler() -> RequestError:
    return RequestError(503, "no scheduler answers; try again", retry_after_s=RETRY_AFTER_S)


async def look_up_job(bus: Bus, job: str, *, must_be_sure: bool = False, is_watched: bool = False) -> JobLookup:
    """Where a job stands. Raises nothing. is_watched: its events are wanted from now on.

    must_be_sure: `NotKnown` comes only from a scheduler that has read every job stored by now. That is a
    question of its own, so that a scheduler of a version before it refuses it: then the answer is `Unknown`.
    """
    answer = await _ask_for_job(bus, "job", JobQuery(job, is_watched))
    if must_be_sure and answer == NotKnown():
        answer = await _ask_for_job(bus, "job_for_sure", JobQuery(job, is_watched))
    return answer


async def _ask_for_job(bus: Bus, question: str, query: JobQuery) -> JobLookup:
    try:
        view: JobView | None = await bus.ask(
            bus.subjects.scheduler(question), query, JobView | None, ASK_TIMEOUT_S
        )
    except (BusError, wire.UnreadableMessage) as error:
        return Unknown(str(error))
    return NotKnown() if view is None else Known(view)


async def list_jobs(bus: Bus, query: JobsQuery) -> JobsPage:
    """A page of jobs, newest first. Raises RequestError 503."""
    try:
        page: JobsPage = await bus.ask(bus.subjects.scheduler("jobs"), query, JobsPage, ASK_TIMEOUT_S)
    except (BusError, wire.UnreadableMessage) as error:
        raise no_scheduler() from error
    return page


async def explain(bus: Bus, job: str) -> Explanation | None:
    """The last decision about a job; None when the scheduler knows of none. Raises RequestError 503."""
    subject = bus.subjects.scheduler("explain")
    try:
        found: Explanation | None = await bus.ask(subject, JobQuery(job), Explanation | None, ASK_TIMEOUT_S)
    except (BusError, wire.UnreadableMessage) as error:
        raise no_scheduler() from error
    return found


async def why_not_ready(bus: Bus) -> str:
    """Why no job would be placed now; "" when a scheduler leads and answers."""
    try:
        answer = await bus.ask(bus.subjects.scheduler("ping"), None, Done, PING_TIMEOUT_S)
    except (BusError, wire.UnreadableMessage):
        return "no scheduler answers"
    return "" if answer.ok else "the scheduler is taking over"
