"""Jobs: submit, look, watch, cancel, explain."""

import asyncio
import base64
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, aclosing
from typing import Any
from urllib.parse import quote

import msgspec

from stoker.schemas import wire
from stoker.schemas.fleet import Explanation, JobsQuery
from stoker.schemas.formats import DIALECT
from stoker.schemas.job_events import JobEvent, LiveEvent, Preview, SavedFile, Terminal
from stoker.schemas.jobs import Job
from stoker.services.gateway.edge.access import listed_tenant
from stoker.services.gateway.edge.decoding import decode
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.idempotency import conflict, fingerprint_of
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.routing import delete, get, post, put
from stoker.services.gateway.edge.sent_files import send_file
from stoker.services.gateway.edge.sse import EVENT_STREAM, comment, sse
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.admitting import ready
from stoker.services.gateway.jobs.answers import JobAnswer, JobList, from_result, from_view, urls_of
from stoker.services.gateway.jobs.cancelling import cancel
from stoker.services.gateway.jobs.files import Kind, attached_to, check_id, no_such_job
from stoker.services.gateway.jobs.function_calls import placed_by
from stoker.services.gateway.jobs.job_logs import job_log, size_of, text_after
from stoker.services.gateway.jobs.lookup import await_job, check_owner, made_before, present_job
from stoker.services.gateway.jobs.repeating import repeated
from stoker.services.gateway.jobs.request_rules import split_adapter
from stoker.services.gateway.jobs.requests import JobRequest, admission_timeout_s, job_input
from stoker.services.gateway.scheduler_queries import explain, list_jobs
from stoker.services.gateway.watching.resume import END, BadEventId, Cursor, event_name
from stoker.services.gateway.watching.streams import UnknownJob
from stoker.services.records.blobs import with_value
from stoker.services.records.files import content_of

MAX_WAIT_S = 60.0
MAX_PAGE = 200


class JobsFilter(msgspec.Struct, frozen=True):
    """Which jobs are listed. cursor: `next_cursor` of the page before. search: a part of the id or of the
    model's name. key: of this key (its id), for keys that see everybody's jobs. since, until: when it was
    accepted, seconds since 1970.
    """

    status: str = ""
    model: str = ""
    limit: int = 50
    cursor: str = ""
    search: str = ""
    key: str = ""
    since: float = 0.0
    until: float = 0.0


class LastEvent(msgspec.Struct, frozen=True):
    """Where to go on, for clients that cannot send the header Last-Event-ID."""

    last_event_id: str = ""


class LogPlace(msgspec.Struct, frozen=True):
    """after: bytes of the output that are known already."""

    after: int = 0


def prefer_wait_s(preferences: str) -> float:
    """The `wait` of a Prefer header, 0 when it has none."""
    for part in preferences.split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "wait" and value.isascii() and value.isdecimal():
            return min(float(value), MAX_WAIT_S)
    return 0.0


def _job_of(gateway: Gateway, body: bytes, job_id: str) -> Job:
    """The job that a body asks for. Raises RequestError."""
    asked = decode(JobRequest, body)
    model, adapter = split_adapter(asked.model, gateway.models)
    input_, seed = job_input(asked, model)
    return gateway.submission.make_job(
        model,
        adapter,
        input_,
        place_by=placed_by(input_),
        job_id=job_id,
        seed=seed,
        wants_events=True,
        priority=asked.priority,
        webhook=gateway.webhook_rules.check(asked.webhook),
        fingerprint=fingerprint_of(body),
        admission_timeout_s=admission_timeout_s(asked),
        run_timeout_s=asked.run_timeout_s,
        deadline_s=asked.deadline_s,
    )


async def _submit(gateway: Gateway, exchange: Exchange, job_id: str) -> None:
    job = _job_of(gateway, await exchange.json_body(), job_id)
    wait_s = prefer_wait_s(exchange.header(b"prefer"))
    with ExitStack() as until_answered:
        ended = None
        if wait_s:  # before the job is stored: its end may come at once
            ended = until_answered.enter_context(gateway.streams.expecting(job.id, MAX_WAIT_S + 1))
        answer = await _accept(gateway, job, exchange.body_bytes)
        if ended is not None and answer.finished_at is None:
            gateway.streams.look_now(job.id)
            await asyncio.wait([ended], timeout=wait_s)
            if ended.done() and ended.exception() is None:
                answer = from_result(await with_value(gateway.bus, ended.result().event))
    headers = {"location": answer.urls.self, "x-job-id": answer.id}
    await exchange.answer(answer, 202 if answer.finished_at is None else 200, headers)


