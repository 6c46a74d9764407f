"""Jobs of clients that wait on the line: run one, or follow its events; a client that goes away cancels it."""

from collections.abc import Iterator
from contextlib import contextmanager

from schemas import wire
from schemas.job_events import Completed, Queued, Terminal
from schemas.jobs import Job
from services.gateway.edge.exchange import Exchange
from services.gateway.edge.http import ClientGone, comment, sse
from services.gateway.edge.problems import RequestError, openai_error
from services.gateway.gateway import Gateway, completed_or_raise, observe_end
from services.gateway.watching.resume import Cursor
from services.gateway.watching.watcher import Watcher


async def finished(gateway: Gateway, exchange: Exchange, job: Job) -> tuple[Completed, bytes]:
    """Run a job to its end: how it completed, and its raw bytes. Raises RequestError, ClientGone."""
    gateway.check_admission(job, impossible_status=503)
    try:
        result = await exchange.unless_gone(gateway.run(job))
    except ClientGone:
        gateway.abandon(job)
        raise
    finally:
        gateway.streams.forget(job.id)
    observe_end(result.event)
    return completed_or_raise(result.event), result.attached


@contextmanager
def watched(gateway: Gateway, job: Job) -> Iterator[Watcher]:
    """Submit a job and watch it; leaving before its end cancels it."""
    watcher = Watcher(job.id, Cursor())
    gateway.streams.attach(watcher)

    def answered(found: bool | RequestError) -> None:
        if isinstance(found, RequestError):
            watcher.refuse(found)

    try:
        gateway.post_job(job, answered)
        yield watcher
    finally:
        gateway.streams.detach(watcher)
        if not watcher.has_ended:
            gateway.abandon(job, watcher.worker)


def job_headers(job: Job, event: Terminal | None = None) -> dict[str, str]:
    headers = {"x-job-id": job.id}
    if event is not None and event.spec:
        headers["x-stoker-spec"] = event.spec
    return headers


def waiting_comment(last: Queued) -> bytes:
    """Where a job stands while it waits; keeps the connection alive."""
    eta = "unknown" if last.eta_s is None else f"{last.eta_s:.1f}"
    return comment(f"queued position={last.position} eta={eta}")


def error_event(error: RequestError) -> bytes:
    """An error after the first byte."""
    return sse(wire.encode(openai_error(error)), "error")
