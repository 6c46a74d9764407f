"""Batches, as OpenAI's API reference describes them. What runs them is services/gateway/batches."""

import secrets
import time

import msgspec

from stoker.schemas.batches import COMPLETION_WINDOW, BatchAnswer, BatchList, BatchRecord, BatchRequest
from stoker.services.gateway.edge.access import is_visible, listed_tenant, owner
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError, disk_full
from stoker.services.gateway.edge.routing import get, openai_paths, post, post_body
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.batch_states import answer_of, has_ended, move
from stoker.services.gateway.jobs.pages import page_of
from stoker.services.records.batches import change_batch, create_batch, list_batches, read_batch
from stoker.services.records.files import kept_file

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
WINDOW_S = 24 * 3600
MAX_UNFINISHED = 100
"""Batches of one key that have not ended."""
MAX_PAGE = 100
MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512
"""Entries, and characters of their keys and values."""


class BatchesQuery(msgspec.Struct, frozen=True):
    """Which batches are listed. after: the last of the page before."""

    limit: int = 20
    after: str = ""


def check_request(asked: BatchRequest) -> None:
    """Raises RequestError 400."""
    if asked.endpoint not in ENDPOINTS:
        raise _wrong(f"endpoint must be one of {', '.join(ENDPOINTS)}, not {asked.endpoint!r}", "endpoint")
    if asked.completion_window != COMPLETION_WINDOW:
        message = f"completion_window must be {COMPLETION_WINDOW!r}, not {asked.completion_window!r}"
        raise _wrong(message, "completion_window")
    given = asked.metadata or {}
    is_short = all(
        len(key) <= MAX_METADATA_KEY and len(value) <= MAX_METADATA_VALUE for key, value in given.items()
    )
    if len(given) > MAX_METADATA or not is_short:
        message = (
            f"metadata has at most {MAX_METADATA} entries, keys of {MAX_METADATA_KEY} and values of "
            f"{MAX_METADATA_VALUE} characters"
        )
        raise _wrong(message, "metadata")


def _wrong(message: str, field: str) -> RequestError:
    return RequestError(400, message, field=field, code="invalid_value")


@post_body(
    *openai_paths("/batches"),
    summary="Start a batch",
    asks=BatchRequest,
    answers=BatchAnswer,
    dialect="openai",
)
async def create(gateway: Gateway, exchange: Exchange, asked: BatchRequest) -> None:
    check_request(asked)
    if found := gateway.fleet.why_disk_full():
        raise disk_full(found)
    now = int(time.time())
    file = await kept_file(gateway.bus, asked.input_file_id)
    if file is None or not is_visible(file.tenant) or file.expires_at <= now:
        raise _wrong(f"there is no file {asked.input_file_id!r}, or it is no longer kept", "input_file_id")
    if file.purpose != "batch":
        message = f"the file {file.id} has the purpose {file.purpose!r}; send it with purpose 'batch'"
        raise _wrong(message, "input_file_id")
    if file.expires_at < now + WINDOW_S:
        message = f"the file {file.id} is not kept for as long as the batch may take: send it again"
        raise _wrong(message, "input_file_id")
    tenant = owner()
    unfinished = [
        one for one in await list_batches(gateway.bus) if one.tenant == tenant and not has_ended(one.status)
    ]
    if len(unfinished) >= MAX_UNFINISHED:
        message = f"{len(unfinished)} batches have not ended; at most {MAX_UNFINISHED} may be under way"
        raise RequestError(429, message, code="too_many_batches", retry_after_s=RETRY_AFTER_S)
    record = BatchRecord(
        id="batch_" + secrets.token_hex(12),
        endpoint=asked.endpoint,
        input_file_id=file.id,
        status="validating",
        created_at=now,
        expires_at=now + WINDOW_S,
        tenant=tenant,
        metadata=asked.metadata,
    )
    await create_batch(gateway.bus, record)
    await exchange.answer(answer_of(record))


def _no_such_batch(batch: str) -> RequestError:
    message = f"there is no batch {batch!r}, or it is no longer kept"
    return RequestError(404, message, field="batch_id", code="batch_not_found")


@get(*openai_paths("/batches"), summary="List batches", query=BatchesQuery, answers=BatchList, dialect="openai")
async def show_batches(gateway: Gateway, exchange: Exchange) -> None:
    asked = exchange.query(BatchesQuery)
    tenant = listed_tenant()
    found = [one for one in await list_batches(gateway.bus) if not tenant or one.tenant == tenant]
    found.sort(key=lambda record: (record.created_at, record.id), reverse=True)
    page, has_more = page_of(found, lambda record: record.id, asked.after, asked.limit, MAX_PAGE)
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    await exchange.answer(BatchList(tuple(map(answer_of, page)), first, last, has_more))


@get(*openai_paths("/batches/{batch}"), summary="A batch as it is now", answers=BatchAnswer, dialect="openai")
async def show_batch(gateway: Gateway, exchange: Exchange) -> None:
    batch = exchange.parameter("batch")
    found = await read_batch(gateway.bus, batch)
    if found is None or not is_visible(found[0].tenant):
        raise _no_such_batch(batch)
    await exchange.answer(answer_of(found[0]))


def cancelled(record: BatchRecord, now: float) -> BatchRecord | None:
    """The batch when it is told to cancel; None: it is told already. Raises RequestError 404, 409."""
    if not is_visible(record.tenant):
        raise _no_such_batch(record.id)
    if record.status == "cancelling":
        return None
    if record.status not in ("validating", "in_progress"):
        message = f"a batch that is {record.status} cannot be cancelled"
        raise RequestError(409, message, field="batch_id", code="conflict")
    return move(record, "cancelling", now)


@post(*openai_paths("/batches/{batch}/cancel"), summary="Cancel a batch", answers=BatchAnswer, dialect="openai")
async def cancel_batch(gateway: Gateway, exchange: Exchange) -> None:
    batch = exchange.parameter("batch")
    record = await change_batch(gateway.bus, batch, lambda record: cancelled(record, time.time()))
    if record is None:
        raise _no_such_batch(batch)
    await exchange.answer(answer_of(record))


ROUTES = [create, show_batches, show_batch, cancel_batch]
