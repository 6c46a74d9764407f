"""What an engine is. Adding one: a file beside this with a class like `Engine`, a line in `registry.py`.

An engine lives in the runner process. `load` and `unload` run in a thread; `run` is a coroutine that
must not block: engines that compute in Python threads use `asyncio.to_thread`.
"""

import asyncio
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from stoker.functions.output import OutputPart
from stoker.schemas.catalog import Adapter
from stoker.schemas.job_events import (
    CallPart,
    EmbeddingOutput,
    FailureKind,
    Picture,
    TextOutput,
    TokenChance,
    ValueOutput,
)
from stoker.schemas.jobs import JobInput
from stoker.schemas.workers import CapabilityCard, EngineCapability

_ADDRESS = re.compile(r"<([^<>]{1,200}?)(?: object)? at 0x[0-9a-fA-F]+>")
"""How Python shows an object that does not say what it is."""


class EngineError(Exception):
    """A load or a run failed; `kind` as in schemas.job_events.FailureKind.

    code, field: what clients are told of it besides, as OpenAI's errors have them. Addresses of objects, which
    libraries have in their messages, are left out.
    """

    def __init__(self, message: str, kind: FailureKind = "fatal", *, code: str = "", field: str = "") -> None:
        super().__init__(_ADDRESS.sub(r"\1", message))
        self.kind: FailureKind = kind
        self.code = code
        self.field = field


def context_exceeded(given: int, limit: int, remedy: str, field: str = "") -> EngineError:
    """A prompt is longer than the context: the same on every worker, and for ever."""
    message = f"the prompt has {given} tokens, and the context of this model holds {limit}: {remedy}"
    return EngineError(message, "validation", code="context_length_exceeded", field=field)


class Stopped(Exception):
    """Raised by `run` when it has stopped because it was cancelled."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What to load: where the weights are, and how.

    args, env: for the engine's own server. report: is told how far a download is, in percent; from any thread.
    memory_bytes: what it may take of the device; 0: nobody says. slots: jobs at a time; 0: as many as the
    engine has by itself.
    """

    model: str
    path: Path
    options: dict[str, Any]
    adapters: tuple[Adapter, ...] = ()
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    report: Callable[[float], None] = lambda _: None
    memory_bytes: int = 0
    slots: int = 0


class ChildEnd(msgspec.Struct, frozen=True):
    """How a call that a run has asked for ended. result: as JSON. kind: "": it completed. child: its job."""

    result: bytes = b""
    kind: str = ""
    message: str = ""
    field: str = ""
    child: str = ""


Leave = Callable[[], None]
"""Nobody waits for a call any more."""


class AskChild(Protocol):
    """Begin a call of a function or a model, from any thread; `ended` is told how it ended, on the loop.

    payload: as JSON. nth: how many like it this run has asked for before.
    """

    def __call__(self, name: str, payload: bytes, nth: int, ended: Callable[[ChildEnd], None]) -> Leave: ...


def no_children(name: str, payload: bytes, nth: int, ended: Callable[[ChildEnd], None]) -> Leave:
    """For runs that nothing can be asked by."""
    ended(ChildEnd(kind="fatal", message=f"{name} cannot be called here"))
    return lambda: None


@dataclass(frozen=True, slots=True)
class Request:
    """One run. sent_text: output that an attempt that was lost has delivered, sent_tokens long; go on after it.

    title: the model's name, for what is written about it. adapter: the one asked for by name.
    loras: what lies over the weights for this run; their urls are paths here. options: those of the model that
    belong to a run (schemas.catalog.RUN_OPTIONS). ask: begins a call that the run makes.
    files: that the input names, by what it says: paths here.
    folder: for files that the run makes; not made yet, "": none.
    """

    job: str
    input: JobInput
    seed: int
    title: str = ""
    adapter: str = ""
    loras: tuple[Adapter, ...] = ()
    sent_text: str = ""
    sent_tokens: int = 0
    wants_events: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    ask: AskChild = no_children
    files: dict[str, str] = field(default_factory=dict)
    folder: str = ""