async def _accept(gateway: Gateway, job: Job, body_bytes: int) -> JobAnswer:
    """The job as it is accepted, or as it was before under the same id. Raises RequestError."""

    async def whole() -> Job:
        [made] = await ready(gateway, [job], body_bytes, 422, may_name_files=True)
        return made

    return await _made_once(gateway, job.id if job.is_client_named else "", job.fingerprint, whole)


async def _made_once(
    gateway: Gateway, name: str, fingerprint: str, make: Callable[[], Awaitable[Job]]
) -> JobAnswer:
    """The job that was made before under the id `name`, else the one that is made now; "": always a new one.

    Raises RequestError: 409 where another request has made it.
    """
    present = await made_before(gateway, name) if name else None
    if present is None:
        job = await make()
        if await gateway.submission.store(job):
            return _queued(job)
        present = await await_job(gateway, job.id)
    answer, made_by = present
    if made_by != fingerprint:
        raise conflict(answer.id)
    return answer


def _queued(job: Job) -> JobAnswer:
    """A job that was just stored."""
    urls = urls_of(job.id)
    return JobAnswer(id=job.id, status="queued", model=job.model, urls=urls, created_at=job.created_at)


@post("/v1/jobs", status=202, summary="Submit a job", asks=JobRequest, answers=JobAnswer)
async def submit_job(gateway: Gateway, exchange: Exchange) -> None:
    await _submit(gateway, exchange, "")


@put("/v1/jobs/{job}", status=202, summary="Submit a job under a chosen id", asks=JobRequest, answers=JobAnswer)
async def put_job(gateway: Gateway, exchange: Exchange) -> None:
    await _submit(gateway, exchange, check_id(exchange.parameter("job")))


@get("/v1/jobs", summary="List jobs, newest first", query=JobsFilter, answers=JobList)
async def show_jobs(gateway: Gateway, exchange: Exchange) -> None:
    wanted = exchange.query(JobsFilter)
    if not 1 <= wanted.limit <= MAX_PAGE:
        raise RequestError(400, f"limit must be 1 to {MAX_PAGE}", field="limit", code="invalid_value")
    query = JobsQuery(
        status=wanted.status,
        tenant=listed_tenant() or wanted.key,
        model=wanted.model,
        limit=wanted.limit,
        cursor=wanted.cursor,
        search=wanted.search,
        since=wanted.since,
        until=wanted.until,
    )
    page = await list_jobs(gateway.bus, query)
    await exchange.answer(JobList(tuple(from_view(view) for view in page.jobs), page.next_cursor))


@get("/v1/jobs/{job}", summary="One job", answers=JobAnswer)
async def show_job(gateway: Gateway, exchange: Exchange) -> None:
    await exchange.answer(await present_job(gateway, check_id(exchange.parameter("job"))))


@get("/v1/jobs/{job}/events", summary="Watch a job (SSE)", query=LastEvent, gives=EVENT_STREAM)
async def job_events(gateway: Gateway, exchange: Exchange) -> None:
    job = check_id(exchange.parameter("job"))
    await check_owner(gateway, job)
    last = exchange.header(b"last-event-id") or exchange.query(LastEvent).last_event_id
    if last == END:
        await exchange.answer_empty(204)
        return
    try:
        cursor = Cursor.parse(last) if last else Cursor()
    except BadEventId as error:
        raise RequestError(400, str(error), field="Last-Event-ID", code="invalid_value") from error
    try:
        await exchange.stream(gateway.streams_open, _event_stream(gateway, job, cursor))
    except UnknownJob:
        raise no_such_job(job) from None


async def _event_stream(gateway: Gateway, job: str, cursor: Cursor) -> AsyncGenerator[bytes]:
    async with aclosing(gateway.streams.watch(job, cursor)) as items:
        async for item in items:
            if item is None:
                yield comment("waiting")
                continue
            event, attached = item
            if isinstance(event, Terminal):
                event = await with_value(gateway.bus, event)
            event_id = END if isinstance(event, Terminal) else cursor.id()
            yield sse(_event_data(event, attached), event_name(event), event_id)


def _event_data(event: JobEvent, attached: bytes) -> bytes:
    if isinstance(event, Terminal):
        return wire.encode(from_result(event))
    if isinstance(event, Preview):
        fields = msgspec.to_builtins(event)
        return wire.encode(fields | {"b64_json": base64.b64encode(attached).decode()})
    return wire.encode(event)


def event_schema() -> dict[str, Any]:
    """A JSON Schema of the data of these events: an end is the job as clients see it."""
    kinds, named = msgspec.json.schema_components((LiveEvent, JobAnswer))
    picture = {"b64_json": {"type": "string", "contentEncoding": "base64"}}
    named["Preview"]["properties"] |= picture
    return {"$schema": DIALECT, "anyOf": list(kinds), "$defs": named}


