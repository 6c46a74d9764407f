"""What every route uses: the catalog, the queues, the fleet, and the ways to submit and end a job."""

import asyncio
import hashlib
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from urllib.parse import urlsplit

import msgspec
from nats.aio.msg import Msg
from nats.nuid import NUID
from prometheus_client import Counter, Histogram

from schemas import wire
from schemas.catalog import Model
from schemas.discovery import Schema
from schemas.fleet import CancelAnswer, ModelReplicas, QueueDepth
from schemas.job_events import Cancelled, Completed, Expired, Failed, Terminal
from schemas.jobs import DEFAULT_ADMISSION_TIMEOUT_S, Job, JobInput, work_units
from schemas.subjects import ANY, last_name
from schemas.workers import Done, Heartbeat, JobCommand
from services.bus.connection import Bus
from services.bus.errors import BusError, NobodyThere, StreamFull
from services.bus.publishing import PubAck
from services.catalog import store
from services.gateway.edge.access import check_model, current_key
from services.gateway.edge.problems import RequestError
from services.gateway.jobs.requests import MAX_SEED
from services.gateway.modes import Modes
from services.gateway.reloading import Reloading
from services.gateway.watching.streams import Streams
from services.process.logs import get_logger
from services.process.telemetry import counter, gauge, histogram
from services.process.tracing import current_trace, trace_headers
from services.records.results import Result

log = get_logger("gateway")

WORKER_SILENT_S = 6.0
CANCEL_TIMEOUT_S = 1.0
CANCEL_PATIENCE_S = 5.0
RETRY_AFTER_S = 1
STORE_PATIENCE_S, STORE_AGAIN_S = 10.0, 0.1
"""How long storing a job is tried, and how often: three NATS servers need seconds to elect a leader."""
MAX_URL_CHARS = 2048
RESULT_MARGIN_S = 30.0
"""Beyond a job's own limits, before a waiting request gives up on hearing of its end."""

REQUESTS = counter("stoker_requests_total", "Jobs accepted", "model", "kind")
TTFT = histogram("stoker_time_to_first_token_seconds", "Accepted until the first delta", "model")
DURATION = histogram("stoker_job_seconds", "Accepted until the end", "model", "outcome")
STREAMS = gauge("stoker_open_streams", "Server-sent event streams that are open")


class LoadAttempt(msgspec.Struct):
    """The load of a model that this gateway asked for last. failure: stays until one succeeds."""

    is_under_way: bool = False
    ended_at: float = 0.0
    failure: str = ""


