"""How Structs become bytes.

Messages on NATS are JSON, so that `nats sub 'stoker.>'` reads well. Decoding is tolerant of what a later
version says (unknown fields, and words as skew.py has them) and strict about types. Pictures ride behind the
JSON in the same message: `pack` puts the length of the JSON part into a header, and `unpack` cuts there.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from stoker.schemas.skew import read_newer

JSON_LENGTH_HEADER = "Stoker-Json-Bytes"
"""Present when raw bytes follow the JSON part of a message; its value is the length of the JSON part."""


MAX_LENGTH_DIGITS = 20
"""Python itself refuses to read a number of more than 4300 digits."""


class UnreadableMessage(ValueError):
    """A message that is not what its subject promises; `str()` says where it departs."""


encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode(kind: Any, payload: bytes) -> Any:
    """The Struct (or union of Structs) `kind` in `payload`. Raises UnreadableMessage."""
    try:
        return _decoder(kind).decode(payload)
    except msgspec.ValidationError as error:
        return _newer(kind, payload, error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableMessage(str(error)) from error


def _newer(kind: Any, payload: bytes, error: msgspec.ValidationError) -> Any:
    """The message of a later version, where that is what is wrong with it. Raises UnreadableMessage."""
    try:
        return read_newer(kind, payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UnreadableMessage(str(error)) from error


def pack(message: object, attachments: Sequence[bytes]) -> tuple[bytes, dict[str, str]]:
    """Payload and headers of a message with raw bytes behind its JSON part."""
    head = encode(message)
    if not attachments:
        return head, {}
    return b"".join((head, *attachments)), {JSON_LENGTH_HEADER: str(len(head))}


def unpack(payload: bytes, headers: Mapping[str, str] | None) -> tuple[bytes, bytes]:
    """The JSON part of a message and the raw bytes behind it (empty where there are none)."""
    length = (headers or {}).get(JSON_LENGTH_HEADER)
    if length is None:
        return payload, b""
    is_number = length.isdecimal() and len(length) <= MAX_LENGTH_DIGITS
    if not is_number or int(length) > len(payload):
        raise UnreadableMessage(
            f"{JSON_LENGTH_HEADER} is {length[:MAX_LENGTH_DIGITS]!r} in a message of {len(payload)} bytes"
        )
    return payload[: int(length)], payload[int(length) :]
