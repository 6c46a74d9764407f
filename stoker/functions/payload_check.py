"""Payloads checked against the description of their type, where the project itself is not imported.

The type is built anew as msgspec Structs, so a payload is taken or refused here exactly as it will be where the
function runs; only what a Struct's own `__post_init__` refuses is heard there. Patterns are left out: they are
checked with a limit on backtracking, by the JSON Schema. A field that the type does not have is refused too,
with the known one that looks most like it.
"""

import datetime
import decimal
import difflib
import itertools
import re
import typing
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from stoker.functions.payload_types import (
    Items,
    Limits,
    Mapping,
    Object,
    OneOf,
    PayloadType,
    Plain,
    PlainName,
    Reference,
    Row,
    Type,
    Values,
)

PYTHON: dict[PlainName, Any] = {
    "any": Any, "none": None, "bool": bool, "int": int, "float": float, "str": str, "bytes": bytes,
    "datetime": datetime.datetime, "date": datetime.date, "time": datetime.time,
    "timedelta": datetime.timedelta, "uuid": uuid.UUID, "decimal": decimal.Decimal,
}  # fmt: skip
SHOWN_FIELDS = 20
_AT = re.compile(r"(?: - at (`key` in )?`\$(.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.+)`")
_numbers = itertools.count()
_packed = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Misfit:
    """What of a payload does not fit. field: its place, with dots; "": the payload itself."""

    field: str
    reason: str


def too_large(payload: Any) -> Misfit | None:
    """The first integer that no message of ours can hold; None without one. payload: of JSON's types."""
    try:
        _packed(payload)
    except OverflowError:
        return Misfit(_place_of_large(payload) or "", "an integer has 64 bits at most")
    return None


def _place_of_large(value: Any) -> str | None:
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**64 else ""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        if (place := _place_of_large(one)) is not None:
            return f"{key}.{place}" if place else str(key)
    return None


class PayloadCheck:
    """A type, ready to check payloads."""

    def __init__(self, described: PayloadType) -> None:
        self._described = described
        self._kind = _Builder(described.objects).build(described.type)

    def misfit(self, payload: Any) -> Misfit | None:
        """The first thing that does not fit, None when all does. payload: of JSON's types."""
        unknown = self._unknown(self._described.type, payload, ())
        if unknown is not None:
            return unknown
        try:
            msgspec.convert(payload, self._kind, str_keys=True)
        except msgspec.ValidationError as error:
            found = read_error(error)
            found = Misfit(self._exact(found.field, payload), found.reason)
            return Misfit(found.field, found.reason + self._possible(self._described.type, found))
        return None

    def _exact(self, field: str, payload: Any) -> str:
        """A place with the keys of dictionaries, which msgspec does not name."""
        kinds, value, place = [self._described.type], payload, list[str]()
        for part in field.split(".") if ".*" in field else ():
            if part == "*" and isinstance(value, dict):
                inner = [one for kind in kinds for one in self._below(kind, part)]
                part = next((str(key) for key, one in value.items() if not self._fits(inner, one)), part)
            if isinstance(value, list) and part.isdigit():
                value = value[int(part)]
            elif isinstance(value, dict):
                value = value.get(part)
            kinds = [one for kind in kinds for one in self._below(kind, part)]
            place.append(part)
        return ".".join(place) or field

    def _fits(self, kinds: list[Type], value: Any) -> bool:
        """Whether a value is of one of some types; there are none where it is not known of what it is."""
        if not kinds:
            return True
        try:
            msgspec.convert(value, _Builder(self._described.objects).build(OneOf(tuple(kinds))), str_keys=True)
        except msgspec.ValidationError:
            return False
        return True

    def _possible(self, kind: Type, found: Misfit) -> str:
        """The values that there are, where another was given."""
        if not found.reason.startswith("Invalid enum value"):
            return ""
        kinds = [kind]
        for part in found.field.split("."):
            kinds = [inner for one in kinds for inner in self._below(one, part)]
        values = [repr(value) for one in kinds for value in self._values(one)]
        return f"; there are: {', '.join(values[:SHOWN_FIELDS])}" if values else ""

    def _below(self, kind: Type, part: str) -> list[Type]:
        """What may stand in a field, or at an index."""
        match kind:
            case Reference():
                found = self._described.objects[kind.name]
                if found.is_array:
                    return [one.type for one in found.fields[int(part) :][:1]] if part.isdigit() else []
                return [one.type for one in found.fields if one.name == part]
            case Items():
                return [kind.item]
            case Row() if part.isdigit():
                return list(kind.items[int(part) :][:1])
            case Mapping():
                return [kind.value]
            case OneOf():
                return [inner for one in kind.types for inner in self._below(one, part)]
        return []

    def _values(self, kind: Type) -> tuple[Any, ...]:
        match kind:
            case Values():
                return kind.values
            case OneOf():
                return tuple(value for one in kind.types for value in self._values(one))
        return ()

    def _unknown(self, kind: Type, value: Any, at: tuple[str, ...]) -> Misfit | None:
        """The first field that an object does not have."""
        match kind:
            case Reference():
                return self._unknown_of(self._described.objects[kind.name], value, at)
            case Items() if isinstance(value, list):
                return self._first((kind.item, one, (*at, str(index))) for index, one in enumerate(value))
            case Row() if isinstance(value, list):
                pairs = enumerate(zip(kind.items, value, strict=False))
                return self._first((inner, one, (*at, str(index))) for index, (inner, one) in pairs)
            case Mapping() if isinstance(value, dict):
                return self._first((kind.value, one, (*at, str(key))) for key, one in value.items())
            case OneOf() if (chosen := self._chosen(kind, value)) is not None:
                return self._unknown(chosen, value, at)
        return None

    def _first(self, inner: typing.Iterable[tuple[Type, Any, tuple[str, ...]]]) -> Misfit | None:
        found = (self._unknown(kind, value, at) for kind, value, at in inner)
        return next((one for one in found if one is not None), None)

    def _unknown_of(self, kind: Object, value: Any, at: tuple[str, ...]) -> Misfit | None:
        if kind.is_array:
            if not isinstance(value, list):
                return None
            pairs = enumerate(zip(kind.fields, value, strict=False))
            return self._first((one.type, inner, (*at, str(index))) for index, (one, inner) in pairs)
        if not isinstance(value, dict):
            return None
        known = {one.name: one.type for one in kind.fields}
        for name in value:
            if name not in known and name != kind.tag_field:
                return Misfit(".".join((*at, str(name))), _no_such_field(str(name), list(known)))
        return self._first((known[name], one, (*at, name)) for name, one in value.items() if name in known)

    def _chosen(self, kind: OneOf, value: Any) -> Type | None:
        """Which of several types a value is meant as, None where that cannot be said."""
        fitting = [one for one in kind.types if self._may_be(one, value)]
        return fitting[0] if len(fitting) == 1 else None

    def _may_be(self, kind: Type, value: Any) -> bool:
        if isinstance(kind, Reference):
            found = self._described.objects[kind.name]
            if found.is_array:
                return isinstance(value, list)
            if not isinstance(value, dict):
                return False
            return not found.tag_field or value.get(found.tag_field) == found.tag
        if isinstance(value, dict):
            return isinstance(kind, Mapping)
        return isinstance(value, list) and isinstance(kind, Items | Row)