class Gateway:
    """One gateway process. `name` is its token in subjects."""

    def __init__(
        self, bus: Bus, name: str, max_streams: int, queue_max: int, reloading: Reloading | None = None
    ) -> None:
        self.bus = bus
        self.name = name
        self.max_streams = max_streams
        self.queue_max = queue_max
        self.reloading = reloading
        self.generations = 0
        self.loads: dict[str, LoadAttempt] = {}
        self.open_streams = 0
        self.streams = Streams(bus, name)
        self.models: dict[str, Model] = {}
        self.depths: dict[str, QueueDepth] = {}
        self.replicas: dict[str, ModelReplicas] = {}
        self.workers: dict[str, tuple[Heartbeat, float]] = {}
        self.modes = Modes(self.models)
        self.schemas: dict[str, Schema] = {}
        self.catalog_read = asyncio.Event()
        self._ids = NUID()
        self._random = random.Random(os.urandom(16))
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self.streams.start()
        await self.bus.listen(self.bus.subjects.every("queue", ANY), self._on_depth)
        await self.bus.listen(self.bus.subjects.every("heartbeat", ANY), self._on_heartbeat)
        self.bus.on_reconnect.append(lambda: self.own(self.streams.recheck()))

    def own(self, work: Awaitable[None]) -> None:
        """Run work on the side."""
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def model_changed(self, name: str, model: Model | None) -> None:
        if model is None:
            self.models.pop(name, None)
            self.depths.pop(name, None)
        else:
            self.models[name] = model

    def replicas_changed(self, model: str, replicas: ModelReplicas | None) -> None:
        """The autoscaler has recorded something new."""
        if replicas is not None:
            self.replicas[model] = replicas
        else:
            self.replicas.pop(model, None)

    def noted(self, kind: str, name: str, content: bytes) -> None:
        """A note in the catalog: a model's schema, or the current mode."""
        if not content:
            return
        try:
            if kind == store.SCHEMA_NOTE:
                self.schemas[name] = wire.decode(Schema, content)
            elif kind == store.MODES_NOTE:
                self.modes.noted(name, wire.decode(str, content))
        except wire.UnreadableMessage as error:
            log.warning("note.unreadable", kind=kind, name=name, error=str(error))

    def _on_depth(self, message: Msg) -> None:
        try:
            self.depths[last_name(message.subject)] = wire.decode(QueueDepth, message.data)
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))

    def _on_heartbeat(self, message: Msg) -> None:
        try:
            heartbeat: Heartbeat = wire.decode(Heartbeat, message.data)
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))
            return
        if heartbeat.is_leaving:
            self.workers.pop(heartbeat.worker, None)
        else:
            self.workers[heartbeat.worker] = (heartbeat, time.time())

    def live_workers(self) -> list[Heartbeat]:
        """Workers heard lately, by name."""
        now = time.time()
        beats = [beat for beat, seen_at in self.workers.values() if now - seen_at < WORKER_SILENT_S]
        return sorted(beats, key=lambda beat: beat.worker)

    def image_workers(self) -> list[Heartbeat]:
        """Live workers that draw images."""
        return [beat for beat in self.live_workers() if "diffusers" in beat.engines]

    def is_hot(self, model: str) -> bool:
        """Whether some worker has the model in device memory."""
        return any(model in beat.vram_models for beat in self.live_workers())

    async def is_ready(self) -> str:
        """Why the gateway is not ready; "" when it is: NATS, the catalog, a scheduler that answers."""
        if not self.bus.is_connected:
            return "NATS is not connected"
        if not self.catalog_read.is_set():
            return "the catalog has not been read"
        try:
            answer = await self.bus.ask(self.bus.subjects.scheduler("ping"), None, Done, 1.0)
        except (BusError, wire.UnreadableMessage):
            return "no scheduler answers"
        return "" if answer.ok else "the scheduler is taking over"

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
        deadline_s: float | None = None,
    ) -> Job:
        """A job as it will be stored. Without a seed it gets a random one, so that it can be repeated.

        place_by: the model that decides where it runs, where that is another (one that a function is given).
        """
        check_model(model.name)
        key = current_key.get()
        return Job(
            tenant=key.id if key is not None else "",
            id=job_id or self._ids.next().decode(),
            model=place_by or model.name,
            input=job_input,
            gateway=self.name,
            created_at=time.time(),
            seed=self._random.getrandbits(32) if seed is None else seed & MAX_SEED,
            adapter=adapter,
            priority=priority or (key.priority if key is not None else 0),
            wants_events=wants_events,
            is_client_named=bool(job_id),
            fingerprint=fingerprint,
            webhook=webhook,
            admission_timeout_s=admission_timeout_s,
            run_timeout_s=model.run_timeout_s,
            deadline_s=deadline_s,
            spec=model.specs[0] if model.mode is not None else None,
        )

    def with_input(self, job: Job, job_input: JobInput) -> Job:
        """The same job with another input: files are stored under the job's id before they are named in it."""
        return msgspec.structs.replace(job, input=job_input)

    def check_webhook(self, url: str | None) -> str:
        """A webhook's URL as it may be used. Raises RequestError 400."""
        if url is None:
            return ""
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname)
        if not is_url or len(url) > MAX_URL_CHARS:
            raise RequestError(
                400, "webhook must be an http or https URL", field="webhook", code="invalid_value"
            )
        return url

    def check_admission(self, job: Job, impossible_status: int) -> None:
        """Refuse at once what could only fail later. Raises RequestError."""
        depth = self.depths.get(job.model)
        if depth is None:
            return
        if depth.impossible:
            raise RequestError(impossible_status, depth.impossible, code="impossible")
        if depth.limit and depth.queued >= depth.limit:
            raise RequestError(
                429,
                f"{depth.queued} jobs wait for {job.model!r} already",
                code="queue_full",
                retry_after_s=max(int(depth.eta_s or RETRY_AFTER_S), RETRY_AFTER_S),
            )
        if job.deadline_s is not None and depth.best_s is not None:
            best_s = (depth.eta_s or 0.0) + depth.best_s * work_units(job.input)
            if best_s > job.deadline_s:
                raise RequestError(
                    422,
                    f"the best estimate is {best_s:.1f} s and the deadline is {job.deadline_s:g} s",
                    field="deadline_s",
                    code="would_miss_deadline",
                )

    def post_job(self, job: Job, answered: Callable[[bool | RequestError], None]) -> None:
        """Store the job: from now on it is accepted.

        `answered` hears True when it was stored, False when its id was stored before, or RequestError: 429 when
        the stream is full, 503 when NATS could not store it for STORE_PATIENCE_S.
        """
        subject = self.bus.subjects.job(job.model)
        payload = wire.encode(job)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + STORE_PATIENCE_S

        def on_ack(ack: PubAck | BusError) -> None:
            if isinstance(ack, PubAck):
                _requests(job.model, type(job.input).__name__).inc()
                answered(not ack.duplicate)
            elif isinstance(ack, StreamFull):
                answered(
                    RequestError(429, "the job stream is full", code="queue_full", retry_after_s=RETRY_AFTER_S)
                )
            elif loop.time() > give_up_at:
                answered(RequestError(503, f"the job could not be stored: {ack}", retry_after_s=RETRY_AFTER_S))
            else:  # its id keeps it from being stored twice
                loop.call_later(STORE_AGAIN_S, post)

        headers = trace_headers(current_trace.get())

        def post() -> None:
            self.bus.post_stored(subject, payload, on_ack, message_id=job.id, headers=headers)

        post()

    async def submit(self, job: Job) -> bool:
        """Store the job and wait until it is; False when its id was stored before. Raises RequestError."""
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def answered(found: bool | RequestError) -> None:
            if stored.done():
                return
            if isinstance(found, RequestError):
                stored.set_exception(found)
            else:
                stored.set_result(found)

        self.post_job(job, answered)
        return await stored

    def run(self, job: Job) -> asyncio.Future[Result]:
        """Submit a job; the future has its end, or raises RequestError. `streams.forget` it then."""
        limit_s = job.admission_timeout_s + job.run_timeout_s + RESULT_MARGIN_S
        ended = self.streams.expect(job.id, limit_s)

        def answered(found: bool | RequestError) -> None:
            if isinstance(found, RequestError) and not ended.done():
                ended.set_exception(found)

        self.post_job(job, answered)
        return ended

    def check_streams(self) -> None:
        """Raises RequestError 429 when no more event streams may be opened."""
        if self.open_streams >= self.max_streams:
            raise RequestError(
                429, f"{self.max_streams} streams are open already", code="too_many_streams", retry_after_s=1
            )

    @contextmanager
    def open_stream(self) -> Iterator[None]:
        """Count an event stream while it is open."""
        self.open_streams += 1
        STREAMS.inc()
        try:
            yield
        finally:
            self.open_streams -= 1
            STREAMS.dec()

    def abandon(self, job: Job, worker: str = "") -> None:
        """The client has gone: stop the job, at the worker directly where it is known."""
        self.own(self._abandon(job.id, worker))

    async def _abandon(self, job: str, worker: str) -> None:
        if worker:
            subject = self.bus.subjects.worker(worker, "cancel")
            self.bus.tell(subject, JobCommand(job))
        self.bus.tell(self.bus.subjects.cancel(job), JobCommand(job))

    async def cancel(self, job: str) -> bool:
        """Ask the scheduler to cancel; whether it holds the job. Raises RequestError 503."""
        deadline = time.monotonic() + CANCEL_PATIENCE_S
        while True:
            try:
                answer: CancelAnswer = await self.bus.ask(
                    self.bus.subjects.cancel(job), JobCommand(job), CancelAnswer, CANCEL_TIMEOUT_S
                )
                return answer.known
            except (NobodyThere, BusError) as error:
                if time.monotonic() > deadline:
                    raise RequestError(503, "no scheduler answers; try again", retry_after_s=1) from error
                await asyncio.sleep(0.1)


