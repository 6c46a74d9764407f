"""Files of a payload, however they are named, as the function's type has them. Pure.

Where the type has an Asset or a FileRef, a payload may have a text (the id of a file, a URL, a `data:` URL) or
`{"file_id": …}` instead; both become the object that the type asks for.
"""

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


def with_files_named(described: PayloadType, payload: Any) -> Any:
    """The same payload with its files as the type has them. What does not fit the type is left as it is."""
    if not any(one.file_field for one in described.objects.values()):
        return payload
    return _named(described.objects, described.type, payload)


def _named(objects: dict[str, Object], kind: Type, value: Any) -> Any:
    match kind:
        case Reference():
            return _named_object(objects, objects[kind.name], value)
        case OneOf():
            return _named(objects, chosen, value) if (chosen := _chosen(objects, kind, value)) else value
        case Items() if isinstance(value, list):
            return [_named(objects, kind.item, one) for one in value]
        case Row() if isinstance(value, list) and len(value) == len(kind.items):
            return [_named(objects, inner, one) for inner, one in zip(kind.items, value, strict=True)]
        case Mapping() if isinstance(value, dict):
            return {key: _named(objects, kind.value, one) for key, one in value.items()}
    return value


def _named_object(objects: dict[str, Object], kind: Object, value: Any) -> Any:
    if kind.file_field:
        if isinstance(value, str):
            return {kind.file_field: value}
        if isinstance(value, dict) and FILE_ID in value and kind.file_field not in value:
            rest = {name: one for name, one in value.items() if name != FILE_ID}
            return {kind.file_field: value[FILE_ID], **rest}
        return value
    if isinstance(value, dict) and not kind.is_array:
        types = {one.name: one.type for one in kind.fields}
        return {
            name: _named(objects, types[name], one) if name in types else one for name, one in value.items()
        }
    if isinstance(value, list) and kind.is_array and len(value) <= len(kind.fields):
        pairs = zip(kind.fields, value, strict=False)
        return [_named(objects, field.type, one) for field, one in pairs]
    return value


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
