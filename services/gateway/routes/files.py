"""Files, as OpenAI's API reference describes them: inputs of batches and whatever else a client keeps here."""

import asyncio
import time
from functools import partial
from typing import Literal
from urllib.parse import quote

import msgspec

from schemas.batches import FileDeleted, FileList, FileObject, FileRecord, Purpose, Segment
from services.gateway.edge.access import is_visible, listed_tenant, owner
from services.gateway.edge.exchange import Exchange
from services.gateway.edge.forms import Form, read_form
from services.gateway.edge.problems import RequestError, disk_full
from services.gateway.edge.routing import delete, get, openai_paths, post
from services.gateway.gateway import Gateway
from services.gateway.jobs.batch_states import has_ended
from services.gateway.jobs.pages import page_of
from services.process.tasks import limit
from services.records import files
from services.records.batches import list_batches
from services.records.files import append, forget_file, keep_file, kept_file, list_files, new_id, record_of

MAX_FILE_BYTES = 100 * 1024 * 1024
FORM_MARGIN_BYTES = 64 * 1024
"""What a form may have beside the file."""
MAX_NAME_CHARS = 255
UPLOAD_TURN_S = 20.0
"""The longest that an upload waits for others to end."""
MAX_PAGE = 10_000
KEPT: tuple[Purpose, ...] = ("batch", "user_data", "assistants")
"""Purposes of files that clients may send."""
MIN_EXPIRY_S = 3600


class FileForm(msgspec.Struct, frozen=True):
    """The fields beside `file`. expires_after: from its creation; files are kept for seven days at most."""

    purpose: str
    anchor: Literal["created_at"] | None = msgspec.field(default=None, name="expires_after[anchor]")
    expires_after_s: int | None = msgspec.field(default=None, name="expires_after[seconds]")


class FilesQuery(msgspec.Struct, frozen=True):
    """Which files are listed. after: the last of the page before."""

    purpose: str = ""
    limit: int = MAX_PAGE
    after: str = ""
    order: Literal["asc", "desc"] = "desc"


@post(
    *openai_paths("/files"),
    summary="Keep a file",
    asks=FileForm,
    takes="multipart/form-data",
    answers=FileObject,
    dialect="openai",
)
async def create_file(gateway: Gateway, exchange: Exchange) -> None:
    if found := gateway.fleet.why_disk_full():
        raise disk_full(found)
    with limit("waiting for other uploads", UPLOAD_TURN_S):
        await gateway.uploads.acquire()
    try:
        most = MAX_FILE_BYTES + FORM_MARGIN_BYTES
        body = await exchange.body(most)
        form = await asyncio.to_thread(partial(read_form, exchange.header(b"content-type"), body, "file", most))
        await exchange.answer(_shown(await _keep(gateway, form)))
    finally:
        gateway.uploads.release()


async def _keep(gateway: Gateway, form: Form) -> FileRecord:
    """Raises RequestError 400, 413, BusError, LimitExceeded."""
    asked = form.as_struct(FileForm)
    purpose = next((one for one in KEPT if one == asked.purpose), None)
    if purpose is None:
        message = f"files of the purpose {asked.purpose!r} are not kept; known are {', '.join(KEPT)}"
        raise RequestError(400, message, field="purpose", code="invalid_value")
    content = form.files.get("file", b"")
    if not content:
        message = "file is missing or empty: send the file's content in the field `file`"
        raise RequestError(400, message, field="file", code="invalid_value")
    if len(content) > MAX_FILE_BYTES:
        message = f"a file has at most {MAX_FILE_BYTES} bytes, not {len(content)}: send several"
        raise RequestError(413, message, field="file", code="file_too_large")
    if asked.expires_after_s is not None and asked.expires_after_s < MIN_EXPIRY_S:
        message = f"expires_after must be {MIN_EXPIRY_S} seconds or more"
        raise RequestError(400, message, field="expires_after", code="invalid_value")
    name = form.names.get("file", "")[:MAX_NAME_CHARS] or "file"
    file = new_id()
    segment = await append(gateway.bus, Segment(file, 0, 0), content)
    record = record_of(file, name, purpose, time.time(), owner(), [segment])
    if asked.expires_after_s is not None:
        expires_at = min(record.created_at + asked.expires_after_s, record.expires_at)
        record = msgspec.structs.replace(record, expires_at=expires_at)
    await keep_file(gateway.bus, record)
    return record


def _shown(record: FileRecord) -> FileObject:
    return FileObject(
        id=record.id,
        bytes=record.size,
        created_at=record.created_at,
        filename=record.filename,
        purpose=record.purpose,
        expires_at=record.expires_at,
    )


async def _present(gateway: Gateway, exchange: Exchange) -> FileRecord:
    """The file that a path names. Raises RequestError 404."""
    file = exchange.parameter("file")
    record = await kept_file(gateway.bus, file)
    if record is None or not is_visible(record.tenant) or record.expires_at <= time.time():
        message = f"there is no file {file!r}, or it is no longer kept"
        raise RequestError(404, message, field="file_id", code="file_not_found")
    return record


@get(*openai_paths("/files"), summary="List files", query=FilesQuery, answers=FileList, dialect="openai")
async def show_files(gateway: Gateway, exchange: Exchange) -> None:
    asked = exchange.query(FilesQuery)
    tenant, now = listed_tenant(), time.time()
    found = [
        record
        for record in await list_files(gateway.bus)
        if record.expires_at > now
        and (not tenant or record.tenant == tenant)
        and (not asked.purpose or record.purpose == asked.purpose)
    ]
    found.sort(key=lambda record: (record.created_at, record.id), reverse=asked.order == "desc")
    page, has_more = page_of(found, lambda record: record.id, asked.after, asked.limit, MAX_PAGE)
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    await exchange.answer(FileList(tuple(map(_shown, page)), first, last, has_more))


@get(*openai_paths("/files/{file}"), summary="A file", answers=FileObject, dialect="openai")
async def show_file(gateway: Gateway, exchange: Exchange) -> None:
    await exchange.answer(_shown(await _present(gateway, exchange)))


@get(
    *openai_paths("/files/{file}/content"),
    summary="The bytes of a file",
    gives="application/octet-stream",
    dialect="openai",
)
async def file_content(gateway: Gateway, exchange: Exchange) -> None:
    record = await _present(gateway, exchange)
    headers = {
        "content-disposition": f"attachment; filename*=UTF-8''{quote(record.filename, safe='')}",
        "content-security-policy": "default-src 'none'; sandbox",
    }
    parts = files.read(gateway.bus, record.segments)
    try:
        await exchange.answer_parts(parts, record.size, "application/octet-stream", headers)
    except files.FileGone as error:
        raise RequestError(404, str(error), field="file_id", code="file_not_found") from error


@delete(*openai_paths("/files/{file}"), summary="Forget a file", answers=FileDeleted, dialect="openai")
async def delete_file(gateway: Gateway, exchange: Exchange) -> None:
    record = await _present(gateway, exchange)
    for batch in await list_batches(gateway.bus):
        if batch.input_file_id == record.id and not has_ended(batch.status):
            message = f"the batch {batch.id} reads this file: cancel it first, or wait for its end"
            raise RequestError(409, message, field="file_id", code="file_in_use")
    await forget_file(gateway.bus, record)
    await exchange.answer(FileDeleted(record.id))


ROUTES = [create_file, show_files, show_file, file_content, delete_file]
