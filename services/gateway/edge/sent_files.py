"""Files as answers: in chunks, by ranges, with an entity tag."""

from collections.abc import Sequence

from stoker.services.bus.connection import Bus
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.ranges import asked_span, is_known
from stoker.services.records.parts import Piece, once, read


async def send_file(
    bus: Bus,
    exchange: Exchange,
    content: Sequence[Piece] | bytes,
    name: str,
    media_type: str,
    headers: dict[str, str],
) -> None:
    """Answer with a file, or with the range of it that is asked for. name: of these very bytes, for ever.

    Raises RequestError 416, PartsGone, BusError.
    """
    etag = f'"{name}"'
    headers = headers | {"etag": etag, "accept-ranges": "bytes"}
    if is_known(exchange.header(b"if-none-match"), etag):
        await exchange.answer_empty(304, headers)
        return
    size = len(content) if isinstance(content, bytes) else sum(piece.size for piece in content)
    asked, if_range = exchange.header(b"range"), exchange.header(b"if-range")
    span, is_part = asked_span(asked, if_range, size, etag)
    if is_part:
        headers["content-range"] = span.header()
    status = 206 if is_part else 200
    if isinstance(content, bytes):
        parts = once(content[span.start : span.end])
    else:
        parts = read(bus, content, span.start, span.end)
    await exchange.answer_parts(parts, span.end - span.start, media_type, headers, status)
