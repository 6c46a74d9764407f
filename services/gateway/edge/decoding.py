"""From bytes and texts of a request to Structs; what does not fit is a RequestError 400. Pure.

Clients generate bodies from classes of their own and send what is not set as null. So a null stands for "not
given" wherever a field need not be given.
"""

import math
import zlib
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT

from stoker.services.gateway.edge.coercion import coerced
from stoker.services.gateway.edge.problems import RequestError

T = TypeVar("T")

INFLATED_BYTES = 1024 * 1024
"""Of a compressed body that are made at a time."""
MAX_MEMBERS = 100_000
"""Of a body in gzip: each begins anew, which costs time whatever its length. 6 GB of what bgzip writes."""
MEMBER_BYTES = 16 * 1024
"""Are read at a time: what lies behind the end of a member is copied."""


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


def decode_coerced(kind: type[T], body: bytes) -> T:
    """The request in a body, with values coerced. Raises RequestError 400 with the field."""
    try:
        given: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_json(error) from error
    return from_texts(coerced(_without_nulls(given, kind), kind) if isinstance(given, dict) else given, kind)


def not_json(error: Exception) -> RequestError:
    return RequestError(400, f"the body is not valid JSON: {error}", code="invalid_json")


def from_texts(fields: Mapping[str, object], kind: type[T]) -> T:
    """The Struct that the texts of a query or a form say. Raises RequestError 400, also for numbers that are
    none ("nan") or without end ("inf"): JSON has no such numbers, and what is compared with them goes wrong.
    """
    try:
        made = msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    for field in msgspec.structs.fields(kind):  # type: ignore[arg-type]  # every kind here is a Struct
        value = getattr(made, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            name = field.encode_name
            raise RequestError(400, f"{name} must be a number, not {value}", field=name, code="invalid_value")
    return made


class Reader(Generic[T]):
    """Reads bodies of one kind, and notes the fields that nobody reads.

    coerces: texts may be sent for numbers, and the like, as pydantic takes them.
    """

    def __init__(self, kind: type[T], *, coerces: bool = False) -> None:
        self._kind = kind
        self._decode = decode_coerced if coerces else decode
        self._closed: Any = _closed(kind, with_inner=True)
        """The same kind, but it takes no other fields: to see at no cost that there are none."""

    def read(self, body: bytes) -> tuple[T, dict[str, Any]]:
        """The request, and what was given besides its fields. Raises RequestError 400."""
        try:
            exact: T = msgspec.json.decode(body, type=self._closed)
            return exact, {}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            asked = self._decode(self._kind, body)
        try:
            given = msgspec.json.decode(body)  # what nobody reads was not looked at either
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise not_json(error) from error
        return asked, unread(self._kind, given)


def _closed(kind: type, *, with_inner: bool) -> Any:
    """A kind that takes no other fields. with_inner: nor do its Structs and its lists of Structs."""
    fields: list[tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(kind) if with_inner else ():
        if (inner := _inner(field.type)) is None:
            continue
        closed: Any = _closed(inner, with_inner=False)
        kept = [one for one in get_args(field.type) if one not in (inner, ...)]
        made: Any = tuple[closed, ...] if get_origin(field.type) is tuple else Union[(closed, *kept)]
        default: dict[str, Any] = {"default": field.default, "default_factory": field.default_factory}
        fields.append((field.name, made, msgspec.field(name=field.encode_name, **default)))
    return msgspec.defstruct(
        kind.__name__, fields, bases=(kind,), frozen=True, kw_only=True, forbid_unknown_fields=True
    )


def _inner(given: Any) -> Any:
    """The Struct that a field is, or is a list of; None where it is none, or may be several."""
    if get_origin(given) not in (None, tuple, Union, UnionType):
        return None
    kinds = [one for one in (given, *get_args(given)) if one not in (None, NoneType, ...)]
    found = [one for one in kinds if _is_struct(one)]
    return found[0] if len(found) == 1 and all(_is_struct(one) or one is given for one in kinds) else None


def unread(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    """What is given in fields that a request of this kind does not have, or its Structs do not: those are named
    as `messages.name`. Of several values of one name it is one that says something.
    """
    found: dict[str, Any] = {}
    known = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for name, value in given.items():
        if name not in known:
            if value is not None:
                found[name] = value
        elif (inner := _inner(known[name])) is not None:
            for one in value if isinstance(value, list) else (value,):
                for below, more in unread(inner, one).items() if isinstance(one, dict) else ():
                    found[f"{name}.{below}"] = found.get(f"{name}.{below}") or more
    return found


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
        self._members = 0
        self._reader = self._begin()

    def _begin(self) -> "zlib._Decompress":
        """Of the next member. Raises RequestError 400 where there can be none."""
        is_deflate = self._encoding == "deflate"
        self._members += 1
        if is_deflate and self._members > 1:
            raise self._wrong("there is more behind the end of the compressed body (deflate)")
        if self._members > MAX_MEMBERS:
            raise self._wrong(f"the compressed body has more than {MAX_MEMBERS} members")
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | (0 if is_deflate else 16))

    def more(self, chunk: bytes, *, is_whole: bool, at_once: int = INFLATED_BYTES) -> Iterator[bytes]:
        """What a chunk of the body is, `at_once` bytes at a time; gzip may have several members, one behind the
        other (RFC 1952, 2.2). Raises RequestError 400.
        """
        if self._reader is None:
            if chunk:
                yield chunk
            return
        for start in range(0, len(chunk), MEMBER_BYTES):
            yield from self._inflated(chunk[start : start + MEMBER_BYTES], at_once)
        if is_whole and not self._reader.eof:
            raise self._wrong(f"the compressed body ends before its end ({self._encoding})")

    def _inflated(self, chunk: bytes, at_once: int) -> Iterator[bytes]:
        try:
            while chunk:
                if self._reader is None or self._reader.eof:
                    self._reader = self._begin()
                yield self._reader.decompress(chunk, at_once)
                chunk = self._reader.unused_data if self._reader.eof else self._reader.unconsumed_tail
        except zlib.error as error:
            raise self._wrong(f"the body is not compressed with {self._encoding}: {error}") from error

    def _wrong(self, message: str) -> RequestError:
        return RequestError(400, message, field="Content-Encoding", code="invalid_encoding")


def invalid(error: msgspec.ValidationError, below: str = "") -> RequestError:
    message, _, at = str(error).partition(" - at `$")
    field = (below + at.rstrip("`")).lstrip(".")
    if not field and "missing required field `" in message:
        field = message.split("`")[1]
    return RequestError(400, message, field=field or None, code="invalid_value")