@dataclass(slots=True)
class Cancellation:
    """Set once, from any thread; engines look at it between tokens or steps, or wait for it."""

    _flag: threading.Event = field(default_factory=threading.Event)
    _callbacks: list[Callable[[], None]] = field(default_factory=list)

    def set(self) -> None:
        self._flag.set()
        for callback in tuple(self._callbacks):
            callback()

    def is_set(self) -> bool:
        return self._flag.is_set()

    def on_set(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def forget(self, callback: Callable[[], None]) -> None:
        """What was to be called is called no more."""
        self._callbacks.remove(callback)


class Emitter(Protocol):
    """Where a run sends what it makes; every method may be called from any thread."""

    def text(
        self, text: str, tokens: int = 1, *, is_reasoning: bool = False, logprobs: tuple[TokenChance, ...] = ()
    ) -> None: ...

    def calls(self, parts: tuple[CallPart, ...], tokens: int) -> None: ...

    def step(self, step: int, steps: int) -> None: ...

    def preview(self, index: int, step: int, width: int, height: int, png: bytes) -> None: ...

    def printed(self, output: OutputPart) -> None: ...

    def drawn(self, kept: int, read: int) -> None:
        """Once: the device is done with this run, and the next may begin while its files are written.

        kept, read: prompts that text encoders had read before, and those that they read for it.
        """


@dataclass(frozen=True, slots=True)
class Images:
    """Pictures and their bytes, in order. details: as in schemas.job_events.ImageOutput."""

    pictures: tuple[Picture, ...]
    images: tuple[bytes, ...]
    details: dict[str, Any] = field(default_factory=dict)


class Content(msgspec.Struct, frozen=True, omit_defaults=True):
    """The bytes of a file: here, or in the request's folder."""

    content: bytes = b""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Files:
    """What a function returned, and the bytes of its files, in order."""

    output: ValueOutput
    contents: tuple[Content, ...]


RunOutput = TextOutput | EmbeddingOutput | ValueOutput | Images | Files


class Engine(Protocol):
    """One engine in one runner process; holds any number of loaded models by name."""

    capability: EngineCapability

    def load(self, files: ModelFiles) -> None:
        """Bring a model into device memory. Raises EngineError with what is wrong with the weights."""

    def unload(self, model: str) -> None:
        """Free everything the model holds."""

    def memory_bytes(self, model: str) -> int:
        """Device memory that a loaded model takes."""

    async def run(self, model: str, request: Request, emit: Emitter, cancelled: Cancellation) -> RunOutput:
        """Compute. Raises EngineError, or Stopped after `cancelled` was set."""


@runtime_checkable
class Parks(Protocol):
    """An engine that can keep weights in RAM, from where they come back sooner than from disk."""

    def park(self, model: str) -> None:
        """Move the weights from device memory to RAM."""

    def unpark(self, model: str) -> None:
        """Move them back."""


@runtime_checkable
class Closes(Protocol):
    """An engine with connections that live in the runner's loop, and end with it."""

    async def close(self) -> None: ...


@runtime_checkable
class AttachesLoras(Protocol):
    """An engine that lays LoRAs over loaded weights in place."""

    def attach(self, model: str, loras: Sequence[Adapter]) -> tuple[str, ...]:
        """Load what is not loaded yet; the ones that do not fit the model, with the reason."""


@runtime_checkable
class Describes(Protocol):
    """An engine that can say what a model takes without loading its weights."""

    def describe(self, files: ModelFiles) -> dict[str, Any]:
        """The model's schema (schemas.catalog.Schema as builtins). Raises EngineError."""


@runtime_checkable
class HasCard(Protocol):
    """An engine that knows what its loaded models can do."""

    def card(self, model: str) -> CapabilityCard:
        """Of a loaded model."""


@runtime_checkable
class Measured(Protocol):
    """An engine that has figures of its own."""

    async def metrics(self) -> dict[str, float]:
        """By name; empty while nothing is loaded."""


@dataclass(frozen=True, slots=True)
class Task:
    """One of several runs at once."""

    request: Request
    emit: Emitter
    cancelled: Cancellation


@runtime_checkable
class RunsTogether(Protocol):
    """An engine that runs requests which differ in prompt and seed only at once."""

    async def run_together(self, model: str, tasks: Sequence[Task]) -> list[RunOutput | Exception]:
        """One output per task, in order; an exception for one that failed or was stopped."""


async def wait_cancelled(cancelled: Cancellation, seconds: float) -> bool:
    """Sleep, but wake at once when cancelled; whether it was."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not over.done():
            over.set_result(None)

    def wake() -> None:
        loop.call_soon_threadsafe(end)

    timer = loop.call_later(seconds, end)
    cancelled.on_set(wake)
    try:
        if not cancelled.is_set():
            await over
    finally:
        timer.cancel()
        cancelled.forget(wake)
    return cancelled.is_set()
