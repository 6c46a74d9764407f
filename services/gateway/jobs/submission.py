"""From a validated request to an accepted job, and to its end: make, store, run, watch, cancel.

Storing is one step with one implementation: `store` publishes the job and gives a future. A publication that
was not answered is repeated every STORE_AGAIN_S (its id keeps it from being stored twice) until
STORE_PATIENCE_S is over, until nobody waits for the future any more, or until the gateway closes; so no repeat
outlives it.

`running` and `watched` are the two ways to wait for a job's end. Leaving either before the end, for whatever
reason, takes back all that it has registered and cancels the job, for nobody would have its result.
"""

import asyncio
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import msgspec
from nats.nuid import NUID

from stoker.schemas import wire
from stoker.schemas.catalog import Model
from stoker.schemas.fleet import CancelAnswer
from stoker.schemas.jobs import DEFAULT_ADMISSION_TIMEOUT_S, Job, JobInput, LoadInput
from stoker.schemas.workers import JobCommand
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, DiskFull, StreamFull
from stoker.services.bus.publishing import PubAck
from stoker.services.bus.sizes import max_job_bytes
from stoker.services.gateway.edge.access import check_model, current_key
from stoker.services.gateway.edge.exchange import current_exchange
from stoker.services.gateway.edge.idempotency import Named
from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError, disk_full
from stoker.services.gateway.jobs.drawing_fields import with_subseed
from stoker.services.gateway.jobs.outcomes import observe_accepted
from stoker.services.gateway.jobs.request_rules import MAX_SEED
from stoker.services.gateway.scheduler_queries import no_scheduler
from stoker.services.gateway.watching.resume import Cursor
from stoker.services.gateway.watching.streams import Streams
from stoker.services.gateway.watching.watcher import Pass, Watcher
from stoker.services.process import genai
from stoker.services.process.tracing import annotate, current_trace, request_accepted, trace_headers
from stoker.services.records.results import Result

CANCEL_TIMEOUT_S, CANCEL_PATIENCE_S, CANCEL_AGAIN_S = 1.0, 5.0, 0.1
"""How long one question to cancel waits, how long it is repeated, and how often."""
STORE_PATIENCE_S, STORE_AGAIN_S = 10.0, 0.1
"""How long storing a job is tried, and how often: three NATS servers need seconds to elect a leader."""
NOT_ACCEPTED = (413, 429, 507)
"""What a job that was certainly not stored is answered."""
RESULT_MARGIN_S = 30.0
"""Beyond a job's own limits, before a waiting request gives up on its end."""


def with_input(job: Job, job_input: JobInput) -> Job:
    """The same job with another input: files are stored under the job's id before they are named in it."""
    return msgspec.structs.replace(job, input=job_input)


