"""What a function returns, as JSON. JSON has no NaN and no infinity: a result with one is an error that says
where, not a null in its place."""

import math
from typing import Any

import msgspec

from stoker.functions.errors import FatalError


def encoded(function: str, result: Any) -> bytes:
    """A result as JSON. Raises FatalError with what JSON has not, and the place of a number that it has not."""
    try:
        content = msgspec.json.encode(result)
    except (TypeError, ValueError, RecursionError) as error:
        raise FatalError(f"{function} returned what is no JSON: {error}") from error
    if b"null" in content and (place := _place_of_nan(msgspec.to_builtins(result), "")) is not None:
        raise FatalError(f"{function} returned a number at {place or 'its result'} that JSON has not")
    return content


def _place_of_nan(value: Any, at: str) -> str | None:
    """Where a number is not finite: `value` itself, or `.field[2]` below it."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{at} ({value})"
    inner: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        inner = [(f"{at}.{key}" if at else str(key), one) for key, one in value.items()]
    elif isinstance(value, list | tuple):
        inner = [(f"{at}[{index}]", one) for index, one in enumerate(value)]
    return next((found for place, one in inner if (found := _place_of_nan(one, place)) is not None), None)
