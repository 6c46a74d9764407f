"""Files that are sent in parts, as OpenAI's API reference describes them: a part that failed is sent again."""

import hashlib
import time
from contextlib import aclosing

from stoker.schemas.uploads import (
    PartObject,
    PartRecord,
    UploadCompletion,
    UploadObject,
    UploadRecord,
    UploadRequest,
)
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import Conflict
from stoker.services.gateway.edge.access import is_visible, owner
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError, disk_full, too_large
from stoker.services.gateway.edge.routing import openai_paths, post, post_body
from stoker.services.gateway.edge.upload_forms import UploadForm
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.routes.files import (
    MAX_FILE_BYTES,
    MAX_NAME_CHARS,
    check_expiry,
    check_purpose,
    expiring,
    receiving,
    shown,
)
from stoker.services.records import files, uploads
from stoker.services.records.files import record_of

MAX_PART_BYTES = 64 * 1024 * 1024
"""Of one part, as at OpenAI."""
MAX_PARTS = 2000
"""Of one upload: their names stand in one message."""


@post_body(
    *openai_paths("/uploads"),
    summary="Begin a file that is sent in parts",
    asks=UploadRequest,
    answers=UploadObject,
    dialect="openai",
)
async def create_upload(gateway: Gateway, exchange: Exchange, asked: UploadRequest) -> None:
    if asked.bytes < 1:
        raise RequestError(400, "bytes must be 1 or more: the file's size", field="bytes", code="invalid_value")
    if asked.bytes > MAX_FILE_BYTES:
        refused = too_large("a file", MAX_FILE_BYTES, asked.bytes)
        refused.field = "bytes"
        raise refused
    expires_s = asked.expires_after.seconds if asked.expires_after is not None else None
    check_expiry(expires_s)
    if found := gateway.fleet.why_disk_full():
        raise disk_full(found)
    now = int(time.time())
    record = UploadRecord(
        id=uploads.new_upload_id(),
        filename=asked.filename[:MAX_NAME_CHARS] or "file",
        purpose=check_purpose(asked.purpose),
        size=asked.bytes,
        created_at=now,
        expires_at=now + uploads.UPLOAD_TTL_S,
        tenant=owner(),
        file_expires_s=expires_s,
    )
    await uploads.put(gateway.bus, record)
    await exchange.answer(await _object(gateway.bus, record))


async def _object(bus: Bus, record: UploadRecord) -> UploadObject:
    found = await files.kept_file(bus, uploads.file_of(record.id)) if record.status == "completed" else None
    return UploadObject(
        id=record.id,
        bytes=record.size,
        created_at=record.created_at,
        expires_at=record.expires_at,
        filename=record.filename,
        purpose=record.purpose,
        status=record.status,
        file=None if found is None else shown(found),
    )


async def _found(gateway: Gateway, exchange: Exchange) -> tuple[UploadRecord, int]:
    """The upload that a path names. Raises RequestError 404."""
    upload = exchange.parameter("upload")
    found = await uploads.find_upload(gateway.bus, upload)
    if found is None or not is_visible(found[0].tenant):
        message = f"there is no upload {upload!r}, or it is no longer kept"
        raise RequestError(404, message, field="upload_id", code="upload_not_found")
    return found


def _check_pending(record: UploadRecord) -> None:
    """Raises RequestError 400, not 409, which OpenAI's clients would try again."""
    is_late = record.status == "pending" and record.expires_at <= time.time()
    status = "expired" if is_late else record.status
    if status != "pending":
        message = f"the upload is {status}: begin another one with POST /v1/uploads"
        raise RequestError(400, message, field="upload_id", code=f"upload_{status}")


@post(
    *openai_paths("/uploads/{upload}/parts"),
    summary="Send a part: `data` of a form, or the body itself (application/octet-stream)",
    takes="multipart/form-data",
    answers=PartObject,
    dialect="openai",
)
async def add_part(gateway: Gateway, exchange: Exchange) -> None:
    form = UploadForm(exchange, "data", MAX_PART_BYTES)
    record, _ = await _found(gateway, exchange)
    _check_pending(record)
    if len(await uploads.parts_of(gateway.bus, record.id)) >= MAX_PARTS:
        message = f"an upload has at most {MAX_PARTS} parts: send larger ones, of up to {MAX_PART_BYTES} bytes"
        raise RequestError(400, message, field="data", code="too_many_parts")
    file = uploads.file_of(record.id)
    async with receiving(gateway), aclosing(form.content()) as content:
        part = await uploads.receive(gateway.bus, content, form.most_bytes, time.time(), file, record)
    if not part.segment.size:
        await uploads.give_up(gateway.bus, part)
        message = "data is missing or empty: send the part's bytes in the field `data`, or as the body"
        raise RequestError(400, message, field="data", code="invalid_value")
    await exchange.answer(PartObject(part.id, part.created_at, record.id))


