"""Reading a function's signature: what goes in, what is injected, what comes out. Errors name the parameter."""

import collections.abc
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from stoker.functions.context import ActionContext
from stoker.functions.sdk import MARK, Declaration, ModelRef, Src

_ITERATORS = (
    collections.abc.Iterator, collections.abc.Iterable, collections.abc.Generator,
    collections.abc.AsyncIterator, collections.abc.AsyncIterable, collections.abc.AsyncGenerator,
)  # fmt: skip


class BadSignature(TypeError):
    """A function that cannot be called through Stoker; says which parameter and what to write."""


@dataclass(frozen=True, slots=True)
class Injected:
    """A model parameter: its name, its class, and where its key comes from."""

    parameter: str
    kind: Any
    ref: ModelRef


@dataclass(frozen=True, slots=True)
class Function:
    """A declared function and everything that its signature says. streams: it yields its results."""

    name: str
    call: Callable[..., Any]
    declaration: Declaration
    payload_parameter: str
    payload: type[msgspec.Struct]
    result: Any
    models: tuple[Injected, ...]
    streams: bool

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.call) or inspect.isasyncgenfunction(self.call)


def read_function(call: Callable[..., Any]) -> Function:
    """What a decorated function's signature says. Raises BadSignature."""
    declaration: Declaration = getattr(call, MARK)
    name = declaration.name
    try:
        hints = get_type_hints(call, include_extras=True)
    except NameError as error:
        raise BadSignature(f"{name}: {error}; annotations must name things that the module knows") from error
    parameters = list(inspect.signature(call).parameters.values())
    if not parameters or hints.get(parameters[0].name) is not ActionContext:
        first = parameters[0].name if parameters else "none"
        raise BadSignature(f"{name}: the first parameter must be an ActionContext, not {first}")
    payloads: list[tuple[str, type[msgspec.Struct]]] = []
    models: list[Injected] = []
    for parameter in parameters[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise BadSignature(f"{name}: {parameter} is not possible; name every parameter")
        hint = hints.get(parameter.name)
        injected = _injected(parameter.name, hint)
        if injected is not None:
            models.append(injected)
        elif _is_struct(hint):
            payloads.append((parameter.name, typing.cast(type[msgspec.Struct], hint)))
        else:
            raise BadSignature(
                f"{name}: parameter {parameter.name} must be the payload (a msgspec Struct) "
                "or Annotated[T, ModelRef(…)]"
            )
    if len(payloads) != 1:
        listed = ", ".join(parameter for parameter, _ in payloads) or "none"
        raise BadSignature(
            f"{name}: exactly one parameter must be a msgspec Struct, the payload; found {listed}"
        )
    payload_parameter, payload = payloads[0]
    for injected in models:
        if injected.ref.src is Src.PAYLOAD and injected.ref.name not in payload.__struct_fields__:
            raise BadSignature(
                f"{name}: parameter {injected.parameter} reads its model from payload.{injected.ref.name}, "
                f"and {payload.__name__} has no such field"
            )
    result, streams = _result(name, call, hints.get("return"))
    return Function(name, call, declaration, payload_parameter, payload, result, tuple(models), streams)


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _injected(parameter: str, hint: Any) -> Injected | None:
    if get_origin(hint) is not Annotated:
        return None
    kind, *notes = get_args(hint)
    ref = next((note for note in notes if isinstance(note, ModelRef)), None)
    return Injected(parameter, kind, ref) if ref is not None else None


def _result(name: str, call: Callable[..., Any], hint: Any) -> tuple[Any, bool]:
    """The Struct that a call gives (each of them, when it streams)."""
    if get_origin(hint) in _ITERATORS:
        hint, streams = get_args(hint)[0], True
    else:
        streams = inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call)
    if not _is_struct(hint):
        raise BadSignature(
            f"{name}: the return must be annotated as a msgspec Struct, or as an iterator of Structs"
        )
    return hint, streams
