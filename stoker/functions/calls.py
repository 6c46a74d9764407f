"""The calls of a host: each is guarded from outside, so that whatever happens in it, exactly one end is sent.

What a call holds (its output, its limit of memory, the folder of its context) is let go by `_leave`, and what
it has left behind is ended there (leftovers.py) before its end is told. A call that leaves threads of the
project behind asks for another process: they cannot be ended otherwise.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, NoReturn

import msgspec

from stoker.functions.calling import call, read_payload
from stoker.functions.capture import Capture
from stoker.functions.children import Children
from stoker.functions.context import ActionContext
from stoker.functions.errors import FatalError, kind_of, message_of
from stoker.functions.leftovers import Leftovers
from stoker.functions.memory import MemoryLimits, size_of
from stoker.functions.messages import (
    Call,
    CallDone,
    CallFailed,
    CallItem,
    CallPrinted,
    CallProgress,
    CallStarted,
    ChildEnded,
    Message,
    file_of,
)
from stoker.functions.output import OutputPart
from stoker.functions.pending import PendingCalls
from stoker.functions.project import Project
from stoker.functions.results import encoded

PRINTED_EVERY_S = 0.25
"""How often what calls print is passed on; one message of bounded size for each."""

_current: ContextVar[str] = ContextVar("call", default="")


def current_call() -> str:
    """The call that the running code belongs to; "" where it is not known."""
    return _current.get()


class Calls:
    """Calls under way. models: by key, as the host has loaded them. send: may be called from any thread."""

    def __init__(
        self,
        project: Project,
        models: Mapping[str, Any],
        send: Callable[[Message], None],
        capture: Capture,
    ) -> None:
        self._project = project
        self._models = models
        self._send = send
        self._cancelled: dict[str, threading.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._async_calls: set[str] = set()
        self._children = PendingCalls(send)
        self._capture = capture
        self._limits = MemoryLimits()
        declared = [one.declaration.requirements.memory for one in project.functions.values()]
        self._most_bytes = max(map(size_of, declared), default=0)
        """What a call may take whose function does not say: as much as any of the project's says."""
        self._leftovers = Leftovers(project.manifest.folder)
        self._leftovers.watch(current_call)
        threading.Thread(target=self._pass_output_on, name="output of calls", daemon=True).start()
        self._confess()

    def start(self, message: Call) -> None:
        if not self._tasks:
            self._leftovers.note()
        self._cancelled[message.call] = threading.Event()
        self._capture.begin(message.call)
        self._tasks[message.call] = asyncio.create_task(self._guarded(message))

    def cancel(self, call: str) -> None:
        if (cancelled := self._cancelled.get(call)) is not None:
            cancelled.set()
            self._children.cancelled(call)
            if call in self._async_calls:
                self._tasks[call].cancel()

    def child_ended(self, message: ChildEnded) -> None:
        self._children.ended(message)

    async def _guarded(self, message: Call) -> None:
        """A call from beginning to end: whatever happens in it, its end is sent."""
        ended: CallDone | CallFailed = CallFailed(message.call, "fatal", "the call ended without a result")
        try:
            ended = await self._run(message)
        except (SystemExit, KeyboardInterrupt) as error:
            ended = CallFailed(message.call, "fatal", f"the function ended the process: {error!r}")
        except BaseException as error:  # whatever a function raises fails this call alone
            ended = self._failure(message.call, error)
        finally:
            self._async_calls.discard(message.call)
            self._leave(message.call, ended)

    def _failure(self, call: str, error: BaseException) -> CallFailed:
        if self._cancelled[call].is_set():
            return CallFailed(call, "cancelled", "the call was cancelled")
        return CallFailed(call, kind_of(error), message_of(error, with_trace=self._project.manifest.is_debug))

    async def _run(self, message: Call) -> CallDone:
        """Raises whatever the function does, and FatalError where it is not there any more."""
        call_id = message.call
        function = self._project.functions.get(message.function)
        if function is None:
            raise FatalError(f"the project no longer has a function {message.function!r}")
        missing = sorted(set(message.models.values()) - self._models.keys())
        if missing:
            raise FatalError(f"the model {missing[0]!r} is not loaded in this process")

        def report(step: int, steps: int) -> None:
            self._send(CallProgress(call_id, step, steps))

        def item(result: msgspec.Struct) -> None:
            self._send(CallItem(call_id, encoded(function.name, result)))

        def ask(name: str, content: bytes, nth: int) -> "Future[Any]":
            return self._children.ask(call_id, name, content, nth)

        context = ActionContext(
            message.job,
            message.seed,
            report,
            self._cancelled[call_id],
            Children(ask),
            message.files,
            message.folder,
        )
        _current.set(call_id)
        self._send(CallStarted(call_id))
        payload = read_payload(function, message.payload)
        models = {name: self._models[key] for name, key in message.models.items()}
        self._limits.begin(call_id, size_of(function.declaration.requirements.memory) or self._most_bytes)
        if function.is_async:
            self._async_calls.add(call_id)
        result = encoded(function.name, await call(function, context, payload, models, item))
        return CallDone(call_id, result, tuple(file_of(one) for one in context.files))

    def _leave(self, call: str, ended: CallDone | CallFailed) -> None:
        """The call is over: nothing of it stays, and its end is told."""
        self._limits.end(call)
        self._children.left(call)
        del self._tasks[call], self._cancelled[call]
        said: list[str] = []
        threads: list[str] = []
        with contextlib.suppress(OSError):
            count = self._leftovers.end_children_of(call)
            if not self._tasks:  # whose the rest is can be told by nobody while others run
                count += self._leftovers.end_children()
            if count:
                said.append(f"{count} processes that the call had left were ended")
        if not self._tasks and (threads := self._leftovers.stubborn_threads()):
            names = ", ".join(threads)
            said.append(f"threads that go on ({names}): the process of the project is replaced")
        output = self._capture.end(call)
        notes = "".join(f"[stoker] {line}\n" for line in said).encode(errors="backslashreplace")
        output = msgspec.structs.replace(output, **_with_notes(output, notes))
        try:
            self._send(msgspec.structs.replace(ended, output=output, must_restart=bool(threads)))
        except UnicodeEncodeError as error:
            self._send(CallFailed(call, "fatal", f"what the call gave cannot be sent: {error!r}"))

    def _pass_output_on(self) -> None:
        """What calls that run have printed, from time to time. On a thread: it waits for the connection."""
        pause = threading.Event()
        while not pause.wait(PRINTED_EVERY_S):
            with contextlib.suppress(OSError, MemoryError):
                for call_id, part in self._capture.taken().items():
                    self._send(CallPrinted(call_id, part))

    def _confess(self) -> None:
        """A function that calls os._exit says so first: other calls of this process are not to blame."""
        leave = os._exit

        def exit_with_a_word(status: int) -> NoReturn:
            call_id = _current.get()
            if call_id and os.getpid() == own:  # not a child that it has forked
                with contextlib.suppress(OSError):
                    printed = self._capture.taken().get(call_id, OutputPart())
                    said = f"the function ended its process with status {status}"
                    self._send(CallFailed(call_id, "fatal", said, ends_process=True, output=printed))
            leave(status)

        own = os.getpid()
        os._exit = exit_with_a_word


def _with_notes(output: OutputPart, notes: bytes) -> dict[str, bytes]:
    """The field of a part that ends it, with more."""
    if output.dropped_bytes or output.tail:
        return {"tail": output.tail + notes}
    return {"head": output.head + notes}
