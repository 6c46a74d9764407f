"""The lines of a batch as jobs: so many at a time, each under a name of its own, until all have their results.

A line's jobs have names made of the batch and the line. So who goes on with a batch asks first where such a job
is (locating.py): ended, under way, or nowhere, and only what is certainly nowhere is given to the queue. Lines
from `reserved` on were never given: a batch reserves some before it goes on to them. Waiting for a job here
does not cancel it when the wait is left, since the next owner waits for it then.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import anyio
import msgspec

from stoker.schemas.job_events import Cancelled, Completed, Expired, Terminal
from stoker.schemas.jobs import Job
from stoker.schemas.keys import ApiKey
from stoker.services.bus.errors import BusError
from stoker.services.gateway.batches.claim import Claim, now
from stoker.services.gateway.batches.input_lines import InputLines
from stoker.services.gateway.batches.progress import Progress, answered, job_name, refused
from stoker.services.gateway.batches.requests import ENDPOINTS, Maker, Work, answer_of
from stoker.services.gateway.edge.access import current_key
from stoker.services.gateway.edge.error_mapping import request_error
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.admitting import ready
from stoker.services.gateway.jobs.outcomes import completed_or_raise, observe_end
from stoker.services.gateway.locating import Nowhere, locate
from stoker.services.gateway.scheduler_queries import Known, Unknown
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import LimitExceeded, together
from stoker.services.records.keys import read_key
from stoker.services.records.results import Stored, Unreadable

log = get_logger("batches")

LINES_AT_ONCE = JOBS_AT_ONCE = 32
"""Of one batch: lines that are looked at, and jobs that are under way."""
RESERVE = 4 * LINES_AT_ONCE
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
"""Before what could not be done just now (a queue is full, nobody leads) is tried again."""
STOP_LIMIT_S = 60.0
"""The longest that a batch which stops waits for the ends of what it has cancelled."""
END_MARGIN_S = 60.0
"""Beyond its own limits, before a job is given up."""
PASSING = (429, 503, 507)
"""Answers after which the same request may be accepted."""

T = TypeVar("T")


class NotRun(Exception):
    """The batch stops, and the line has no result."""


def is_passing(error: RequestError) -> bool:
    """Whether a job that was refused may be accepted later. What no worker can do is not waited for."""
    return error.status in PASSING and error.code != "impossible"


class LineRuns:
    """`run` the lines of a batch that have no result; `stop` it before their ends."""

    def __init__(self, gateway: Gateway, claim: Claim, lines: InputLines, progress: Progress) -> None:
        self._gateway = gateway
        self._claim = claim
        self._lines = lines
        self._progress = progress
        self._fresh_from = claim.record.reserved
        self._left = progress.left()
        self._taking = anyio.Lock()
        self._places = anyio.Semaphore(JOBS_AT_ONCE)
        self._under_way: set[str] = set()
        self._stopping = anyio.Event()
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Until every line has its result, or as many as there are once it was stopped. Raises Lost."""
        with self._scope:
            await together([self._take_lines] * LINES_AT_ONCE)

    def stop(self) -> None:
        """Begin no further line, and wait for STOP_LIMIT_S at most."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._scope.deadline = anyio.current_time() + STOP_LIMIT_S

    async def cancel_under_way(self) -> None:
        """Have the jobs cancelled that are under way."""
        for job in list(self._under_way):
            try:
                await self._gateway.submission.cancel(job)
            except RequestError as error:
                log.warning("batch.job_not_cancelled", job=job, error=str(error))

    async def _take_lines(self) -> None:
        while (line := await self._next()) is not None:
            await self._run_line(line)

    async def _next(self) -> int | None:
        """The next line; once it was stopped, the next of which jobs may be under way."""
        async with self._taking:
            line = next(self._left, None)
            if line is None or (self._stopping.is_set() and line >= self._fresh_from):
                return None
            if line >= self._claim.record.reserved:
                end = line + RESERVE
                await self._claim.update(lambda record: msgspec.structs.replace(record, reserved=end))
            return line

    async def _run_line(self, line: int) -> None:
        batch = self._claim.record.id
        request = self._lines.request(line)
        try:
            current_key.set(await self._patiently(self._key))
            body = bytes(request.body)
            patience_s = self._claim.record.expires_at - now()
            maker = Maker(self._gateway, batch, line, body, patience_s)
            work = await self._patiently(partial(ENDPOINTS[self._claim.record.endpoint], maker))
            ends = await self._ends(work, len(body), is_fresh=line >= self._fresh_from)
            result = answered(batch, line, request.custom_id, answer_of(work, ends))
        except NotRun:
            return
        except Exception as error:  # whatever one line brings about, the others go on
            refusal = request_error(error, self._claim.record.endpoint, job_name(batch, line, 0))
            result = refused(batch, line, request.custom_id, refusal)
        self._progress.note(line, result)

    async def _key(self) -> ApiKey | None:
        """The key that the batch was made with; None where none was. Raises RequestError 401: it is gone."""
        tenant = self._claim.record.tenant
        if not tenant:
            return None
        key = self._gateway.access.key(tenant) or await read_key(self._gateway.bus, tenant)
        if key is None:
            message = "the API key that this batch was made with is no longer valid"
            raise RequestError(401, message, code="invalid_api_key")
        return key

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` gives, asked again while that could not be found out. Raises NotRun, RequestError."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await ask()
            except RequestError as error:
                if not is_passing(error):
                    raise
                reason = error.message
            except (BusError, LimitExceeded) as error:
                reason = str(error)
            log.info("batch.line_waits", batch=self._claim.record.id, reason=reason)
            with anyio.move_on_after(pause_s):
                await self._stopping.wait()
                raise NotRun
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    # Jobs -----------------------------------------------------------------------------------------

    async def _ends(self, work: Work, body_bytes: int, *, is_fresh: bool) -> Sequence[Completed]:
        """How the jobs of a line completed. Raises RequestError where one did not, NotRun."""
        found: dict[str, Terminal] = {}

        async def wait(job: Job) -> None:
            async with self._places:
                found[job.id] = await self._end_of(job, body_bytes, is_fresh)

        try:
            await together(partial(wait, job) for job in work.jobs)
            return [completed_or_raise(found[job.id]) for job in work.jobs]
        except (RequestError, NotRun):
            for job in work.jobs:
                if job.id not in found:
                    self._gateway.submission.abandon(job)
            raise

    async def _end_of(self, job: Job, body_bytes: int, is_fresh: bool) -> Terminal:
        """Raises RequestError, NotRun."""
        is_first = True

        async def attempt() -> Terminal:
            nonlocal is_first
            is_new, is_first = is_fresh and is_first, False
            return await self._try(job, body_bytes, is_new)

        end = await self._patiently(attempt)
        observe_end(end)
        if end.fingerprint != job.fingerprint:
            raise RequestError(409, f"job {job.id!r} exists with another body", code="conflict")
        is_late = isinstance(end, Expired) and now() >= self._claim.record.expires_at
        if is_late or (isinstance(end, Cancelled) and self._stopping.is_set()):
            raise NotRun
        return end

    async def _try(self, job: Job, body_bytes: int, is_new: bool) -> Terminal:
        """How a job has ended; it is given to the queue where it is nowhere. is_new: it certainly is nowhere.

        Raises RequestError, BusError, LimitExceeded, NotRun.
        """
        limit_s = job.admission_timeout_s + job.run_timeout_s + END_MARGIN_S
        streams = self._gateway.streams
        with streams.expecting(job.id, limit_s) as ended:
            place = Nowhere() if is_new else await locate(self._gateway.bus, job.id)
            self._under_way.add(job.id)
            try:
                match place:
                    case Stored(result):
                        return result.event
                    case Unreadable(reason):
                        raise RequestError(500, reason, code="unreadable_result")
                    case Unknown(reason):
                        raise RequestError(503, reason)
                    case Known():
                        streams.look_now(job.id)
                    case Nowhere():
                        await self._give(job, body_bytes)
                return (await ended).event
            finally:
                self._under_way.discard(job.id)

    async def _give(self, job: Job, body_bytes: int) -> None:
        """Give a job to the queue. Raises RequestError, BusError, LimitExceeded, NotRun."""
        if self._stopping.is_set():
            raise NotRun
        [fit] = await ready(self._gateway, [job], body_bytes, 503)
        if not await self._gateway.submission.store(fit):
            self._gateway.streams.look_now(job.id)
