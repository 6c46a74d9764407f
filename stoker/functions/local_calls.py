"""Calls of functions of the same project in this very process, for `stoker call --local`.

Each call is one of a loop that runs it: a plain function on a thread, an async one as it is. `MAX_DEPTH` is the
limit that calls have with a server too.
"""

import asyncio
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec

from stoker.functions.calling import Item, call, read_payload
from stoker.functions.children import MAX_CHILDREN, Children
from stoker.functions.context import ActionContext
from stoker.functions.errors import CallFailed, Cancelled, kind_of, message_of
from stoker.functions.signature import Function

MAX_DEPTH = 8
"""How deep calls may call: the first one that nobody's call asked for has depth 0."""

Find = Callable[[str], Function]
"""A function by its name. Raises FunctionError."""
Models = Callable[[Function, msgspec.Struct], dict[str, Any]]
"""The models that a call is given."""


class LocalCalls:
    """`run` one call to its end, with whatever it calls. misfit: why a payload does not fit; "": it does."""

    def __init__(self, find: Find, models: Models, misfit: Callable[[Function, dict[str, Any]], str]) -> None:
        self._find = find
        self._models = models
        self._misfit = misfit
        self._numbers = itertools.count(1)

    def run(
        self,
        function: Function,
        payload: msgspec.Struct,
        models: dict[str, Any],
        context: ActionContext,
        item: Item,
    ) -> Any:
        """Raises what the function raises."""

        async def main() -> Any:
            loop = asyncio.get_running_loop()
            loop.set_default_executor(ThreadPoolExecutor(MAX_CHILDREN))
            context.children_from(self.children(loop, 0))
            return await call(function, context, payload, models, item)

        return asyncio.run(main())

    def children(self, loop: asyncio.AbstractEventLoop, depth: int) -> Children:
        """The calls of a call of this depth."""
        return Children(partial(self._ask, loop, depth + 1))

    def _ask(
        self, loop: asyncio.AbstractEventLoop, depth: int, name: str, content: bytes, nth: int
    ) -> "Future[Any]":
        if depth > MAX_DEPTH:
            raise CallFailed(f"{name}: calls call at most {MAX_DEPTH} deep", "validation")
        cancelled = threading.Event()
        running = asyncio.run_coroutine_threadsafe(self._run(loop, depth, name, content, cancelled), loop)
        running.add_done_callback(lambda done: cancelled.set() if done.cancelled() else None)
        return running

    async def _run(
        self,
        loop: asyncio.AbstractEventLoop,
        depth: int,
        name: str,
        content: bytes,
        cancelled: threading.Event,
    ) -> Any:
        job = f"local-{next(self._numbers)}"
        try:
            function = self._find(name)
            payload = msgspec.json.decode(content)
            if reason := self._misfit(function, payload):
                raise CallFailed(f"{name}: {reason}", "validation", job=job)
            read = read_payload(function, payload)
            models = await asyncio.to_thread(self._models, function, read)
            children = self.children(loop, depth)
            context = ActionContext(job, cancelled=cancelled, children=children)
            return msgspec.to_builtins(await call(function, context, read, models, lambda one: None))
        except (asyncio.CancelledError, Cancelled, CallFailed):
            raise
        except Exception as error:  # whatever a function raises fails this call alone
            said = f"{name}: {message_of(error, with_trace=False)}"
            raise CallFailed(said, kind_of(error), job=job) from error
