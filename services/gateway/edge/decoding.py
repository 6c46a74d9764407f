"""From bytes and texts of a request to Structs; what does not fit is a RequestError 400. Pure.

Clients generate bodies from classes of their own and send what is not set as null. So a null stands for "not
given" wherever a field need not be given.
"""

import zlib
from collections.abc import Iterator
from typing import Any, Generic, TypeVar, get_args

import msgspec
from msgspec import NODEFAULT

from stoker.services.gateway.edge.problems import RequestError

T = TypeVar("T")

INFLATED_BYTES = 1024 * 1024
"""Of a compressed body that are made at a time."""


def decode(kind: type[T], body: bytes) -> T:
    """The request in a body. Raises RequestError 400 with the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        try:
            return msgspec.convert(_without_nulls(msgspec.json.decode(body), kind), kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise invalid(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_json(error) from error


def not_json(error: Exception) -> RequestError:
    return RequestError(400, f"the body is not valid JSON: {error}", code="invalid_json")


class Reader(Generic[T]):
    """Reads bodies of one kind, and notes the fields that nobody reads."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._closed: Any = msgspec.defstruct(
            kind.__name__, [], bases=(kind,), frozen=True, kw_only=True, forbid_unknown_fields=True
        )
        """The same kind, but it takes no other fields: to see at no cost that there are none."""

    def read(self, body: bytes) -> tuple[T, dict[str, Any]]:
        """The request, and what was given besides its fields. Raises RequestError 400."""
        try:
            exact: T = msgspec.json.decode(body, type=self._closed)
            return exact, {}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            asked = decode(self._kind, body)
        try:
            given = msgspec.json.decode(body)  # what nobody reads was not looked at either
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise not_json(error) from error
        return asked, unread(self._kind, given)


def unread(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    """What is given in fields that a request of this kind does not have."""
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    return {name: value for name, value in given.items() if name not in known and value is not None}


def _without_nulls(given: Any, kind: Any) -> Any:
    """What was sent as `kind`, without the nulls of fields that need not be given."""
    if not isinstance(given, dict) or not _is_struct(kind):
        return given
    kept: dict[str, Any] = {}
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name, value in given.items():
        field = fields.get(name)
        if field is None:
            kept[name] = value
            continue
        is_optional = field.default is not NODEFAULT or field.default_factory is not NODEFAULT
        if value is None and is_optional:
            continue
        inner = next((one for one in (field.type, *get_args(field.type)) if _is_struct(one)), None)
        kept[name] = _without_nulls(value, inner)
    return kept


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def inflated(body: bytes, encoding: str, most: int) -> bytes:
    """A body as it was before it was compressed. Raises RequestError 400, 413, 415."""
    if encoding in ("", "identity"):
        return body
    whole = bytearray()
    for chunk in Inflating(encoding).more(body, is_whole=True, at_once=most + 1):
        whole += chunk
        if len(whole) > most:
            raise RequestError(413, f"a body is at most {most} bytes, uncompressed", code="body_too_large")
    return bytes(whole)


class Inflating:
    """Reads a body that comes in chunks and may be compressed. Raises RequestError 415 for an unknown way."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._reader = None
        if encoding in ("", "identity"):
            return
        if encoding not in ("gzip", "x-gzip", "deflate"):
            message = f"a body may be sent as it is, or compressed with gzip or deflate, not {encoding}"
            raise RequestError(415, message, field="Content-Encoding", code="unsupported_encoding")
        self._reader = zlib.decompressobj(wbits=zlib.MAX_WBITS | (0 if encoding == "deflate" else 16))

    def more(self, chunk: bytes, *, is_whole: bool, at_once: int = INFLATED_BYTES) -> Iterator[bytes]:
        """What a chunk of the body is, `at_once` bytes at a time. Raises RequestError 400."""
        if self._reader is None:
            if chunk:
                yield chunk
            return
        try:
            while chunk and not self._reader.eof:
                yield self._reader.decompress(chunk, at_once)
                chunk = self._reader.unconsumed_tail
        except zlib.error as error:
            message = f"the body is not compressed with {self._encoding}: {error}"
            raise RequestError(400, message, field="Content-Encoding", code="invalid_encoding") from error
        if is_whole and not self._reader.eof:
            message = f"the compressed body ends before its end ({self._encoding})"
            raise RequestError(400, message, field="Content-Encoding", code="invalid_encoding")


def invalid(error: msgspec.ValidationError, below: str = "") -> RequestError:
    message, _, at = str(error).partition(" - at `$")
    field = (below + at.rstrip("`")).lstrip(".")
    if not field and "missing required field `" in message:
        field = message.split("`")[1]
    return RequestError(400, message, field=field or None, code="invalid_value")
