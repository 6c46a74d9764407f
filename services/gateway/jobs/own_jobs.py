"""Jobs of clients that wait for them: run one to its end, or follow its events; a client that goes away cancels
it. A job of a request with a key (`Idempotency-Key`) goes on: its client may ask again, and gets its answer.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import msgspec

from stoker.schemas import wire
from stoker.schemas.job_events import Completed, ImageOutput, Queued, Terminal
from stoker.schemas.jobs import Job, models_together
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError, openai_error
from stoker.services.gateway.edge.sse import comment, sse
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.admitting import admitted
from stoker.services.gateway.jobs.lookup import await_job, is_there
from stoker.services.gateway.jobs.outcomes import completed_or_raise, observe_end
from stoker.services.gateway.jobs.submission import limit_s
from stoker.services.gateway.watching.resume import Cursor
from stoker.services.gateway.watching.streams import Item
from stoker.services.records.results import Result

COMMENT_EVERY_S = 5.0
UNSERVED_TIMEOUT_S = 30.0
"""How long a client that hears nothing until the end waits while nothing serves its model."""


async def finished(gateway: Gateway, exchange: Exchange, job: Job) -> tuple[Completed, bytes]:
    """Run a job to its end: how it completed, and its raw bytes. Raises RequestError, ClientGone."""
    [job] = await admitted(gateway, [unheard(job)], exchange.body_bytes)
    if job.is_client_named:
        await accept(gateway, job)
        result = await end_of(gateway, exchange, job)
    else:
        with gateway.submission.running(job) as ended:
            result = await exchange.unless_gone(ended)
    observe_end(result.event)
    status = 422 if models_together(job.input) else 503  # several models that fit nowhere together
    return completed_or_raise(result.event, status), result.attached


async def accept(gateway: Gateway, job: Job) -> None:
    """Store a job; one that its client has named, unless that was done.

    Raises RequestError: 409 where another request has made it.
    """
    if await is_there(gateway, job) or await gateway.submission.store(job):
        return
    await await_job(gateway, job.id)
    await is_there(gateway, job)


async def end_of(gateway: Gateway, exchange: Exchange, job: Job) -> Result:
    """The end of a job that may have ended before. Raises RequestError, ClientGone."""
    with gateway.streams.expecting(job.id, limit_s(job)) as ended:
        gateway.streams.look_now(job.id)
        return await exchange.unless_gone(ended)


@asynccontextmanager
async def followed(gateway: Gateway, job: Job) -> AsyncIterator[AsyncGenerator[Item]]:
    """Store a job; its events until its end (see Streams.follow). Leaving before that cancels it, unless its
    client has named it: of such a job these are all its events, whenever it was stored. Raises RequestError.
    """
    if job.is_client_named:
        await accept(gateway, job)
        async with aclosing(gateway.streams.watch(job.id, Cursor())) as items:
            yield items
        return
    with gateway.submission.watched(job) as watcher:
        async with aclosing(gateway.streams.follow(watcher)) as items:
            yield items


def unheard(job: Job) -> Job:
    """A job whose client hears nothing of it until its end."""
    return msgspec.structs.replace(job, unserved_timeout_s=UNSERVED_TIMEOUT_S)


def job_headers(job: Job, event: Terminal | None = None) -> dict[str, str]:
    headers = {"x-job-id": job.id}
    if event is not None and event.spec:
        headers["x-stoker-spec"] = event.spec
    return headers | drawing_headers(event)


def drawing_headers(event: Terminal | None) -> dict[str, str]:
    """How many tokens of a prompt no encoder has seen, and what else was not drawn as asked, where there is."""
    if not isinstance(event, Completed) or not isinstance(event.output, ImageOutput):
        return {}
    details = event.output.details
    told = {"stoker-cut-prompt": "cut_prompt_tokens", "stoker-remark": "remark"}
    return {header: str(details[name]) for header, name in told.items() if details.get(name)}


class Waiting:
    """What a stream says while its job waits: where it stands, so that nobody takes the connection for dead.

    What the scheduler says of it comes every second, which is more than anybody wants to read.
    """

    def __init__(self) -> None:
        self._last = Queued(position=0)
        self._said_at = time.monotonic()

    def heard(self, event: Queued) -> bytes:
        """The job's place was told: a comment once in COMMENT_EVERY_S, else nothing."""
        self._last = event
        return self.comment() if time.monotonic() - self._said_at >= COMMENT_EVERY_S else b""

    def comment(self) -> bytes:
        self._said_at = time.monotonic()
        eta = "unknown" if self._last.eta_s is None else f"{self._last.eta_s:.1f}"
        return comment(f"queued position={self._last.position} eta={eta}")


def error_event(error: RequestError) -> bytes:
    """An error after the first byte."""
    return sse(wire.encode(openai_error(error)), "error")