def _no_such_field(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    listed = ", ".join(known[:SHOWN_FIELDS]) or "none"
    return f"there is no field {name!r}" + (
        f"; did you mean {close[0]!r}?" if close else f"; there are: {listed}"
    )


def read_error(error: msgspec.ValidationError) -> Misfit:
    """The field and the reason of what msgspec says: `Expected `int`, got `str` - at `$.items[0].count``."""
    said = str(error)
    found = _AT.search(said)
    assert found is not None
    reason = ("a key: " if found[1] else "") + said[: found.start()]
    place = re.sub(r"\[(\d+)\]", r".\1", found[2] or "").replace("[...]", ".*").strip(".")
    if (missing := _MISSING.fullmatch(reason)) is not None:
        return Misfit(f"{place}.{missing[1]}".strip("."), "it is required")
    return Misfit(place, reason)


class _Builder:
    """Makes the types of a description anew."""

    def __init__(self, objects: dict[str, Object]) -> None:
        self._objects = objects
        self._made: dict[str, type[msgspec.Struct]] = {}
        self._later: dict[str, str] = {}
        """Names by which objects that are not made yet are referred to."""

    def build(self, kind: Type) -> Any:
        built = self._type(kind)
        for one in self._made.values():
            for name, later in self._later.items():
                setattr(one, later, self._made[name])
        return built

    def _type(self, kind: Type) -> Any:
        match kind:
            case Plain():
                return _limited(PYTHON[kind.name], kind.limits)
            case Items():
                return _limited(_many(kind.name, self._type(kind.item)), kind.limits)
            case Row():
                return tuple[tuple(self._type(one) for one in kind.items)]  # type: ignore[misc]  # made at run time
            case Mapping():
                pair = (self._type(kind.key), self._type(kind.value))
                return _limited(dict[pair], kind.limits)  # type: ignore[misc,valid-type]  # made at run time
            case OneOf():
                return typing.Union[tuple(self._type(one) for one in kind.types)]  # noqa: UP007  # of a list
            case Values():
                return typing.Literal[kind.values]
            case Reference():
                return self._object(kind.name)

    def _object(self, name: str) -> Any:
        if name in self._made:
            return self._made[name]
        if name in self._later:
            return typing.ForwardRef(self._later[name])
        self._later[name] = f"_type_{next(_numbers)}"
        found = self._objects[name]
        fields: list[Any] = []
        for index, one in enumerate(found.fields):
            kind = self._type(one.type)
            fields.append((f"f{index}", kind) if one.is_required else (f"f{index}", kind, msgspec.UNSET))
        self._made[name] = msgspec.defstruct(
            name, fields, kw_only=not found.is_array, array_like=found.is_array,
            rename={f"f{index}": one.name for index, one in enumerate(found.fields)},
            tag=found.tag, tag_field=found.tag_field or None,
        )  # fmt: skip
        return self._made[name]


def _many(name: str, item: Any) -> Any:
    match name:
        case "list":
            return list[item]
        case "set":
            return set[item]
        case "frozenset":
            return frozenset[item]
    return tuple[item, ...]


def _limited(kind: Any, limits: Limits | None) -> Any:
    if limits is None:
        return kind
    given = {name: value for name in limits.__struct_fields__ if (value := getattr(limits, name)) is not None}
    given.pop("pattern", None)
    return Annotated[kind, msgspec.Meta(**given)] if given else kind
