"""Users' functions, with models injected: one host process per project (function_host.py).

Models that functions are given are loaded like any others, so placement sends a call to where its model is
hot. A call that is cancelled and does not stop within `CANCEL_GRACE_S` has its process ended; so does one
that ends the process itself. The other calls of that process are run again: in a new one, and one at a time
where it is not known who was to blame.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec

from stoker.functions.messages import (
    Call,
    CallDone,
    CallPrinted,
    CallProgress,
    ChildAsked,
    ChildEnded,
    ChildLeft,
)
from stoker.schemas.job_events import SavedFile, ValueOutput
from stoker.schemas.jobs import FunctionInput
from stoker.schemas.workers import EngineCapability
from stoker.services.worker.engines.base import (
    Cancellation,
    ChildEnd,
    Content,
    Emitter,
    EngineError,
    Files,
    Leave,
    ModelFiles,
    Request,
    RunOutput,
    Stopped,
)
from stoker.services.worker.engines.functions.function_host import HostDied, HostProcess, Told, end_abandoned

CANCEL_GRACE_S = 1.0
"""How long a cancelled call may take to notice."""


@dataclass(slots=True)
class _Model:
    """A model that a host has loaded."""

    key: str
    path: Path
    kind: str
    memory_bytes: int = 0


@dataclass(slots=True)
class _Project:
    """One project at one version. users: weights keys that need its host."""

    folder: str
    host: HostProcess | None = None
    models: dict[str, _Model] = field(default_factory=dict)
    users: set[str] = field(default_factory=set)
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    alone: asyncio.Lock = field(default_factory=asyncio.Lock)

    def running(self) -> HostProcess:
        """Its host, started anew with its models where it has died or must not be used. Raises EngineError."""
        if self.host is None or self.host.is_dead or self.host.is_worn:
            host = HostProcess(self.folder)
            try:
                for model in list(self.models.values()):
                    host.load(model.key, model.path, model.kind)
            except EngineError:
                host.kill()  # it would go on without a model that it is believed to have
                raise
            self.host = host
        return self.host


class FunctionEngine:
    """See the file's opening."""

    def __init__(self, capability: EngineCapability) -> None:
        self.capability = capability
        self._projects: dict[tuple[str, str], _Project] = {}
        self._project_of: dict[str, _Project] = {}

    def load(self, files: ModelFiles) -> None:
        options = files.options
        place = (str(options["project"]), str(options.get("version", "")))
        project = self._projects.get(place)
        if project is None:
            project = self._projects[place] = _Project(place[0])
        try:
            host = project.running()
        except HostDied as error:
            reason = f"{place[0]}: the process ended while it was imported ({error})"
            raise EngineError(reason, "load_failed") from error
        if options.get("kind"):
            model = _Model(str(options["key"]), files.path, str(options["kind"]))
            measured = host.load(model.key, model.path, model.kind).memory_bytes
            model.memory_bytes = max(measured, int(options.get("reserved", 0)))
            project.models[files.model] = model
        project.users.add(files.model)
        self._project_of[files.model] = project

    def unload(self, model: str) -> None:
        project = self._project_of.pop(model, None)
        if project is None:
            return
        loaded = project.models.pop(model, None)
        if loaded is not None and project.host is not None and not project.host.is_dead:
            project.host.unload(loaded.key)
        project.users.discard(model)
        if not project.users:
            self._projects = {place: one for place, one in self._projects.items() if one is not project}
            if project.host is not None:
                project.host.stop()

    def memory_bytes(self, model: str) -> int:
        loaded = self._project_of[model].models.get(model)
        return loaded.memory_bytes if loaded is not None else 0

    async def run(self, model: str, request: Request, emit: Emitter, cancelled: Cancellation) -> RunOutput:
        asked = request.input
        if not isinstance(asked, FunctionInput):
            raise EngineError("a function takes a payload", "validation")
        project = self._project_of[model]
        call = _Call(project, request, asked, emit, cancelled)
        try:
            return await call.run()
        except _Again:  # another call's end took this one along
            pass
        async with _Turn(project.alone) as turn:
            call.turn = turn
            try:
                return await call.run()
            except _Again as error:
                raise _ended(error.status) from error


