"""Files and pictures of ended jobs: for who asks for them, and for calls of functions that name them."""

import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from stoker.schemas.batches import FileRecord
from stoker.schemas.job_events import Completed, ImageOutput, Picture, SavedFile, ValueOutput
from stoker.schemas.jobs import FILE_FIELDS, Attachment, FunctionInput, Job, TranscriptionInput
from stoker.schemas.subjects import BadName, check_name
from stoker.services.bus.connection import Bus
from stoker.services.bus.streams import RESULT_TTL_S
from stoker.services.gateway.edge.access import is_visible
from stoker.services.gateway.edge.exchange import MAX_BODY_BYTES
from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.file_names import ID, REFERENCE, REMOTE
from stoker.services.gateway.jobs.remote_files import fetched_file, remote_files
from stoker.services.gateway.jobs.submission import with_input
from stoker.services.gateway.jobs.transcriptions import AUDIO, with_audio
from stoker.services.records.blobs import (
    BlobGone,
    attach,
    attachment_of,
    attachments,
    with_value,
    write_blob_of,
)
from stoker.services.records.files import chunks_of, content_of, kept_file
from stoker.services.records.results import NotStored, Result, Stored, Unknown, Unreadable, find_result

MAX_REFERENCES = 16
"""Files of other jobs that one payload may name."""
Kind = Literal["files", "images"]
FETCH_MARGIN_S = 300.0
"""How long before it is gone a blob is not relied on any more."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A file or picture of a result. name: of these very bytes. stored_at: seconds since 1970."""

    file: Attachment
    told: SavedFile | Picture
    name: str
    stored_at: float


def check_id(job: str) -> str:
    """A job's id that could be one. Raises RequestError 400."""
    try:
        return check_name(job)
    except BadName as error:
        raise RequestError(400, f"job id: {error}", field="id", code="invalid_value") from error


NO_SUCH_JOB = "job_not_found"


def no_such_job(job: str) -> RequestError:
    return RequestError(404, f"there is no job {job!r}, or its result is no longer kept", code=NO_SUCH_JOB)


async def visible_result(gateway: Gateway, job: str, found: Result) -> Result:
    """A stored result with its whole value. Raises RequestError 404 when it is another key's, BlobGone."""
    if not is_visible(found.event.tenant):
        raise no_such_job(job)
    return Result(await with_value(gateway.bus, found.event), found.attached)


async def _stored_result(gateway: Gateway, job: str) -> Result:
    """The result of an ended job. Raises RequestError 404 where none is stored, 503, BlobGone."""
    match await find_result(gateway.bus, check_id(job), for_sure=True):
        case NotStored():
            raise no_such_job(job)
        case Unknown(reason):
            raise RequestError(503, reason, retry_after_s=RETRY_AFTER_S)
        case Unreadable(reason):
            raise RequestError(500, reason, code="unreadable_result")
        case Stored(found):
            return await visible_result(gateway, job, found)


async def attached_to(gateway: Gateway, job: str, kind: Kind, index: int) -> Attached:
    """A file that a function has saved, or a picture of a result. Raises RequestError 404, 503, BlobGone."""
    stored = await _stored_result(gateway, job)
    output = stored.event.output if isinstance(stored.event, Completed) else None
    if not isinstance(output, ValueOutput if kind == "files" else ImageOutput):
        raise no_such_job(job)
    there = attachments(output)
    if index >= len(there):
        raise RequestError(404, f"the job has {len(there)} {kind}", code=f"{kind[:-1]}_not_found")
    file = attachment_of(output, stored.attached, index)
    name = f"{job}-{stored.event.term}-{stored.event.attempt}-{kind}-{index}"
    return Attached(file, there[index], name, stored.event.finished_at)


def references(value: Any, place: str = "") -> dict[str, str]:
    """The files that a payload names, in the `url` of a FileRef or the `ref` of an Asset, with their places.

    A file is named by its id, or, one of a job's result, by its URL.
    """
    found: dict[str, str] = {}
    if isinstance(value, dict):
        for name in FILE_FIELDS:
            named = value.get(name)
            if isinstance(named, str) and (REFERENCE.fullmatch(named) or ID.fullmatch(named)):
                found.setdefault(named, place or name)
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        found = references(one, f"{place}.{key}" if place else str(key)) | found
    return found


