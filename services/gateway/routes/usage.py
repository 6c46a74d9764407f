"""What keys have used, by day and model: for who pays."""

import csv
import datetime
import io

import msgspec

from stoker.schemas.usage import DayUse, ModelUse
from stoker.services.bus.errors import BusError
from stoker.services.gateway.edge.access import listed_tenant
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError
from stoker.services.gateway.edge.routing import get
from stoker.services.gateway.gateway import Gateway
from stoker.services.records.usage import read_uses

CSV = "text/csv; charset=utf-8"


class UsageQuery(msgspec.Struct, frozen=True):
    """since, until: days as 2026-11-30 (UTC), both included; "" = all that is kept. key: only its use. format:
    json or csv.
    """

    since: str = ""
    until: str = ""
    key: str = ""
    format: str = "json"


class UsageRow(msgspec.Struct, frozen=True):
    """What a key has used of a model on a day. name: of the key, "" where it is gone or there are none."""

    day: str
    key: str
    name: str
    model: str
    jobs: int
    failed: int
    prompt_tokens: int
    answer_tokens: int
    device_s: float


class UsageAnswer(msgspec.Struct, frozen=True):
    """rows: by day, key and model. total: of all of them."""

    rows: tuple[UsageRow, ...]
    total: ModelUse


def _day(text: str, field: str) -> str:
    """Raises RequestError 400."""
    try:
        return datetime.date.fromisoformat(text).isoformat() if text else ""
    except ValueError as error:
        message = f"{field} must be a day, as 2026-11-30, not {text!r}"
        raise RequestError(400, message, field=field, code="invalid_value") from error


def rows_of(uses: list[DayUse], wanted: UsageQuery, names: dict[str, str]) -> list[UsageRow]:
    """Those that a query wants. Raises RequestError 400."""
    since, until = _day(wanted.since, "since"), _day(wanted.until, "until")
    if since and until and until < since:
        raise RequestError(
            400, f"until ({until}) is before since ({since})", field="until", code="invalid_value"
        )
    return [
        UsageRow(use.day, use.key, names.get(use.key, ""), model, **msgspec.structs.asdict(one))
        for use in uses
        if (not since or use.day >= since) and (not until or use.day <= until)
        if not wanted.key or use.key == wanted.key
        for model, one in sorted(use.models.items())
    ]


def as_csv(rows: list[UsageRow]) -> str:
    """A line for each, below the names of the columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(UsageRow.__struct_fields__)
    writer.writerows(msgspec.structs.astuple(row) for row in rows)
    return text.getvalue()


@get("/v1/usage", summary="What keys have used, by day and model", query=UsageQuery, answers=UsageAnswer)
async def usage(gateway: Gateway, exchange: Exchange) -> None:
    wanted: UsageQuery = exchange.query(UsageQuery)
    if wanted.format not in ("json", "csv"):
        message = f"format must be json or csv, not {wanted.format!r}"
        raise RequestError(400, message, field="format", code="invalid_value")
    if own := listed_tenant():  # who only uses models sees its own
        wanted = msgspec.structs.replace(wanted, key=own)
    try:
        uses = await read_uses(gateway.bus)
    except BusError as error:
        message = f"what was used cannot be read ({error}); try again"
        raise RequestError(503, message, retry_after_s=RETRY_AFTER_S) from error
    names = {use.key: key.name for use in uses if (key := gateway.access.key(use.key)) is not None}
    rows = rows_of(uses, wanted, names)
    if wanted.format == "csv":
        await exchange.answer_bytes(as_csv(rows).encode(), CSV)
        return
    total = ModelUse()
    for row in rows:
        total += ModelUse(row.jobs, row.failed, row.prompt_tokens, row.answer_tokens, row.device_s)
    await exchange.answer(UsageAnswer(tuple(rows), total))


ROUTES = [usage]
