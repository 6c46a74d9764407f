"""One call of a function: arguments in, results out, whatever kind of function it is."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from stoker.functions.assets import Asset
from stoker.functions.context import ActionContext
from stoker.functions.errors import FatalError, ValidationError
from stoker.functions.payload_types import is_made_of
from stoker.functions.signature import Function

MAX_FUNCTIONS = 1000
"""Of one process, of which it is remembered whether their payloads have assets."""
Item = Callable[[msgspec.Struct], None]
"""Called with each result of a stream as it comes, from any thread."""


def read_payload(function: Function, payload: Mapping[str, Any]) -> msgspec.Struct:
    """The payload as the function's Struct. Raises ValidationError with the field."""
    try:
        read: msgspec.Struct = msgspec.convert(payload, function.payload, str_keys=True)
    except msgspec.ValidationError as error:
        raise ValidationError(str(error)) from error
    return read


async def call(
    function: Function,
    context: ActionContext,
    payload: msgspec.Struct,
    models: Mapping[str, Any],
    item: Item,
) -> Any:
    """Run it; a list of all results for a stream. Raises what the function raises."""
    arguments: dict[str, Any] = {**models, function.payload_parameter: payload}
    try:
        if _has_assets(function.payload):
            await asyncio.to_thread(context.place_assets, payload)
        if not function.is_async:
            return await asyncio.to_thread(_run, function, context, arguments, item)
        found = function.call(context, **arguments)
        if inspect.isasyncgen(found):
            return await _collect(function, context, found, item)
        return _checked(function, await found)
    finally:
        context.close()


@lru_cache(maxsize=MAX_FUNCTIONS)
def _has_assets(kind: type[msgspec.Struct]) -> bool:
    return is_made_of(kind, Asset)


def _run(function: Function, context: ActionContext, arguments: dict[str, Any], item: Item) -> Any:
    try:
        return _run_plain(function, context, arguments, item)
    except (StopIteration, asyncio.CancelledError) as error:  # futures take these for words of their own
        raise RuntimeError(f"{function.name} raised {type(error).__name__}") from error


def _run_plain(function: Function, context: ActionContext, arguments: dict[str, Any], item: Item) -> Any:
    found = function.call(context, **arguments)
    if not function.streams:
        return _checked(function, found)
    results: list[Any] = []
    iterator: Iterator[Any] = iter(found)
    for result in iterator:
        context.raise_if_cancelled()
        results.append(_checked(function, result))
        item(result)
    return results


async def _collect(
    function: Function, context: ActionContext, found: AsyncIterator[Any], item: Item
) -> list[Any]:
    results: list[Any] = []
    async for result in found:
        context.raise_if_cancelled()
        results.append(_checked(function, result))
        item(result)
    return results


def _checked(function: Function, result: Any) -> Any:
    """The result, if it is what the signature promises. Raises FatalError."""
    if not isinstance(result, function.result):
        raise FatalError(
            f"{function.name} must return {function.result.__name__}, and returned {type(result).__name__}"
        )
    return result
