"""Files of a payload, however they are named, as the function's type has them. Pure.

Where the type has an Asset or a FileRef, a payload may have a text (the id of a file, a URL, a `data:` URL) or
`{"file_id": …}` instead; both become the object that the type asks for.
"""

from dataclasses import dataclass
from typing import Any

from stoker.functions.payload_types import (
    Items,
    Mapping,
    Object,
    OneOf,
    PayloadType,
    Plain,
    Reference,
    Row,
    Type,
    Values,
)

FILE_ID = "file_id"


def with_files_named(described: PayloadType, payload: Any, named: dict[str, str] | None = None) -> Any:
    """The same payload with its files as the type has them. What does not fit the type is left as it is.

    named: gets what names each file, by its place in the payload.
    """
    if not any(one.file_field for one in described.objects.values()):
        return payload
    return _Naming(described.objects, {} if named is None else named).of(described.type, payload, "")


@dataclass(frozen=True, slots=True)
class _Naming:
    """objects: of the type. named: what names each file that was found, by its place."""

    objects: dict[str, Object]
    named: dict[str, str]

    def of(self, kind: Type, value: Any, place: str) -> Any:
        match kind:
            case Reference():
                return self._object(self.objects[kind.name], value, place)
            case OneOf():
                chosen = _chosen(self.objects, kind, value)
                return self.of(chosen, value, place) if chosen else value
            case Items() if isinstance(value, list):
                return [self.of(kind.item, one, _inside(place, index)) for index, one in enumerate(value)]
            case Row() if isinstance(value, list) and len(value) == len(kind.items):
                pairs = enumerate(zip(kind.items, value, strict=True))
                return [self.of(inner, one, _inside(place, index)) for index, (inner, one) in pairs]
            case Mapping() if isinstance(value, dict):
                return {key: self.of(kind.value, one, _inside(place, key)) for key, one in value.items()}
        return value

    def _object(self, kind: Object, value: Any, place: str) -> Any:
        if kind.file_field:
            return self._file(kind.file_field, value, place)
        if isinstance(value, dict) and not kind.is_array:
            types = {one.name: one.type for one in kind.fields}
            return {
                name: self.of(types[name], one, _inside(place, name)) if name in types else one
                for name, one in value.items()
            }
        if isinstance(value, list) and kind.is_array and len(value) <= len(kind.fields):
            pairs = enumerate(zip(kind.fields, value, strict=False))
            return [self.of(field.type, one, _inside(place, index)) for index, (field, one) in pairs]
        return value

    def _file(self, field: str, value: Any, place: str) -> Any:
        if isinstance(value, str):
            value = {field: value}
        elif isinstance(value, dict) and FILE_ID in value and field not in value:
            value = {field: value[FILE_ID], **{name: one for name, one in value.items() if name != FILE_ID}}
        if isinstance(value, dict) and isinstance(value.get(field), str):
            self.named[place] = value[field]
        return value


def _inside(place: str, name: str | int) -> str:
    return f"{place}.{name}" if place else str(name)


def _chosen(objects: dict[str, Object], kind: OneOf, value: Any) -> Type | None:
    """Which of several types a value is meant as, where it may be a file; None where that cannot be said."""
    if isinstance(value, str) and any(_takes_text(one) for one in kind.types):
        return None
    fitting = [one for one in kind.types if _may_be(objects, one, value)]
    return fitting[0] if len(fitting) == 1 else None


def _takes_text(kind: Type) -> bool:
    """Whether a text is taken as what it is."""
    if isinstance(kind, Plain):
        return kind.name not in ("none", "bool", "int", "float")
    return isinstance(kind, Values) and any(isinstance(one, str) for one in kind.values)


def _may_be(objects: dict[str, Object], kind: Type, value: Any) -> bool:
    if isinstance(kind, Reference):
        found = objects[kind.name]
        if isinstance(value, str):
            return bool(found.file_field)
        if isinstance(value, dict):
            is_tagged = not found.tag_field or value.get(found.tag_field) == found.tag
            return is_tagged and (FILE_ID not in value or bool(found.file_field) or _has(found, FILE_ID))
        return isinstance(value, list) and found.is_array
    if isinstance(value, dict):
        return isinstance(kind, Mapping)
    return isinstance(value, list) and isinstance(kind, Items | Row)


def _has(kind: Object, name: str) -> bool:
    return any(one.name == name for one in kind.fields)
