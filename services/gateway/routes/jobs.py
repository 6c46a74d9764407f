"""Jobs: submit, look, watch, cancel, explain."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from litestar import Request, Response, delete, get, post, put
from litestar.datastructures import State
from litestar.params import Parameter
from litestar.response import Stream

from schemas import wire
from schemas.fleet import Explanation, JobQuery, JobsPage, JobsQuery
from schemas.job_events import (
    JobEvent,
    Preview,
    SavedFile,
    Terminal,
)
from schemas.jobs import Job
from services.bus.errors import BusError
from services.gateway.edge.access import current_key, is_visible, owner
from services.gateway.edge.http import (
    comment,
    event_stream,
    first_of,
    json_answer,
    read_body,
    sse,
)
from services.gateway.edge.problems import RequestError
from services.gateway.gateway import Gateway, fingerprint_of
from services.gateway.jobs.answers import JobAnswer, JobList, from_result, from_view, status_of, urls_of
from services.gateway.jobs.files import attached_to, check_id, no_such_job, stored_result, with_files
from services.gateway.jobs.function_calls import placed_by
from services.gateway.jobs.requests import (
    JobRequest,
    admission_timeout_s,
    decode,
    job_input,
    split_adapter,
)
from services.gateway.watching.resume import END, BadEventId, Cursor, event_name
from services.gateway.watching.streams import ASK_TIMEOUT_S, UnknownJob
from services.records.blobs import with_value

AnyRequest = Request[Any, Any, Any]

MAX_WAIT_S = 60.0
MAX_PAGE = 200
MAX_KEY_CHARS = 200
CONFLICT_WAIT_S = 2.0


def _prefer_wait_s(request: AnyRequest) -> float:
    for part in request.headers.get("prefer", "").split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "wait" and value.isascii() and value.isdecimal():
            return min(float(value), MAX_WAIT_S)
    return 0.0


async def _submit(gateway: Gateway, request: AnyRequest, job_id: str) -> Response[bytes]:
    body = await read_body(request)
    asked = decode(JobRequest, body)
    model, adapter = split_adapter(asked.model, gateway.models)
    input_, seed = job_input(asked, model)
    fingerprint = fingerprint_of(body)
    job = gateway.make_job(
        model,
        adapter,
        input_,
        place_by=placed_by(input_),
        job_id=job_id,
        seed=seed,
        wants_events=True,
        priority=asked.priority,
        webhook=gateway.check_webhook(asked.webhook),
        fingerprint=fingerprint,
        admission_timeout_s=admission_timeout_s(asked),
        deadline_s=asked.deadline_s,
    )
    if job_id and (known := await _known(gateway, job_id)) is not None:
        return _same_job(known, fingerprint)
    gateway.check_admission(job, impossible_status=422)
    job = await with_files(gateway, job)
    ended = gateway.streams.expect(job.id, MAX_WAIT_S + 1)
    try:
        is_new = await gateway.submit(job)
        if not is_new:
            return _same_job(await _await_known(gateway, job.id), fingerprint)
        wait_s = _prefer_wait_s(request)
        if wait_s:
            await asyncio.wait([ended], timeout=wait_s)
            if ended.done():
                return _answer(from_result(await with_value(gateway.bus, ended.result().event)), 200)
    finally:
        gateway.streams.forget(job.id)
    return _answer(_accepted(job), 202)


def _accepted(job: Job) -> JobAnswer:
    return JobAnswer(
        id=job.id, status="queued", model=job.model, urls=urls_of(job.id), created_at=job.created_at
    )


def _answer(answer: JobAnswer, status: int) -> Response[bytes]:
    return json_answer(answer, status, {"Location": answer.urls.self, "X-Job-Id": answer.id})


async def _known(gateway: Gateway, job: str) -> tuple[JobAnswer, str] | None:
    """A job of this id and its fingerprint, if there is one."""
    view = await gateway.streams.job_view(job)
    if view is not None and view.status in ("queued", "assigned", "running"):
        if not is_visible(view.tenant):
            raise no_such_job(job)
        return from_view(view), view.fingerprint
    stored = await stored_result(gateway, job)
    if stored is not None:
        return from_result(stored.event), stored.event.fingerprint
    return None


async def _await_known(gateway: Gateway, job: str) -> tuple[JobAnswer, str]:
    """The job that was stored a moment ago under the same id."""
    deadline = asyncio.get_running_loop().time() + CONFLICT_WAIT_S
    while (known := await _known(gateway, job)) is None:
        if asyncio.get_running_loop().time() > deadline:
            raise RequestError(503, "a job of this id is being accepted; try again", retry_after_s=1)
        await asyncio.sleep(0.05)
    return known


def _same_job(known: tuple[JobAnswer, str], fingerprint: str) -> Response[bytes]:
    answer, present = known
    if present != fingerprint:
        raise RequestError(409, f"job {answer.id!r} exists with another body", code="conflict", field="id")
    return _answer(answer, 200 if answer.finished_at else 202)


@post("/v1/jobs", status_code=202, summary="Submit a job", opt={"asks": JobRequest, "answers": JobAnswer})
async def submit_job(state: State, request: AnyRequest) -> Response[bytes]:
    key = request.headers.get("idempotency-key", "")
    if len(key) > MAX_KEY_CHARS:
        raise RequestError(400, f"Idempotency-Key has at most {MAX_KEY_CHARS} characters")
    named = f"{owner()} {key}".encode()  # the same key of another tenant names another job
    job_id = "k" + hashlib.blake2b(named, digest_size=15).hexdigest() if key else ""
    return await _submit(state.gateway, request, job_id)


@put(
    "/v1/jobs/{job:str}",
    status_code=202,
    summary="Submit a job under a chosen id",
    opt={"asks": JobRequest, "answers": JobAnswer},
)
async def put_job(state: State, request: AnyRequest, job: str) -> Response[bytes]:
    return await _submit(state.gateway, request, check_id(job))


@get("/v1/jobs", summary="List jobs, newest first", opt={"answers": JobList})
async def list_jobs(
    state: State, status: str = "", model: str = "", limit: int = 50, cursor: str = ""
) -> Response[bytes]:
    gateway: Gateway = state.gateway
    if not 1 <= limit <= MAX_PAGE:
        raise RequestError(400, f"limit must be 1 to {MAX_PAGE}", field="limit", code="invalid_value")
    query = JobsQuery(status, owner(), model, limit, cursor)
    try:
        subject = gateway.bus.subjects.scheduler("jobs")
        page: JobsPage = await gateway.bus.ask(subject, query, JobsPage, ASK_TIMEOUT_S)
    except (BusError, wire.UnreadableMessage) as error:
        raise RequestError(503, "no scheduler answers; try again", retry_after_s=1) from error
    return json_answer(JobList(tuple(from_view(view) for view in page.jobs), page.next_cursor))


@get("/v1/jobs/{job:str}", summary="One job", opt={"answers": JobAnswer})
async def show_job(state: State, job: str) -> Response[bytes]:
    known = await _known(state.gateway, check_id(job))
    if known is None:
        raise no_such_job(job)
    return json_answer(known[0])


@get("/v1/jobs/{job:str}/events", summary="Watch a job (SSE)")
async def job_events(state: State, request: AnyRequest, job: str) -> Response[bytes] | Stream:
    gateway: Gateway = state.gateway
    await _check_owner(gateway, job)
    last = request.headers.get("last-event-id", "") or request.query_params.get("last_event_id", "")
    if last == END:
        return Response(b"", status_code=204)
    try:
        cursor = Cursor.parse(last) if last else Cursor()
    except BadEventId as error:
        raise RequestError(400, str(error), field="Last-Event-ID", code="invalid_value") from error
    try:
        body = await first_of(_event_stream(gateway, check_id(job), cursor))
    except UnknownJob:
        raise no_such_job(job) from None
    except StopAsyncIteration:
        return Response(b"", status_code=204)
    return event_stream(gateway, body)


async def _event_stream(gateway: Gateway, job: str, cursor: Cursor) -> AsyncIterator[bytes]:
    async for item in gateway.streams.watch(job, cursor):
        if item is None:
            yield comment("waiting")
        else:
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


@post("/v1/jobs/{job:str}/cancel", status_code=202, summary="Cancel a job", opt={"answers": JobAnswer})
async def cancel_job(state: State, job: str) -> Response[bytes]:
    return await _cancel(state.gateway, check_id(job))


@delete("/v1/jobs/{job:str}", status_code=202, summary="Cancel a job", opt={"answers": JobAnswer})
async def delete_job(state: State, job: str) -> Response[bytes]:
    return await _cancel(state.gateway, check_id(job))


async def _check_owner(gateway: Gateway, job: str) -> None:
    """Raises RequestError 404 when the job is another key's."""
    if current_key.get() is not None:
        await _known(gateway, check_id(job))


