"""Custom jobs: functions of the operator's own, called by name as `module:function` with JSON arguments.

Only what stands on the worker's allow list (`--handlers`, handed on as STOKER_HANDLERS) is ever imported. A
handler may be a plain function, which gets a thread, or a coroutine function; what it returns must be JSON.
"""

import asyncio
import importlib
import inspect
import os
from collections.abc import Callable
from typing import Any

import msgspec

from stoker.schemas.job_events import ValueOutput
from stoker.schemas.jobs import CallInput
from stoker.schemas.workers import EngineCapability
from stoker.services.worker.engines.base import (
    Cancellation,
    Emitter,
    EngineError,
    ModelFiles,
    Request,
    RunOutput,
    Stopped,
)
from stoker.services.worker.engines.registry import HANDLERS_VARIABLE


def allowed_handlers() -> tuple[str, ...]:
    """The allow list of this worker."""
    return tuple(name.strip() for name in os.environ.get(HANDLERS_VARIABLE, "").split(",") if name.strip())


class CustomEngine:
    """See the file's opening. A handler is a model whose weights are its module."""

    def __init__(self, capability: EngineCapability) -> None:
        self.capability = capability
        self._handlers: dict[str, Callable[..., Any]] = {}

    def load(self, files: ModelFiles) -> None:
        if files.model not in allowed_handlers():
            raise EngineError(f"{files.model} is not on this worker's allow list (--handlers)", "auth")
        module, _, function = files.model.partition(":")
        try:
            handler = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise EngineError(f"handler {files.model} cannot be imported: {error}", "load_failed") from error
        if not callable(handler):
            raise EngineError(f"handler {files.model} is not a function", "load_failed")
        self._handlers[files.model] = handler

    def unload(self, model: str) -> None:
        self._handlers.pop(model, None)

    def memory_bytes(self, model: str) -> int:
        return 0

    async def run(self, model: str, request: Request, emit: Emitter, cancelled: Cancellation) -> RunOutput:
        asked = request.input
        if not isinstance(asked, CallInput):
            raise EngineError("a handler takes args and kwargs", "validation")
        handler = self._handlers[model]
        try:
            inspect.signature(handler).bind(*asked.args, **asked.kwargs)
        except TypeError as error:
            raise EngineError(f"{model}: {error}", "validation") from error
        except ValueError:  # a builtin without a signature says by itself what it does not take
            pass
        try:
            if inspect.iscoroutinefunction(handler):
                value = await handler(*asked.args, **asked.kwargs)
            else:
                value = await asyncio.to_thread(handler, *asked.args, **asked.kwargs)
        except (Exception, SystemExit) as error:  # whatever the operator's function raises fails this job alone
            raise EngineError(f"{model} raised {type(error).__name__}: {error}", "fatal") from error
        if cancelled.is_set():
            raise Stopped
        try:
            return ValueOutput(msgspec.json.decode(msgspec.json.encode(value)))
        except (TypeError, ValueError, RecursionError) as error:
            raise EngineError(f"{model} returned what is not JSON: {error}", "fatal") from error


def create(capability: EngineCapability) -> CustomEngine:
    return CustomEngine(capability)