@cache  # finding a label costs more than counting
def _requests(model: str, kind: str) -> Counter:
    return REQUESTS.labels(model, kind)


@cache
def _duration(model: str, outcome: str) -> Histogram:
    return DURATION.labels(model, outcome)


def observe_end(event: Terminal) -> None:
    outcome = type(event).__name__.lower()
    _duration(event.model, outcome).observe(max(event.finished_at - event.created_at, 0.0))


_FAILED_STATUS = {
    "validation": 400,
    "impossible": 503,
    "would_miss_deadline": 422,
    "resource": 503,
    "load_failed": 503,
    "worker_lost": 503,
    "timeout": 504,
}


def completed_or_raise(event: Terminal) -> Completed:
    """The event, if the job completed. Raises the RequestError that its end means to a client."""
    match event:
        case Completed():
            return event
        case Failed():
            status = _FAILED_STATUS.get(event.kind, 500)
            raise RequestError(status, event.message, code=event.kind)
        case Cancelled():
            raise RequestError(499, "the job was cancelled", code="cancelled")
        case Expired():
            raise RequestError(504, event.message, code="timeout")


def fingerprint_of(body: bytes) -> str:
    """A short hash that tells whether two requests are the same."""
    return hashlib.blake2b(body, digest_size=16).hexdigest()