@post_body(
    *openai_paths("/uploads/{upload}/complete"),
    summary="Make the parts a file",
    asks=UploadCompletion,
    answers=UploadObject,
    dialect="openai",
)
async def complete_upload(gateway: Gateway, exchange: Exchange, asked: UploadCompletion) -> None:
    record, revision = await _found(gateway, exchange)
    if record.status == "completed" and record.part_ids == asked.part_ids:
        await exchange.answer(await _object(gateway.bus, record))  # asked again, as its answer was lost
        return
    _check_pending(record)
    parts = _chosen(await uploads.parts_of(gateway.bus, record.id), asked, record)
    await _check_digest(gateway.bus, parts, asked.md5)
    try:
        if record.part_ids and record.part_ids != asked.part_ids:
            raise Conflict("it is being completed with other parts")
        revision = await uploads.choose(gateway.bus, record, revision, asked.part_ids)
        made = record_of(
            uploads.file_of(record.id),
            record.filename,
            record.purpose,
            time.time(),
            record.tenant,
            [part.segment for part in parts],
        )
        await files.keep_file(gateway.bus, expiring(made, record.file_expires_s))
        record, _ = await _found(gateway, exchange)
        record = await uploads.move(gateway.bus, record, revision, "completed")
    except Conflict as error:
        message = "another request completes or cancels this upload at this moment: look at what became of it"
        raise RequestError(409, message, field="upload_id", code="conflict") from error
    await uploads.give_up_parts(gateway.bus, record.id)
    await exchange.answer(await _object(gateway.bus, record))


def _chosen(there: dict[str, PartRecord], asked: UploadCompletion, record: UploadRecord) -> list[PartRecord]:
    """The parts that are asked for, in order. Raises RequestError 400."""
    for index, part in enumerate(asked.part_ids):
        if part not in there or not there[part].is_whole or part in asked.part_ids[:index]:
            why = "is named twice" if part in asked.part_ids[:index] else "is no part of this upload"
            raise RequestError(400, f"part_ids: {part!r} {why}", field=f"part_ids.{index}", code="invalid_part")
    parts = [there[part] for part in asked.part_ids]
    size = sum(part.segment.size for part in parts)
    if size != record.size:
        message = f"the parts have {size} bytes together, and the upload was begun for {record.size}"
        raise RequestError(400, message, field="part_ids", code="wrong_size")
    return parts


async def _check_digest(bus: Bus, parts: list[PartRecord], md5: str | None) -> None:
    """Raises RequestError 400 where the bytes are not those that were meant."""
    if md5 is None:
        return
    digest = hashlib.md5(usedforsecurity=False)
    async with aclosing(files.read(bus, [part.segment for part in parts])) as content:
        async for chunk in content:
            digest.update(chunk)
    if digest.hexdigest() != md5.lower():
        message = f"the parts have the MD5 {digest.hexdigest()}, not {md5}: send the wrong ones again"
        raise RequestError(400, message, field="md5", code="wrong_digest")


@post(
    *openai_paths("/uploads/{upload}/cancel"),
    summary="Give an upload up",
    answers=UploadObject,
    dialect="openai",
)
async def cancel_upload(gateway: Gateway, exchange: Exchange) -> None:
    record, revision = await _found(gateway, exchange)
    _check_pending(record)
    try:
        if record.part_ids:
            raise Conflict("it is being completed")
        record = await uploads.move(gateway.bus, record, revision, "cancelled")
    except Conflict as error:
        message = "another request completes or cancels this upload at this moment"
        raise RequestError(409, message, field="upload_id", code="conflict") from error
    await uploads.give_up_parts(gateway.bus, record.id)
    await exchange.answer(await _object(gateway.bus, record))


ROUTES = [create_upload, add_part, complete_upload, cancel_upload]
