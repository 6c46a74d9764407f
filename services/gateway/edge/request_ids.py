"""`x-request-id`: what a request is called in its answer and in logs. The client's own name, or one of ours."""

import itertools
import re
import secrets
from collections.abc import Iterable

REQUEST_ID = b"x-request-id"
_OURS = secrets.token_hex(6).encode()
_count = itertools.count(1)
_WELL_FORMED = re.compile(rb"[\x21-\x7e]{1,128}")


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The name that a client has sent, where it can stand in a header; else a new one."""
    for name, value in headers:
        if name == REQUEST_ID and _WELL_FORMED.fullmatch(value):
            return value
    return b"req_%s%x" % (_OURS, next(_count))