async def _cancel(gateway: Gateway, job: str) -> Response[bytes]:
    await _check_owner(gateway, job)
    stored = await stored_result(gateway, job)
    if stored is None and not await gateway.cancel(job):
        stored = await stored_result(gateway, job)
        if stored is None:
            raise no_such_job(job)
    if stored is not None:
        status = status_of(stored.event)
        raise RequestError(409, f"the job has ended already: {status}", code="already_ended")
    view = await gateway.streams.job_view(job)
    model = view.model if view is not None else ""
    return json_answer(JobAnswer(id=job, status="cancelled", model=model, urls=urls_of(job)), 202)


@get("/v1/jobs/{job:str}/explain", summary="Why a job went where it went", opt={"answers": Explanation})
async def explain_job(state: State, job: str) -> Response[bytes]:
    gateway: Gateway = state.gateway
    await _check_owner(gateway, job)
    try:
        subject = gateway.bus.subjects.scheduler("explain")
        found: Explanation | None = await gateway.bus.ask(
            subject, JobQuery(check_id(job)), Explanation | None, ASK_TIMEOUT_S
        )
    except (BusError, wire.UnreadableMessage) as error:
        raise RequestError(503, "no scheduler answers; try again", retry_after_s=1) from error
    if found is None:
        raise RequestError(
            404, f"no decision about {job!r} is known: it waits, or is long over", code="job_not_found"
        )
    return json_answer(found)


@get("/v1/jobs/{job:str}/files/{index:int}", summary="A file that a function has saved")
async def job_file(state: State, job: str, index: Annotated[int, Parameter(ge=0)]) -> Response[bytes]:
    content, file = await attached_to(state.gateway, job, "files", index)
    assert isinstance(file, SavedFile)
    named = {"Content-Disposition": f"inline; filename*=UTF-8''{quote(file.name)}"}
    return Response(content, media_type=file.content_type, headers=named)


@get("/v1/jobs/{job:str}/images/{index:int}", summary="A picture of a result")
async def job_image(state: State, job: str, index: Annotated[int, Parameter(ge=0)]) -> Response[bytes]:
    content, picture = await attached_to(state.gateway, job, "images", index)
    return Response(content, media_type=picture.content_type)


ROUTES = [
    submit_job,
    put_job,
    list_jobs,
    show_job,
    job_events,
    cancel_job,
    delete_job,
    explain_job,
    job_image,
    job_file,
]