async def with_files(gateway: Gateway, job: Job) -> Job:
    """The same job with the files that its payload names. Raises RequestError, BusError."""
    if isinstance(job.input, TranscriptionInput):
        return await _with_audio(gateway, job, job.input)
    if not isinstance(job.input, FunctionInput):
        return job
    named, remote = references(job.input.payload), remote_files(gateway, job.input)
    if len(named) + len(remote) > MAX_REFERENCES:
        raise RequestError(400, f"a payload names at most {MAX_REFERENCES} files", code="invalid_value")
    files = {one: await _referenced(gateway, job, one, place) for one, place in sorted(named.items())}
    files |= {url: await fetched_file(gateway, url, place) for url, place in sorted(remote.items())}
    return with_input(job, msgspec.structs.replace(job.input, files=files)) if files else job


async def _with_audio(gateway: Gateway, job: Job, asked: TranscriptionInput) -> Job:
    """The same job with its sound, which is sent with it or is a file."""
    [(named, file)] = asked.files.items()
    if named == AUDIO:
        attached = await attach(gateway.bus, f"{job.id}/{AUDIO}", file.content)
        return with_input(job, with_audio(asked, attached, len(file.content)))
    if REMOTE.match(named):
        attached = await fetched_file(gateway, named, "input.file", MAX_BODY_BYTES)
    elif REFERENCE.fullmatch(named) or ID.fullmatch(named):
        attached = await _referenced(gateway, job, named, "input.file")
    else:
        message = "file must be a file's id, a URL, /v1/jobs/JOB/files/NUMBER, or data:audio/…;base64,…"
        raise RequestError(400, message, field="input.file", code="invalid_value")
    content = await content_of(gateway.bus, attached)
    size = len(content) if isinstance(content, bytes) else sum(piece.size for piece in content)
    if size > MAX_BODY_BYTES:
        message = f"{named} has {size} bytes; sound has at most {MAX_BODY_BYTES}: cut it, or compress it more"
        raise RequestError(413, message, field="input.file", code="file_too_large")
    return with_input(job, with_audio(asked, attached, size))


async def _referenced(gateway: Gateway, job: Job, named: str, field: str) -> Attachment:
    """A file that a job names, as it travels: large ones are read by the worker, where they lie.

    Raises RequestError 404, 503 with the field, BusError.
    """
    try:
        found = REFERENCE.fullmatch(named)
        if found is None:
            return Attachment(segments=(await present_file(gateway.bus, named)).segments)
        kind: Kind = "files" if found[2] == "files" else "images"
        attached = await attached_to(gateway, found[1], kind, int(found[3]))
        return await _lasting(gateway, job, attached)
    except RequestError as error:
        raise RequestError(
            error.status,
            f"{named}: {error}",
            field=field,
            code=error.code,
            retry_after_s=error.retry_after_s,
        ) from error
    except BlobGone as error:
        raise RequestError(404, f"{named}: {error}", field=field, code="file_not_found") from error


async def _lasting(gateway: Gateway, job: Job, attached: Attached) -> Attachment:
    """The same file, to be had until the job has started: a copy where it would be gone before."""
    if attached.file.blob:
        until = attached.stored_at + RESULT_TTL_S - FETCH_MARGIN_S
        if time.time() + job.admission_timeout_s < until:
            return attached.file
        async with aclosing(await chunks_of(gateway.bus, attached.file)) as chunks:
            return Attachment(blob=await write_blob_of(gateway.bus, chunks))
    return await attach(gateway.bus, f"{job.id}/file", attached.file.content)


async def present_file(bus: Bus, file: str) -> FileRecord:
    """A client's file, by its id. Raises RequestError 404, BusError, wire.UnreadableMessage."""
    record = await kept_file(bus, file)
    if record is None or not is_visible(record.tenant) or record.expires_at <= time.time():
        message = f"there is no file {file!r}, or it is no longer kept"
        raise RequestError(404, message, field="file_id", code="file_not_found")
    return record
