"""Files and pictures of ended jobs: for who asks for them, and for calls of functions that name them."""

import re
from typing import Any, Literal

import msgspec

from schemas.job_events import Completed, ImageOutput, Picture, SavedFile, ValueOutput
from schemas.jobs import FILE_FIELDS, FunctionInput, Job, TranscriptionInput
from schemas.subjects import BadName, check_name
from services.gateway.edge.access import is_visible
from services.gateway.edge.problems import RETRY_AFTER_S, RequestError
from services.gateway.gateway import Gateway
from services.gateway.jobs.submission import with_input
from services.gateway.jobs.transcriptions import AUDIO, with_audio
from services.records.blobs import BlobGone, attach, attachments, get_pictures, with_value
from services.records.results import NotStored, Result, Stored, Unknown, Unreadable, find_result

MAX_REFERENCES = 16
"""Files of other jobs that one payload may name."""
Kind = Literal["files", "images"]
_REFERENCE = re.compile(r"/v1/jobs/([^/]+)/(files|images)/(\d{1,4})")


def check_id(job: str) -> str:
    """A job's id that could be one. Raises RequestError 400."""
    try:
        return check_name(job)
    except BadName as error:
        raise RequestError(400, f"job id: {error}", field="id", code="invalid_value") from error


def no_such_job(job: str) -> RequestError:
    return RequestError(404, f"there is no job {job!r}, or its result is no longer kept", code="job_not_found")


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


async def attached_to(gateway: Gateway, job: str, kind: Kind, index: int) -> tuple[bytes, SavedFile | Picture]:
    """A file that a function has saved, or a picture of a result. Raises RequestError 404, BlobGone."""
    stored = await _stored_result(gateway, job)
    output = stored.event.output if isinstance(stored.event, Completed) else None
    if not isinstance(output, ValueOutput if kind == "files" else ImageOutput):
        raise no_such_job(job)
    there = attachments(output)
    if index >= len(there):
        raise RequestError(404, f"the job has {len(there)} {kind}", code=f"{kind[:-1]}_not_found")
    return (await get_pictures(gateway.bus, output, stored.attached))[index], there[index]


def references(value: Any) -> set[str]:
    """Every `url` (of a FileRef) and `ref` (of an Asset) of a payload that names a job's file or picture."""
    if isinstance(value, dict):
        urls = (value.get(name) for name in FILE_FIELDS)
        own = {url for url in urls if isinstance(url, str) and _REFERENCE.fullmatch(url)}
        return own.union(*(references(inner) for inner in value.values()))
    if isinstance(value, list):
        return set[str]().union(*(references(inner) for inner in value))
    return set()


async def with_files(gateway: Gateway, job: Job) -> Job:
    """The same job with the files that its payload names. Raises RequestError 400, 404."""
    if isinstance(job.input, TranscriptionInput):
        return await _with_audio(gateway, job, job.input)
    if not isinstance(job.input, FunctionInput):
        return job
    urls = sorted(references(job.input.payload))
    if len(urls) > MAX_REFERENCES:
        raise RequestError(400, f"a payload names at most {MAX_REFERENCES} files", code="invalid_value")
    files = {
        url: await attach(gateway.bus, f"{job.id}/{number}", await _referenced(gateway, url))
        for number, url in enumerate(urls)
    }
    return with_input(job, msgspec.structs.replace(job.input, files=files)) if files else job


async def _with_audio(gateway: Gateway, job: Job, asked: TranscriptionInput) -> Job:
    """The same job with its sound, which is sent with it or is a file of another job."""
    [(named, file)] = asked.files.items()
    content = file.content
    if named != AUDIO:
        if _REFERENCE.fullmatch(named) is None:
            message = "file must be /v1/jobs/JOB/files/NUMBER, or data:audio/…;base64,… with the sound itself"
            raise RequestError(400, message, field="input.file", code="invalid_value")
        content = await _referenced(gateway, named, "input.file")
    attached = await attach(gateway.bus, f"{job.id}/{AUDIO}", content)
    return with_input(job, with_audio(asked, attached, len(content)))


async def _referenced(gateway: Gateway, url: str, field: str = "url") -> bytes:
    found = _REFERENCE.fullmatch(url)
    assert found is not None
    kind: Kind = "files" if found[2] == "files" else "images"
    try:
        content, _ = await attached_to(gateway, found[1], kind, int(found[3]))
    except RequestError as error:
        raise RequestError(error.status, f"{url}: {error}", field=field, code=error.code) from error
    except BlobGone as error:
        raise RequestError(404, f"{url}: {error}", field=field, code="file_not_found") from error
    return content