class Submission:
    """Accepts jobs for one gateway. `close` it: what is not stored then is refused.

    not_made: told of a job of a key that was certainly not stored.
    """

    def __init__(
        self, bus: Bus, gateway: str, streams: Streams, not_made: Callable[[Job], None] = lambda _: None
    ) -> None:
        self._bus = bus
        self._gateway = gateway
        self._streams = streams
        self._not_made = not_made
        self._ids = NUID()
        self._random = random.Random(os.urandom(16))
        self._pausing: set[_Storing] = set()
        self._is_closed = False

    @property
    def pausing(self) -> int:
        """Jobs whose publication failed and will be repeated."""
        return len(self._pausing)

    def make_job(
        self,
        model: Model,
        adapter: str,
        job_input: JobInput,
        *,
        place_by: str = "",
        job_id: str = "",
        seed: int | None = None,
        wants_events: bool = False,
        priority: int = 0,
        webhook: str = "",
        fingerprint: str = "",
        admission_timeout_s: float = DEFAULT_ADMISSION_TIMEOUT_S,
        run_timeout_s: float | None = None,
        deadline_s: float | None = None,
    ) -> Job:
        """A job as it will be stored. Without a seed (or with a negative one) it gets one, so that it can be
        repeated: a random one, or of a job that its client has named, the same whichever gateway is asked.

        place_by: the model that decides where it runs, where that is another (one that a function is given).
        Without job_id it has the next name of its request, where that has a key.
        """
        check_model(model.name)
        if not job_id and (named := _named(job_input)) is not None:
            job_id, fingerprint = named.next_job(), fingerprint or named.fingerprint
        key = current_key.get()
        chosen = self._seed(job_id, fingerprint) if seed is None or seed < 0 else seed & MAX_SEED
        subseed = chosen + 1 if job_id else self._random.getrandbits(32)
        return Job(
            tenant=key.id if key is not None else "",
            weight=key.weight if key is not None else 1.0,
            id=job_id or self._ids.next().decode(),
            model=place_by or model.name,
            input=with_subseed(job_input, subseed),
            gateway=self._gateway,
            created_at=time.time(),
            seed=chosen,
            adapter=adapter,
            priority=priority or (key.priority if key is not None else 0),
            wants_events=wants_events,
            is_client_named=bool(job_id),
            fingerprint=fingerprint,
            webhook=webhook,
            admission_timeout_s=admission_timeout_s,
            run_timeout_s=model.run_timeout_s if run_timeout_s is None else run_timeout_s,
            deadline_s=deadline_s,
            spec=model.specs[0] if model.mode is not None else None,
            has_one_result=True,
            is_sealed=self._bus.seals.are_there,
            batches_text=wants_events,
        )

    def _seed(self, job_id: str, fingerprint: str) -> int:
        if not job_id:
            return self._random.getrandbits(32)
        return int.from_bytes(hashlib.blake2b(f"{job_id} {fingerprint}".encode(), digest_size=4).digest())

    def store(self, job: Job) -> "asyncio.Future[bool]":
        """Store the job: from then on it is accepted.

        The future has True when it was stored, False when its id was stored before, or RequestError: 429 when
        the stream is full, 503 when NATS could not store it in time. Cancelling it ends the repeats.
        """
        storing = _Storing(self, job)
        if job.tenant:
            storing.stored.add_done_callback(partial(self._tell_if_not_made, job))
        most = max_job_bytes(self._bus.max_payload)
        if storing.size > most:
            storing.refuse(too_large(storing.size, most))
        else:
            storing.post()
        return storing.stored

    def _tell_if_not_made(self, job: Job, stored: "asyncio.Future[bool]") -> None:
        error = None if stored.cancelled() else stored.exception()
        if is_not_accepted(error):
            self._not_made(job)

    @contextmanager
    def running(self, job: Job) -> "Iterator[asyncio.Future[Result]]":
        """Store a job; the future has its end, or raises RequestError. Leaving before that cancels the job."""
        with self._streams.expecting(job.id, limit_s(job)) as ended:
            stored = self.store(job)
            stored.add_done_callback(partial(_refuse, ended))
            try:
                yield ended
            finally:
                stored.cancel()
                if not has_ended(ended):
                    self.abandon(job)

    @contextmanager
    def watched(self, job: Job, pass_on: Pass | None = None) -> Iterator[Watcher]:
        """Store a job and watch it. Leaving before its end cancels it. pass_on: as in Watcher."""
        watcher = Watcher(job.id, Cursor(), pass_on)
        with self._streams.attached(watcher):
            stored = self.store(job)
            stored.add_done_callback(partial(_refuse_watcher, watcher))
            try:
                yield watcher
            finally:
                stored.cancel()
                if not watcher.has_ended:
                    self.abandon(job, watcher.worker)

    def abandon(self, job: Job, worker: str = "") -> None:
        """The client has gone: stop the job, at the worker directly where it is known."""
        if worker:
            self._bus.tell(self._bus.subjects.worker(worker, "cancel"), JobCommand(job.id))
        self._bus.tell(self._bus.subjects.cancel(job.id), JobCommand(job.id))

    async def cancel(self, job: str) -> bool:
        """Ask the scheduler to cancel; whether it holds the job. Raises RequestError 503."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + CANCEL_PATIENCE_S
        subject = self._bus.subjects.cancel(job)
        while True:
            try:
                answer: CancelAnswer = await self._bus.ask(
                    subject, JobCommand(job), CancelAnswer, CANCEL_TIMEOUT_S
                )
                return answer.known
            except (BusError, wire.UnreadableMessage) as error:
                if loop.time() > give_up_at:
                    raise no_scheduler() from error
                await asyncio.sleep(CANCEL_AGAIN_S)

    def close(self) -> None:
        """Refuse what is not stored yet; nothing is repeated from now on."""
        self._is_closed = True
        for storing in list(self._pausing):
            storing.give_up("the gateway is stopping")

    # For _Storing ---------------------------------------------------------------------------------

    def publish(self, storing: "_Storing", payload: bytes, headers: Mapping[str, str] | None) -> None:
        self._pausing.discard(storing)
        job = storing.job
        subject = self._bus.subjects.job(job.model)
        self._bus.post_stored(subject, payload, storing.on_ack, message_id=job.id, headers=headers)

    def may_pause(self, storing: "_Storing") -> bool:
        """Whether a publication may be repeated; it counts as pausing then."""
        if not self._is_closed:
            self._pausing.add(storing)
        return not self._is_closed

    def ends(self, storing: "_Storing") -> None:
        self._pausing.discard(storing)


class _Storing:
    """One job on its way into the stream. `stored` is done once, by an answer, a limit, or who waits for it."""

    def __init__(self, owner: Submission, job: Job) -> None:
        loop = asyncio.get_running_loop()
        self.job = job
        self.stored: asyncio.Future[bool] = loop.create_future()
        self._owner = owner
        self._payload = wire.encode(job)
        self._headers = trace_headers(current_trace.get())
        annotate(genai.asked(job.model, job.input))
        request_accepted(job.id, job.created_at)
        self._give_up_at = loop.time() + STORE_PATIENCE_S
        self._timer: asyncio.TimerHandle | None = None

    @property
    def size(self) -> int:
        """Bytes of the job."""
        return len(self._payload)

    def refuse(self, error: RequestError) -> None:
        self.stored.set_exception(error)

    def post(self) -> None:
        self._timer = None
        if self.stored.done():  # nobody waits for it any more
            self._owner.ends(self)
            return
        self._owner.publish(self, self._payload, self._headers)

    def on_ack(self, ack: PubAck | BusError) -> None:
        if isinstance(ack, PubAck):
            observe_accepted(self.job)
            if not self.stored.done():
                self.stored.set_result(not ack.duplicate)
            return
        if self.stored.done():
            return
        loop = asyncio.get_running_loop()
        if isinstance(ack, DiskFull):
            self.stored.set_exception(disk_full(str(ack)))
        elif isinstance(ack, StreamFull):
            self.stored.set_exception(
                RequestError(429, "the job stream is full", code="queue_full", retry_after_s=RETRY_AFTER_S)
            )
        elif loop.time() > self._give_up_at or not self._owner.may_pause(self):
            self.give_up(str(ack))
        else:
            self._timer = loop.call_later(STORE_AGAIN_S, self.post)

    def give_up(self, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._owner.ends(self)
        if not self.stored.done():
            self.stored.set_exception(
                RequestError(503, f"the job could not be stored: {why}", retry_after_s=RETRY_AFTER_S)
            )


def limit_s(job: Job) -> float:
    """How long a request waits for the end of its job."""
    return job.admission_timeout_s + job.run_timeout_s + RESULT_MARGIN_S


def too_large(size: int, most: int) -> RequestError:
    message = f"the request makes a job of {size} bytes; one may have {most}: send less text, or files by URL"
    return RequestError(413, message, code="body_too_large")


def _named(job_input: JobInput) -> Named | None:
    """The request that a job is made for, where it has a key. A load is everybody's."""
    exchange = current_exchange.get()
    return None if exchange is None or isinstance(job_input, LoadInput) else exchange.named


def has_ended(ended: "asyncio.Future[Result]") -> bool:
    """Whether the job is over, or was never accepted: there is nothing to cancel."""
    if not ended.done() or ended.cancelled():
        return False
    error = ended.exception()
    return error is None or is_not_accepted(error)


def is_not_accepted(error: BaseException | None) -> bool:
    """Whether a job was certainly not stored."""
    return isinstance(error, RequestError) and error.status in NOT_ACCEPTED


def _refuse(ended: "asyncio.Future[Result]", stored: "asyncio.Future[bool]") -> None:
    error = None if stored.cancelled() else stored.exception()
    if error is not None and not ended.done():
        ended.set_exception(error)


def _refuse_watcher(watcher: Watcher, stored: "asyncio.Future[bool]") -> None:
    error = None if stored.cancelled() else stored.exception()
    if isinstance(error, RequestError):
        watcher.refuse(error)
