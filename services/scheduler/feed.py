"""The stream of jobs, as the leading scheduler reads it.

The durable consumer on STOKER_JOBS is deleted and made anew on taking over and after a reconnection: every
unfinished job comes again at once. It is named by the term, and the name is part of every acknowledgement: what
an earlier leader still says has no effect, as its consumer is gone.

Jobs are asked for BATCH at a time, the next ones when the core has taken in these (`taken`). So however long
the queue is, what else is said to a new leader (heartbeats, the lease's renewals, answers) never waits behind
it.

Nothing is looked up for a job that comes: one from before our term, or under an id that a client chose, may
have run or ended already, and that is found out when it is given to a worker or ended (results.py). So taking
over takes as long as reading the stream, and placing need not wait for the end of that.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from anyio import move_on_after
from nats.aio.msg import Msg
from nats.js import api

from stoker.schemas import wire
from stoker.schemas.jobs import Job, JobHead
from stoker.schemas.subjects import ANY, JOBS_STREAM, BadName, check_name
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, Missing, named
from stoker.services.bus.sizes import max_job_bytes
from stoker.services.bus.streams import MAX_JOBS
from stoker.services.process.clock import steady_now
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import TaskOwner
from stoker.services.process.tracing import trace_of
from stoker.services.records.quarantine import put_aside
from stoker.services.scheduler.protocol.events import JobArrived

log = get_logger("scheduler")

RETRY_S = 0.2
READ_POLL_S = 0.05
REQUEST_OVER = "408"
"""The status with which the server ends a request that has stood for its time."""
LOOK_EVERY_S = 1.0
"""How often it is asked whether everything from before this term has come, beside what deliveries say."""
BATCH = 256
ASK_S = 5.0
"""How long one request for jobs stands with the server; then it is made again."""
ASK_MARGIN_S = 1.0
"""After this much longer a request counts as lost."""
ACK_WAIT_S = 24 * 3600.0
"""Longer than any job may take: a leader that dies is replaced by making the consumer anew instead."""


class JobFeed:
    """`arrived` gets each job; `tasks` owns the making of a new consumer."""

    def __init__(self, bus: Bus, arrived: Callable[[JobArrived], None], tasks: TaskOwner, term: int) -> None:
        self._bus = bus
        self.consumer = f"scheduler-{term}"
        self._arrived = arrived
        self._tasks = tasks
        self.deliveries = bus.client.new_inbox()
        self._old_sequence = 0
        self._old_have_come = asyncio.Event()
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{JOBS_STREAM}.{self.consumer}"
        self._asked_until = 0.0
        self._left = 0
        """Jobs that the request which stands may still bring."""
        self._untaken = 0
        """Jobs that came and that the core has not taken in."""
        self._read_to = 0
        """Place in the stream up to which the core has taken in everything."""

    async def open(self) -> None:
        """Make the consumer; subscribe to `deliveries` before. Raises BusError."""
        await self._remove_consumers()
        with named("reading the stream of jobs"):
            info = await self._bus.jetstream.stream_info(JOBS_STREAM)
        self._old_sequence = info.state.last_seq
        config = api.ConsumerConfig(
            durable_name=self.consumer,
            description="The leading scheduler takes jobs from here",
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_S,
            max_ack_pending=MAX_JOBS,
        )
        with named("making the consumer of jobs"):
            made = await self._bus.jetstream.add_consumer(JOBS_STREAM, config)
        if not made.num_pending:
            self._old_have_come.set()
        self._ask()

    def _ask(self) -> None:
        """Ask for the next jobs."""
        self._left = BATCH
        self._asked_until = steady_now() + ASK_S + ASK_MARGIN_S
        self._bus.post(self._next, wire.encode({"batch": BATCH, "expires": int(ASK_S * 1e9)}), self.deliveries)

    def taken(self, sequence: int) -> None:
        """The core has taken in the job at this place of the stream; jobs come in the order of their places."""
        self._untaken -= 1
        self._read_to = max(self._read_to, sequence)
        self._ask_on()

    def _ask_on(self) -> None:
        if self._left <= 0 and self._untaken <= 0:
            self._ask()

    async def keep_asking(self) -> None:
        """Make a request again that was lost, until cancelled."""
        while True:
            await asyncio.sleep(ASK_MARGIN_S)
            if self._left > 0 and steady_now() > self._asked_until:
                self._ask()

    async def _remove_consumers(self) -> None:
        """Those of earlier leaders, and our own of before a reconnection: the stream takes one at a time."""
        with named("listing the consumers of jobs"):
            consumers = await self._bus.jetstream.consumers_info(JOBS_STREAM)
        for consumer in consumers:
            with suppress(Missing), named("removing the consumer of before"):
                await self._bus.jetstream.delete_consumer(JOBS_STREAM, consumer.name)

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

    async def wait_for_old(self) -> None:
        """Return when every job from before this term has come."""
        while not self._old_have_come.is_set():
            with move_on_after(LOOK_EVERY_S):
                await self._old_have_come.wait()
                return
            await self._look()

    async def wait_for_all_so_far(self) -> None:
        """Return when the core has taken in every job that is in the stream now. Raises BusError.

        This is asked of the stream, so that it holds for a leader too that was paused, and replaced meanwhile.
        """
        with named("reading the stream of jobs"):
            last = (await self._bus.jetstream.stream_info(JOBS_STREAM)).state.last_seq
        while self._read_to < last:
            if await self._first_unread() > last:
                return  # what lies between has ended
            await asyncio.sleep(READ_POLL_S)

    async def _first_unread(self) -> float:
        """Place of the first job in the stream that the core has not taken in; infinite where there is none."""
        every = self._bus.subjects.every("jobs", ANY)
        try:
            with named("looking for the next job"):
                found = await self._bus.jetstream.get_msg(JOBS_STREAM, self._read_to + 1, every, next=True)
        except Missing:
            return math.inf
        return found.seq or math.inf

    async def _look(self) -> None:
        """Ask the server whether everything was delivered: the last jobs may have been lost, or removed."""
        try:
            with named("asking for the consumer of jobs"):
                info = await self._bus.jetstream.consumer_info(JOBS_STREAM, self.consumer)
        except BusError as error:
            log.warning("consumer.not_seen", error=str(error))
            return
        if not info.num_pending:
            self._old_have_come.set()

    def on_job(self, message: Msg) -> None:
        """A delivery. Its reply subject tells its place in the stream, and how many are still to come."""
        if not message.reply:  # the server's own word: that a request is over, or that nobody takes it now
            self._left = 0
            if (message.headers or {}).get("Status") == REQUEST_OVER:
                self._ask_on()
            else:
                asyncio.get_running_loop().call_later(RETRY_S, self._ask_on)
            return
        self._left -= 1
        parts = message.reply.split(".")
        sequence, pending = int(parts[-4]), int(parts[-1])
        job, unreadable = _read(message, max_job_bytes(self._bus.max_payload))
        if job is None:
            self._put_aside(message, unreadable, "", partial(self._bus.post, message.reply, b"+TERM"))
            self._ask_on()
        else:
            if unreadable:
                self._put_aside(message, unreadable, job.id)
            self._untaken += 1
            may_have_run = sequence <= self._old_sequence or job.is_client_named
            trace = trace_of(message)
            self._arrived(JobArrived(job, message.reply, sequence, trace, may_have_run, unreadable))
        if sequence >= self._old_sequence or not pending:
            self._old_have_come.set()

    def _put_aside(
        self, message: Msg, reason: str, job: str, stored: Callable[[], None] = lambda: None
    ) -> None:
        given = (message.subject, message.data, message.headers, reason)
        put_aside(self._bus, "job", *given, job=job, stored=stored)


def _read(message: Msg, max_bytes: int) -> tuple[Job | None, str]:
    """The job; where only its head can be used, why. None: not even whom to tell is known."""
    reason = f"the job has {len(message.data)} bytes; no more than {max_bytes} can be given to a worker"
    try:
        if len(message.data) <= max_bytes:
            return wire.decode(Job, message.data), ""
    except wire.UnreadableMessage as error:
        reason = f"this scheduler cannot read the job, which a later version may have stored: {error}"
    try:
        head: JobHead = wire.decode(JobHead, message.data)
        for name in (head.id, head.model, head.gateway):
            check_name(name)
    except (wire.UnreadableMessage, BadName) as error:
        return None, f"{reason}; {error}"
    log.warning("job.unreadable", job=head.id, error=reason)
    return head.as_job(), reason
