"""A payload's type as a description that travels: made where the project is, read where it is not.

`describe_type` reads a msgspec Struct and all that it is made of; the description is Structs that go through
JSON. What checks a payload against one is payload_check.py, what writes Python from it stubs.py.
"""

import enum
from typing import Any, Literal

import msgspec
from msgspec import inspect

from stoker.functions.assets import Asset, FileRef

MAX_OBJECTS = 500
"""Structs, dataclasses and TypedDicts that one payload is made of."""

PlainName = Literal[
    "any", "none", "bool", "int", "float", "str", "bytes", "datetime", "date", "time", "timedelta", "uuid",
    "decimal",
]  # fmt: skip
PLAIN: dict[type[inspect.Type], PlainName] = {
    inspect.AnyType: "any", inspect.RawType: "any", inspect.NoneType: "none", inspect.BoolType: "bool",
    inspect.IntType: "int", inspect.FloatType: "float", inspect.StrType: "str", inspect.BytesType: "bytes",
    inspect.ByteArrayType: "bytes", inspect.MemoryViewType: "bytes", inspect.DateTimeType: "datetime",
    inspect.DateType: "date", inspect.TimeType: "time", inspect.TimeDeltaType: "timedelta",
    inspect.UUIDType: "uuid", inspect.DecimalType: "decimal",
}  # fmt: skip


FILE_FIELDS: dict[Any, str] = {Asset: "ref", FileRef: "url"}
"""Of the classes of files, the fields that name them."""


class CannotDescribe(TypeError):
    """A type that no JSON can be read as; says which."""


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What msgspec.Meta says of a value. tz: whether a time has a zone, None = either."""

    gt: int | float | None = None
    ge: int | float | None = None
    lt: int | float | None = None
    le: int | float | None = None
    multiple_of: int | float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    tz: bool | None = None


class Node(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind"):
    """Base of every type."""


class Plain(Node, frozen=True, tag="plain"):
    name: PlainName
    limits: Limits | None = None


class Items(Node, frozen=True, tag="items"):
    """A JSON array of one kind of items, as any of Python's collections."""

    name: Literal["list", "set", "frozenset", "tuple"]
    item: "Type"
    limits: Limits | None = None


class Row(Node, frozen=True, tag="row"):
    """A JSON array with an item of its own kind at each place."""

    items: tuple["Type", ...]


class Mapping(Node, frozen=True, tag="mapping"):
    key: "Type"
    value: "Type"
    limits: Limits | None = None


class OneOf(Node, frozen=True, tag="one_of"):
    types: tuple["Type", ...]


class Values(Node, frozen=True, tag="values"):
    """A Literal or an Enum: one of these."""

    values: tuple[str | int | None, ...]


class Reference(Node, frozen=True, tag="object"):
    """One of the description's objects, by its name."""

    name: str


Type = Plain | Items | Row | Mapping | OneOf | Values | Reference


class Field(msgspec.Struct, frozen=True, omit_defaults=True):
    """A field, by its name in JSON."""

    name: str
    type: Type
    is_required: bool = False


class Object(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Struct, dataclass, TypedDict or NamedTuple. is_array: a JSON array with the fields in their order.

    file_field: of an Asset or a FileRef, the field that names the file.
    """

    fields: tuple[Field, ...]
    tag_field: str = ""
    tag: str | int | None = None
    is_array: bool = False
    file_field: str = ""


class PayloadType(msgspec.Struct, frozen=True):
    """A type with all that it is made of."""

    type: Type
    objects: dict[str, Object]


def describe_type(kind: Any) -> PayloadType:
    """Raises CannotDescribe with the field whose type is none that msgspec reads from JSON."""
    writer = _Writer()
    try:
        found = inspect.type_info(kind)
    except (TypeError, NameError) as error:
        raise CannotDescribe(str(error)) from error
    described = writer.type(found, getattr(kind, "__name__", "payload"))
    return PayloadType(described, {name: one for name, one in writer.objects.items() if one is not None})


def is_made_of(kind: Any, part: type[Any]) -> bool:
    """Whether an object of class `part` may stand somewhere in a value of a type."""
    writer = _Writer()
    try:
        writer.type(inspect.type_info(kind), "")
    except (TypeError, NameError):  # none that JSON is read as
        return False
    return any(one.cls is part for one in writer.found)


class _Writer:
    def __init__(self) -> None:
        self.objects: dict[str, Object | None] = {}
        self._names: dict[int, str] = {}
        self.found: list[Any] = []
        """So that an id stays that of one type."""

    def type(self, found: inspect.Type, at: str) -> Type:
        match found:
            case inspect.Metadata():
                return self.type(found.type, at)
            case inspect.EnumType() if _takes_others(found.cls):
                return Plain("any")
            case inspect.EnumType():
                return Values(tuple(msgspec.to_builtins(one) for one in found.cls))
            case inspect.LiteralType():
                return Values(tuple(found.values))
            case inspect.UnionType():
                return OneOf(tuple(self.type(one, at) for one in found.types))
            case inspect.TupleType():
                return Row(tuple(self.type(one, at) for one in found.item_types))
            case inspect.DictType():
                return Mapping(self.type(found.key_type, at), self.type(found.value_type, at), _limits(found))
            case inspect.ListType() | inspect.CollectionType():
                return Items("list", self.type(found.item_type, at), _limits(found))
            case inspect.SetType():
                return Items("set", self.type(found.item_type, at), _limits(found))
            case inspect.FrozenSetType():
                return Items("frozenset", self.type(found.item_type, at), _limits(found))
            case inspect.VarTupleType():
                return Items("tuple", self.type(found.item_type, at), _limits(found))
            case (
                inspect.StructType()
                | inspect.DataclassType()
                | inspect.TypedDictType()
                | inspect.NamedTupleType()
            ):
                return self._object(found)
        if (name := PLAIN.get(type(found))) is not None:
            return Plain(name, _limits(found))
        what = getattr(found, "cls", type(found).__name__)
        raise CannotDescribe(f"{at} is of {getattr(what, '__name__', what)}, which cannot be read from JSON")

    def _object(self, found: Any) -> Reference:
        if id(found) in self._names:
            return Reference(self._names[id(found)])
        plain = str(getattr(found.cls, "__name__", found.cls)).replace("[", "_").replace("]", "")
        name, number = plain, 1
        while name in self.objects:
            number += 1
            name = f"{plain}{number}"
        if len(self.objects) >= MAX_OBJECTS:
            raise CannotDescribe(f"the payload is made of more than {MAX_OBJECTS} types")
        self._names[id(found)], self.objects[name] = name, None
        self.found.append(found)
        fields = tuple(
            Field(one.encode_name, self.type(one.type, f"{plain}.{one.name}"), one.required)
            for one in found.fields
        )
        is_struct = isinstance(found, inspect.StructType)
        is_array = isinstance(found, inspect.NamedTupleType) or (is_struct and found.array_like)
        tag_field, tag = (found.tag_field or "", found.tag) if is_struct else ("", None)
        self.objects[name] = Object(fields, tag_field, tag, is_array, FILE_FIELDS.get(found.cls, ""))
        return Reference(name)


def _takes_others(kind: type[enum.Enum]) -> bool:
    """Whether an Enum has a `_missing_` of its own, which may take any value."""
    return any("_missing_" in vars(one) for one in kind.__mro__ if one.__module__ != enum.__name__)


def _limits(found: Any) -> Limits | None:
    given = {name: getattr(found, name, None) for name in Limits.__struct_fields__}
    limits = Limits(**{name: value for name, value in given.items() if value is not None})
    return None if limits == Limits() else limits