class _Again(Exception):
    """The process ended, perhaps not through this call."""

    def __init__(self, status: int | None) -> None:
        super().__init__()
        self.status = status


class _Turn:
    """The turn of one that runs alone. Who waits for a call of its own lets go of it: that one may need it."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self._lock = lock
        self._loop = asyncio.get_running_loop()
        self._is_mine = False

    async def __aenter__(self) -> Self:
        await self._lock.acquire()
        self._is_mine = True
        return self

    async def __aexit__(self, *error: object) -> None:
        self._let_go()

    def let_go(self) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._let_go)

    def _let_go(self) -> None:
        if self._is_mine:
            self._is_mine = False
            self._lock.release()


@dataclass(slots=True)
class _Call:
    """One call on its way through a host."""

    project: _Project
    request: Request
    asked: FunctionInput
    emit: Emitter
    cancelled: Cancellation
    items: int = 0
    turn: _Turn | None = None
    children: dict[int, Leave] = field(default_factory=dict)

    def _note_child(self, host: HostProcess, message: ChildAsked | ChildLeft) -> None:
        """The call asks for a call of its own, or waits for one no longer."""
        number = message.number
        if isinstance(message, ChildLeft):
            if (leave := self.children.pop(number, None)) is not None:
                leave()
            return
        if self.turn is not None:
            self.turn.let_go()

        def ended(end: ChildEnd) -> None:
            self.children.pop(number, None)
            host.child_ended(
                ChildEnded(message.call, number, end.result, end.kind, end.message, end.field, end.child)
            )

        self.children[number] = self.request.ask(message.name, message.payload, message.nth, ended)

    async def run(self) -> RunOutput:
        """Raises EngineError, Stopped, or _Again when the process ended under several calls."""
        async with self.project.starting:
            try:
                host = await asyncio.to_thread(self.project.running)
            except HostDied as error:  # while it started, perhaps from outside
                raise _Again(error.status) from error
        loop = asyncio.get_running_loop()
        if self.cancelled.is_set():  # nothing of it has been done, and nothing is
            raise Stopped
        skipped = self.items
        self.items = 0

        def report(message: Told) -> None:
            if isinstance(message, ChildAsked | ChildLeft):
                self._note_child(host, message)
                return
            if isinstance(message, CallProgress):
                self.emit.step(message.step, message.steps)
                return
            if isinstance(message, CallPrinted):
                self.emit.printed(message.output)
                return
            self.items += 1
            if self.items > skipped:
                self.emit.text(message.item.decode() + "\n")

        number, answer = host.call(self._message(), report)

        def stop() -> None:
            host.cancel(number)
            loop.call_soon_threadsafe(loop.call_later, CANCEL_GRACE_S, end_stubborn)

        def end_stubborn() -> None:
            if not answer.done():
                host.kill()

        self.cancelled.on_set(stop)
        if self.cancelled.is_set():
            stop()
        try:
            done: CallDone = await asyncio.wrap_future(answer)
        except HostDied as error:
            if self.cancelled.is_set():
                raise Stopped from error
            if not error.is_blamed:
                raise _Again(error.status) from error
            raise _ended(error.status) from error
        except EngineError:
            if self.cancelled.is_set():
                raise Stopped from None
            raise
        value: Any = msgspec.json.decode(done.result)
        if not done.files:
            return ValueOutput(value)
        files = tuple(SavedFile(one.name, one.content_type, one.size_bytes) for one in done.files)
        return Files(ValueOutput(value, files), tuple(Content(one.content, one.path) for one in done.files))

    def _message(self) -> Call:
        """What the host is told; its side gives the call its name."""
        asked, request = self.asked, self.request
        return Call(
            "",
            request.job,
            asked.function,
            asked.payload,
            asked.models,
            request.seed,
            request.files,
            request.folder,
        )


def _ended(status: int | None) -> EngineError:
    if status is not None and status < 0:
        cause = "out of memory?" if status == -9 else "it crashed"
        return EngineError(f"the function's process was ended by signal {-status} ({cause})", "resource")
    return EngineError(f"the function ended its process with status {status}", "fatal")


def create(capability: EngineCapability) -> FunctionEngine:
    end_abandoned()
    return FunctionEngine(capability)
