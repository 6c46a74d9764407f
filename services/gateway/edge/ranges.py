"""Parts of an answer: `Range`, `If-Range` and `If-None-Match`, as RFC 9110 describes them. Pure.

One range of bytes is given as 206; where several are asked for the whole is sent, as the RFC allows. A file
never changes under its name, so its entity tag is strong.
"""

import re
from dataclasses import dataclass

from stoker.services.gateway.edge.problems import RequestError

_RANGE = re.compile(r"bytes=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `start` to `end` - 1 of `size`."""

    start: int
    end: int
    size: int

    @property
    def is_whole(self) -> bool:
        return self.end - self.start == self.size

    def header(self) -> str:
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


def asked_span(asked: str, if_range: str, size: int, etag: str) -> tuple[Span, bool]:
    """What of a file is asked for, and whether it is a part. asked, if_range: headers, "" without one.

    Raises RequestError 416 for a range that begins behind the end.
    """
    whole = Span(0, size, size)
    found = _RANGE.fullmatch(asked.strip())
    if found is None or (if_range and if_range.strip() != etag) or found[1] == found[2] == "":
        return whole, False
    if not found[1]:  # the last bytes
        last = min(int(found[2]), size)
        if last:
            return Span(size - last, size, size), True
    else:
        start, end = int(found[1]), min(int(found[2]) + 1 if found[2] else size, size)
        if found[2] and int(found[2]) < start:
            return whole, False  # no range at all
        if start < size:
            return Span(start, end, size), True
    refused = RequestError(
        416, f"the file has {size} bytes: ask for a range within them", field="Range", code="invalid_range"
    )
    refused.headers["content-range"] = f"bytes */{size}"
    raise refused


def is_known(if_none_match: str, etag: str) -> bool:
    """Whether the client says that it has the file already."""
    known = (one.strip().removeprefix("W/") for one in if_none_match.split(","))
    return any(one in ("*", etag) for one in known if one)
