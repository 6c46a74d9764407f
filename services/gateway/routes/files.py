"""Files, as OpenAI's API reference describes them: inputs of batches and whatever else a client keeps here."""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Literal
from urllib.parse import quote

import msgspec

from stoker.schemas.batches import FileDeleted, FileList, FileObject, FileRecord, Purpose
from stoker.schemas.uploads import PartRecord
from stoker.services.gateway.edge.access import listed_tenant, owner
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError, disk_full
from stoker.services.gateway.edge.routing import delete, get, openai_paths, post
from stoker.services.gateway.edge.sent_files import send_file
from stoker.services.gateway.edge.upload_forms import UploadForm
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.batch_states import has_ended
from stoker.services.gateway.jobs.files import present_file
from stoker.services.gateway.jobs.pages import page_of
from stoker.services.records import files
from stoker.services.records.batches import list_batches
from stoker.services.records.files import forget_file, keep_file, list_files, new_id, record_of
from stoker.services.records.uploads import forget, give_up, receive

MAX_FILE_BYTES = 2 * 1024**3
MAX_NAME_CHARS = 255
MAX_PAGE = 10_000
KEPT: tuple[Purpose, ...] = ("batch", "user_data", "assistants")
"""Purposes of files that clients may send."""
MIN_EXPIRY_S = 3600


class FileForm(msgspec.Struct, frozen=True):
    """The fields beside `file`. expires_after: from its creation; files are kept for seven days at most."""

    purpose: str
    anchor: Literal["created_at"] | None = msgspec.field(default=None, name="expires_after[anchor]")
    expires_after_s: int | None = msgspec.field(default=None, name="expires_after[seconds]")


class RawFileQuery(msgspec.Struct, frozen=True):
    """The same for a body that is the file itself."""

    filename: str = ""
    purpose: str = "user_data"
    expires_after_s: int | None = msgspec.field(default=None, name="expires_after[seconds]")


class FilesQuery(msgspec.Struct, frozen=True):
    """Which files are listed. after: the last of the page before."""

    purpose: str = ""
    limit: int = MAX_PAGE
    after: str = ""
    order: Literal["asc", "desc"] = "desc"


@post(
    *openai_paths("/files"),
    summary="Keep a file: in a form, or as the body itself (application/octet-stream)",
    query=RawFileQuery,
    asks=FileForm,
    takes="multipart/form-data",
    answers=FileObject,
    dialect="openai",
)
async def create_file(gateway: Gateway, exchange: Exchange) -> None:
    form = UploadForm(exchange, "file", MAX_FILE_BYTES)
    file, now = new_id(), time.time()
    async with receiving(gateway), aclosing(_checked(form)) as content:
        part = await receive(gateway.bus, content, form.most_bytes, now, file)
        try:
            record = _record(form, file, now, part)
        except RequestError:
            await give_up(gateway.bus, part)
            raise
        await keep_file(gateway.bus, record)
        await forget(gateway.bus, part)
    await exchange.answer(shown(record))


@asynccontextmanager
async def receiving(gateway: Gateway) -> AsyncIterator[None]:
    """Inside, one more file is received. Raises RequestError: 503 where the disk is full, 429 and 503 where too
    many are received.
    """
    if found := gateway.fleet.why_disk_full():
        raise disk_full(found)
    async with gateway.uploads.turn(owner()):
        yield


async def _checked(form: UploadForm) -> AsyncGenerator[bytes]:
    """The bytes of a form's file; what is wrong with fields before it is said before the first of them."""
    is_checked = False
    async with aclosing(form.content()) as chunks:
        async for chunk in chunks:
            if not is_checked and "purpose" in form.fields:
                check_purpose(form.fields["purpose"])
                is_checked = True
            yield chunk


def check_purpose(purpose: str) -> Purpose:
    """A purpose of files that clients may send. Raises RequestError 400."""
    found = next((one for one in KEPT if one == purpose), None)
    if found is None:
        message = f"files of the purpose {purpose!r} are not kept; known are {', '.join(KEPT)}"
        raise RequestError(400, message, field="purpose", code="invalid_value")
    return found


def check_expiry(seconds: int | None) -> None:
    """Raises RequestError 400."""
    if seconds is not None and seconds < MIN_EXPIRY_S:
        message = f"expires_after must be {MIN_EXPIRY_S} seconds or more"
        raise RequestError(400, message, field="expires_after", code="invalid_value")


def expiring(record: FileRecord, seconds: int | None) -> FileRecord:
    """The same file, kept for as long as its sender wants it, at most as long as files are kept."""
    if seconds is None:
        return record
    return msgspec.structs.replace(record, expires_at=min(record.created_at + seconds, record.expires_at))


def _record(form: UploadForm, file: str, now: float, part: PartRecord) -> FileRecord:
    """The file that a form has brought. Raises RequestError 400."""
    asked: RawFileQuery | FileForm
    asked = form.as_struct(RawFileQuery) if form.is_raw else form.as_struct(FileForm)
    purpose = check_purpose(asked.purpose)
    check_expiry(asked.expires_after_s)
    if not part.segment.size:
        message = "file is missing or empty: send the file's content in the field `file`, or as the body"
        raise RequestError(400, message, field="file", code="invalid_value")
    name = form.filename[:MAX_NAME_CHARS] or "file"
    return expiring(record_of(file, name, purpose, now, owner(), [part.segment]), asked.expires_after_s)


def shown(record: FileRecord) -> FileObject:
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
    return await present_file(gateway.bus, exchange.parameter("file"))


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
    await exchange.answer(FileList(tuple(map(shown, page)), first, last, has_more))


@get(*openai_paths("/files/{file}"), summary="A file", answers=FileObject, dialect="openai")
async def show_file(gateway: Gateway, exchange: Exchange) -> None:
    await exchange.answer(shown(await _present(gateway, exchange)))


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
    content = files.pieces(gateway.bus, record.segments)
    try:
        await send_file(gateway.bus, exchange, content, record.id, "application/octet-stream", headers)
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
