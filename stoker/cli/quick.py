"""What makes a command start quickly: two libraries import more than a command needs.

typer checks every value with pydantic, which takes 150 ms to import; texts and defaults need no check. httpx
brings a command of its own, with click, rich and pygments, 130 ms; `import_httpx` leaves that out.
"""

import math
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup


class _AsGiven:
    """Coerces a parameter's value: texts and defaults are as they are, all else goes typer's way. A number has
    an end: what is asked for "inf" seconds, or as often a second, would be made in memory for ever.
    """

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        is_plain = type(value) is str and param.type_descriptor.annotation is str
        if is_plain or (value is param.default and not callable(value)):
            return value
        param._runtime_param = None
        found = param.get_runtime_param().coerce(value, param=param, ctx=ctx)
        if isinstance(found, float) and not math.isfinite(found):
            raise typer.BadParameter("Input should be a finite number", ctx=ctx, param=param)
        return found


def quicken(command: Any) -> None:
    """Have a command, and those of a group, take plain values without pydantic."""
    for param in command.get_params(typer.Context(command)):
        param._runtime_param = _AsGiven()
    if isinstance(command, TyperGroup):
        for one in command.commands.values():
            if one is not None:
                quicken(one)


def import_httpx() -> None:
    """Import httpx without its command; `import httpx` then finds it."""
    if "httpx" in sys.modules:
        return
    sys.modules["httpx._main"] = None  # type: ignore[assignment]  # importing it fails, which httpx allows for
    try:
        import_module("httpx")
    finally:
        del sys.modules["httpx._main"]
