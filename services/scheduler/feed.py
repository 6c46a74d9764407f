"""The stream of jobs, as the leading scheduler reads it.

The durable consumer on STOKER_JOBS is deleted and made anew on taking over and after a reconnection: every
unfinished job comes again at once, and a leader of before is fenced off, as its consumer is gone. A job from
before our time may have ended already: its result is looked up before it goes on.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from nats.aio.msg import Msg
from nats.js import api

from schemas import wire
from schemas.jobs import Job
from schemas.subjects import JOBS_STREAM
from services.bus.connection import Bus
from services.bus.errors import BusError, Missing, named
from services.bus.streams import MAX_JOBS
from services.process.logs import get_logger
from services.process.tasks import TaskOwner
from services.process.tracing import trace_of
from services.records.results import NotStored, Stored, Unknown, Unreadable, find_result
from services.scheduler.protocol.events import JobArrived

log = get_logger("scheduler")

CONSUMER = "scheduler"
LOOKUPS_AT_ONCE = 64
RETRY_S = 0.2
ACK_WAIT_S = 24 * 3600.0
"""Longer than any job may take: a leader that dies is replaced by making the consumer anew instead."""


class JobFeed:
    """`arrived` gets each job; `is_known` tells whether the core has it; `tasks` owns the lookups."""

    def __init__(
        self,
        bus: Bus,
        arrived: Callable[[JobArrived], None],
        is_known: Callable[[str], bool],
        tasks: TaskOwner,
    ) -> None:
        self._bus = bus
        self._arrived = arrived
        self._is_known = is_known
        self._tasks = tasks
        self.deliveries = bus.client.new_inbox()
        self.has_old_checked = asyncio.Event()
        """Set when every job from before our time has come and is looked up."""
        self._old_sequence = 0
        self._old_expected = 0
        self._old_seen = 0
        self._lookups = asyncio.Semaphore(LOOKUPS_AT_ONCE)

    async def open(self) -> None:
        """Make the consumer; subscribe to `deliveries` before. Raises BusError."""
        with suppress(Missing), named("removing the consumer of before"):
            await self._bus.jetstream.delete_consumer(JOBS_STREAM, CONSUMER)
        with named("reading the stream of jobs"):
            info = await self._bus.jetstream.stream_info(JOBS_STREAM)
        self._old_sequence = info.state.last_seq
        self._old_expected, self._old_seen = info.state.messages, 0
        if not self._old_expected:
            self.has_old_checked.set()
        config = api.ConsumerConfig(
            durable_name=CONSUMER,
            deliver_subject=self.deliveries,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_S,
            max_ack_pending=MAX_JOBS,
        )
        with named("making the consumer of jobs"):
            await self._bus.jetstream.add_consumer(JOBS_STREAM, config)

    def reopen(self) -> None:
        """After a reconnection: what was under way to us would come again only after its ack_wait."""

        self._tasks.start(self._open_again)

    async def _open_again(self) -> None:
        while True:
            try:
                await self.open()
                return
            except BusError as error:
                log.warning("consumer.not_made", error=str(error))
                await asyncio.sleep(RETRY_S)

    def on_job(self, message: Msg) -> None:
        """A delivery."""
        sequence = int(message.reply.split(".")[-4])
        try:
            job: Job = wire.decode(Job, message.data)
        except wire.UnreadableMessage as error:
            log.error("job.unreadable", subject=message.subject, error=str(error))
            self._bus.post(message.reply, b"+TERM")
            self._count_old(sequence)
            return
        event = JobArrived(job, message.reply, sequence, trace_of(message))
        if sequence <= self._old_sequence or job.is_client_named:
            self._tasks.start(self._look_up, event)
        else:
            self._arrived(event)

    async def _look_up(self, event: JobArrived) -> None:
        """Take in a job that may have ended before it came here (again)."""
        job = event.job
        if not self._is_known(job.id) and await self._has_result(job):
            self._bus.post(event.handle, b"+ACK")
        else:
            self._arrived(event)
        self._count_old(event.sequence)

    async def _has_result(self, job: Job) -> bool:
        async with self._lookups:
            while True:
                match await find_result(self._bus, job.id, job.gateway):
                    case Stored() | Unreadable():
                        return True
                    case NotStored():
                        return False
                    case Unknown(reason):
                        log.warning("result.not_looked_up", job=job.id, error=reason)
                        await asyncio.sleep(RETRY_S)

    def _count_old(self, sequence: int) -> None:
        if sequence <= self._old_sequence:
            self._old_seen += 1
            if self._old_seen >= self._old_expected:
                self.has_old_checked.set()
