"""What the leader is asked, and its answers, read off the core's books: nothing here changes a decision.

People and gateways ask job, job_for_sure, jobs, explain and ping; workers ask recorded. What needs the stream
or the store to be read is answered by a task of its own.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter_ns
from typing import Any

from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.channels import ENDPOINTS
from stoker.schemas.fleet import JobQuery, JobsQuery
from stoker.schemas.subjects import ANY, from_token
from stoker.schemas.workers import Done, Recorded, RecordedQuery
from stoker.services.bus.connection import Bus
from stoker.services.bus.endpoints import Served
from stoker.services.bus.errors import BusError
from stoker.services.process.clock import steady_now
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import LimitExceeded, TaskOwner, limit
from stoker.services.records.results import recorded
from stoker.services.scheduler.core import Scheduler
from stoker.services.scheduler.feed import JobFeed
from stoker.services.scheduler.placing.explaining import with_calls

log = get_logger("scheduler")

PREFIX = "scheduler_"
SURE_WITHIN_S = 1.5
"""How long a question may wait until every job has been read; shorter than who asks waits."""
MAY_COME = Done(ok=False, reason="this scheduler has not read every job: it may not know this one yet")


class Questions:
    """Answers for as long as the block of `answered` lasts. identity: of this scheduler."""

    def __init__(self, bus: Bus, core: Scheduler, feed: JobFeed, tasks: TaskOwner, identity: str) -> None:
        self._bus = bus
        self._core = core
        self._feed = feed
        self._tasks = tasks
        self._identity = identity
        self._served = {
            name.removeprefix(PREFIX): bus.endpoints.of(name) for name in ENDPOINTS if name.startswith(PREFIX)
        }
        self._at_once: dict[str, Callable[[bytes], object]] = {
            "job": self._job,
            "jobs": lambda data: core.ledger.page(wire.decode(JobsQuery, data)),
            "explain": self._explain,
            "ping": lambda _: Done(ok=not core.is_settling, reason=identity),
        }

    @asynccontextmanager
    async def answered(self) -> AsyncIterator[None]:
        """One subscription for all of them: what a later version asks is answered too, with an error."""
        questions = self._bus.subjects.every("scheduler", ANY)
        async with self._bus.listening((questions, self._on_question)):
            with self._bus.endpoints.announcing(*self._served.values()):
                yield

    def _on_question(self, message: Msg) -> None:
        began_ns, problem = perf_counter_ns(), ""
        verb = message.subject.rsplit(".", 1)[1]
        served = self._served.get(verb)
        answer: object
        try:
            if served is None:
                answer = Done(ok=False, reason=f"no such question: {from_token(verb)}")
            elif (at_once := self._at_once.get(verb)) is not None:
                answer = at_once(message.data)
            else:
                self._answer_later(verb, message, served, began_ns)
                return
        except wire.UnreadableMessage as error:
            problem = str(error)
            answer = Done(ok=False, reason=problem)
        if message.reply:
            self._bus.tell(message.reply, answer)
        if served is not None:
            served.done(began_ns, problem)

    def _job(self, data: bytes) -> object:
        query = wire.decode(JobQuery, data)
        if query.is_watched:
            self._core.ledger.watch(query.job)
        answer = self._core.forecast.view(query.job, steady_now())
        return MAY_COME if answer is None and not self._core.reconciler.knows_all_jobs else answer

    def _explain(self, data: bytes) -> object:
        job = wire.decode(JobQuery, data).job
        return with_calls(self._core.dispatcher.explain(job, steady_now()), self._core.ledger.view(job))

    def _answer_later(self, verb: str, message: Msg, served: Served, began_ns: int) -> None:
        """Raises UnreadableMessage."""
        asked: Any
        if verb == "job_for_sure":
            asked = wire.decode(JobQuery, message.data)
            self._tasks.start_contained(self._answer_for_sure, asked.job, message.reply, served, began_ns)
        else:
            asked = wire.decode(RecordedQuery, message.data)
            self._tasks.start_contained(self._answer_recorded, asked, message.reply, served, began_ns)

    async def _answer_for_sure(self, job: str, reply: str, served: Served, began_ns: int) -> None:
        """Where a job is; "not known" only when every job that is stored until now has been read."""
        answer: object = MAY_COME
        problem = ""
        try:
            with limit("reading every job", SURE_WITHIN_S):
                await self._feed.wait_for_all_so_far()
            answer = self._core.forecast.view(job, steady_now())
        except (LimitExceeded, BusError) as error:
            problem = str(error)
            log.warning("job.not_sure", job=job, error=problem)
        self._bus.tell(reply, answer)
        served.done(began_ns, problem)

    async def _answer_recorded(self, asked: RecordedQuery, reply: str, served: Served, began_ns: int) -> None:
        """What is stored of a job, for a worker that has it."""
        if not self._bus.seals.holds(asked.job, asked.seal):
            answer = Recorded("unknown", reason="this worker was not given the job")
        else:
            answer = await recorded(self._bus, asked.job)
        self._bus.tell(reply, answer)
        served.done(began_ns, answer.reason)