@post("/v1/jobs/{job}/cancel", status=202, summary="Cancel a job", answers=JobAnswer)
async def cancel_job(gateway: Gateway, exchange: Exchange) -> None:
    await _cancel(gateway, exchange)


@delete("/v1/jobs/{job}", status=202, summary="Cancel a job", answers=JobAnswer)
async def delete_job(gateway: Gateway, exchange: Exchange) -> None:
    await _cancel(gateway, exchange)


async def _cancel(gateway: Gateway, exchange: Exchange) -> None:
    job = check_id(exchange.parameter("job"))
    found = await present_job(gateway, job)
    is_known = found.finished_at is None and await cancel(gateway, job)
    if found.finished_at is None:
        found = await present_job(gateway, job)
        if found.status == "cancelled" or (found.finished_at is None and not is_known):  # it is on arrival
            found = JobAnswer(id=job, status="cancelled", model=found.model, urls=urls_of(job))
    if found.finished_at is not None:
        raise RequestError(409, f"the job has ended already: {found.status}", code="already_ended")
    await exchange.answer(JobAnswer(id=job, status=found.status, model=found.model, urls=urls_of(job)), 202)


@post("/v1/jobs/{job}/retry", status=202, summary="Run a job that did not complete again", answers=JobAnswer)
async def retry_job(gateway: Gateway, exchange: Exchange) -> None:
    await exchange.body()
    job, named = check_id(exchange.parameter("job")), exchange.named
    name, fingerprint = (named.next_job(), named.fingerprint) if named is not None else ("", "")

    async def again() -> Job:
        made = await repeated(gateway, job, name, fingerprint)
        gateway.admission.check(made, impossible_status=422)
        return made

    answer = await _made_once(gateway, name, fingerprint, again)
    await exchange.answer(answer, 202, {"location": answer.urls.self, "x-job-id": answer.id})


@get("/v1/jobs/{job}/explain", summary="Why a job went where it went", answers=Explanation)
async def explain_job(gateway: Gateway, exchange: Exchange) -> None:
    job = check_id(exchange.parameter("job"))
    await check_owner(gateway, job)
    found = await explain(gateway.bus, job)
    if found is None:
        message = f"no decision about {job!r} is known: it waits, or is long over"
        raise RequestError(404, message, code="job_not_found")
    await exchange.answer(found)


SHOWN = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "text/plain", "application/json")
"""Types that a browser may show: none of them can hold a script."""


def _harmless(content_type: str, name: str = "") -> dict[str, str]:
    """Headers with which a file that a user's code has made does nothing on this site: the browser keeps what
    it might run, and runs none of it."""
    kind = content_type.partition(";")[0].strip().lower()
    how = "inline" if kind in SHOWN or kind.startswith(("audio/", "video/")) else "attachment"
    named = f"; filename*=UTF-8''{quote(name, safe='')}" if name else ""
    return {"content-disposition": how + named, "content-security-policy": "default-src 'none'; sandbox"}


@get("/v1/jobs/{job}/files/{index:int}", summary="A file that a function has saved", gives="*/*")
async def job_file(gateway: Gateway, exchange: Exchange) -> None:
    await _send_attached(gateway, exchange, "files")


@get("/v1/jobs/{job}/images/{index:int}", summary="A picture of a result", gives="image/png")
async def job_image(gateway: Gateway, exchange: Exchange) -> None:
    await _send_attached(gateway, exchange, "images")


async def _send_attached(gateway: Gateway, exchange: Exchange, kind: Kind) -> None:
    found = await attached_to(gateway, exchange.parameter("job"), kind, exchange.index("index"))
    told = found.told
    headers = _harmless(told.content_type, told.name if isinstance(told, SavedFile) else "")
    content = await content_of(gateway.bus, found.file)
    await send_file(gateway.bus, exchange, content, found.name, told.content_type, headers)


@get("/v1/jobs/{job}/log", summary="What a job has printed", query=LogPlace, gives="text/plain")
async def show_log(gateway: Gateway, exchange: Exchange) -> None:
    log, has_ended = await job_log(gateway, exchange.parameter("job"))
    headers = {
        "stoker-log-bytes": str(size_of(log)),
        "stoker-log-dropped-lines": str(log.dropped_lines),
        "stoker-log-ended": "true" if has_ended else "false",
    }
    text = text_after(log, max(exchange.query(LogPlace).after, 0))
    headers |= _harmless("text/plain")
    await exchange.answer_bytes(text, "text/plain; charset=utf-8", headers=headers)


ROUTES = [
    submit_job,
    put_job,
    show_jobs,
    show_job,
    job_events,
    cancel_job,
    delete_job,
    retry_job,
    explain_job,
    show_log,
    job_image,
    job_file,
]
