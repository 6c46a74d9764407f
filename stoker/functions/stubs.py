"""A typed client as a stub file: `Client` and `AsyncClient` with every function's fields and results.

Beside a `client.py` that has `from stoker import AsyncClient, Client` it lies as `client.pyi`. Values are as
JSON has them: a date is a `str`. Pure.
"""

import keyword
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

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

PYTHON = {"any": "Any", "none": "None", "bool": "bool", "int": "int", "float": "float"}
"""Of plain types; the others are texts in JSON."""
OPENING = '''\
# mypy: disable-error-code="override,overload-overlap"
# pyright: reportIncompatibleMethodOverride=false
"""Functions of a gateway, written by `stoker stubs`: write it anew when they change."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal, NotRequired, TypedDict, overload

import stoker
from stoker.client import AsyncJob, Job
'''


@dataclass(frozen=True, slots=True)
class Described:
    """A function as the gateway describes it."""

    name: str
    input: PayloadType
    output: PayloadType
    streams: bool


def stub_of(functions: Sequence[Described]) -> str:
    """The text of the stub file."""
    classes = _Classes()
    signatures = [(one, classes.fields_of(one), classes.result_of(one)) for one in functions]
    clients = [_client(signatures, is_async=is_async) for is_async in (False, True)]
    return "\n\n".join([OPENING, *classes.texts(), *clients]).rstrip() + "\n"


class _Classes:
    """The TypedDicts of all functions, those that say the same under one name."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def texts(self) -> list[str]:
        return list(self._texts.values())

    def fields_of(self, function: Described) -> str:
        """The parameters of a call."""
        kind = function.input.type
        assert isinstance(kind, Reference)
        found = function.input.objects[kind.name]
        names = self._named(function.name, function.input, skipped=kind.name)
        if found.is_array or not all(_is_name(one.name) for one in found.fields):
            return "**payload: Any"
        fields = [
            f"{one.name}: {_text(one.type, names, function.input.objects)}"
            + ("" if one.is_required else " = ...")
            for one in found.fields
        ]
        if found.tag_field:
            fields.insert(0, f"{found.tag_field}: Literal[{found.tag!r}] = ...")
        return ", ".join(["*", *fields]) if fields else ""

    def result_of(self, function: Described) -> str:
        names = self._named(function.name, function.output)
        return _text(function.output.type, names, function.output.objects)

    def _named(self, function: str, described: PayloadType, skipped: str = "") -> dict[str, str]:
        """Names of a type's objects in the stub; their classes are written."""
        objects = {name: one for name, one in described.objects.items() if not one.is_array and name != skipped}
        plain = {name: name for name in objects}
        own = {name: f"{_camel(function)}{name}" for name in objects}
        texts = {name: _class(name, one, plain, described.objects) for name, one in objects.items()}
        is_taken = any(self._texts.get(name, text) != text for name, text in texts.items())
        names = own if is_taken else plain
        for name, one in objects.items():
            self._texts[names[name]] = _class(names[name], one, names, described.objects)
        if skipped:
            names = names | {skipped: "dict[str, Any]"}  # a payload that has itself in it
        return names


def _class(name: str, found: Object, names: dict[str, str], objects: dict[str, Object]) -> str:
    fields = {one.name: (_text(one.type, names, objects), one.is_required) for one in found.fields}
    if found.tag_field:
        fields = {found.tag_field: (f"Literal[{found.tag!r}]", True)} | fields
    texts = {key: text if needed else f"NotRequired[{text}]" for key, (text, needed) in fields.items()}
    if all(_is_name(key) for key in texts):
        lines = [f"    {key}: {text}" for key, text in texts.items()] or ["    pass"]
        return "\n".join([f"class {name}(TypedDict):", *lines])
    inner = ", ".join(f"{key!r}: {text!r}" for key, text in texts.items())
    return f"{name} = TypedDict({name!r}, {{{inner}}})"


def _text(kind: Type, names: dict[str, str], objects: dict[str, Object]) -> str:
    """A type as Python writes it."""
    match kind:
        case Plain():
            return PYTHON.get(kind.name, "str")
        case Items():
            return f"list[{_text(kind.item, names, objects)}]"
        case Row():
            return (
                f"list[{' | '.join(dict.fromkeys(_text(one, names, objects) for one in kind.items)) or 'Any'}]"
            )
        case Mapping():
            return f"dict[str, {_text(kind.value, names, objects)}]"
        case OneOf():
            return " | ".join(dict.fromkeys(_text(one, names, objects) for one in kind.types))
        case Values():
            return f"Literal[{', '.join(repr(one) for one in kind.values)}]"
        case Reference():
            return "list[Any]" if objects[kind.name].is_array else names[kind.name]


def _client(signatures: list[tuple[Described, str, str]], *, is_async: bool) -> str:
    name, job, iterator = (
        ("AsyncClient", "AsyncJob", "AsyncIterator") if is_async else ("Client", "Job", "Iterator")
    )
    start = "async def" if is_async else "def"
    methods: list[str] = []
    for method in ("run", "stream", "submit"):
        chosen = [one for one in signatures if method != "stream" or one[0].streams]
        for function, fields, result in chosen:
            answers = {
                "run": f"list[{result}]" if function.streams else result,
                "stream": f"{iterator}[{result}]",
                "submit": job,
            }
            first = "def" if method == "stream" else start  # an async generator is called without await
            comma = ", " if fields else ""
            head = f"{first} {method}(self, function: Literal[{function.name!r}], /{comma}{fields})"
            methods += ["@overload"] if len(chosen) > 1 else []
            methods.append(f"{head} -> {answers[method]}: ...")
    body = "\n".join(methods) or "..."
    return f"class {name}(stoker.{name}):\n{textwrap.indent(body, '    ')}"


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.replace("-", "_").split("_")) or "Payload"
