"""The host process of one function project, as its worker sees it: loads, calls, its output, its end.

What the host says arrives on a thread; whoever waits is told through a future. When the process ends, everybody
who waits is told by `HostDied`, and what it has started is ended too: all that has its marker in the
environment.

What children of the host and C code print comes over a pipe. It is read whatever happens, so that nobody ever
waits to print; a bounded part of it goes into the log of the call that runs, or where there is none, a few
lines into this process's log.
"""

import contextlib
import itertools
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import Any

import msgspec

from stoker.functions.environments import Environment, environment_of
from stoker.functions.frames import Frames, frame
from stoker.functions.leftovers import end_marked, end_processes
from stoker.functions.manifest import BadProject
from stoker.functions.messages import (
    MAX_FRAME_BYTES,
    Call,
    CallDone,
    CallFailed,
    CallItem,
    CallPrinted,
    CallProgress,
    CallStarted,
    CancelCall,
    ChildAsked,
    ChildEnded,
    ChildLeft,
    FromHost,
    HostReady,
    LoadModel,
    Message,
    ModelLoaded,
    ModelUnloaded,
    UnloadModel,
)
from stoker.functions.output import OutputLog
from stoker.services.process.logs import get_logger
from stoker.services.worker.engines.base import EngineError

log = get_logger("functions")

IMPORT_TIMEOUT_S = 120.0
LOAD_TIMEOUT_S = 1800.0
STOP_TIMEOUT_S = 2.0
READ_BYTES = 256 * 1024
PRINTED_EVERY_S = 0.25
"""How often what child processes print is passed on."""
OWN_CHARS, OWN_EVERY_S = 2000, 10.0
"""How much of what belongs to no call is logged here in a time: its last characters."""
MARKER = "STOKER_FUNCTION_HOST"

_numbers = itertools.count(1)


class HostDied(Exception):
    """The process ended; status as Popen has it. is_blamed: no other call can have ended it."""

    def __init__(self, status: int | None, *, is_blamed: bool = False) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.is_blamed = is_blamed


def _environment(folder: str) -> Environment:
    """The project's, built first where this machine does not have it. Raises EngineError."""
    try:
        return environment_of(Path(folder), lambda line: print(line, file=sys.stderr, flush=True))
    except BadProject as error:
        raise EngineError(str(error), "load_failed") from error


Told = CallProgress | CallItem | CallPrinted | ChildAsked | ChildLeft
Report = Callable[[Told], None]


class HostProcess:
    """A running host. Raises EngineError when the project cannot be imported, HostDied when it ends before."""

    def __init__(self, folder: str) -> None:
        environment = _environment(folder)
        ours, theirs = socket.socketpair()
        self._connection = ours
        command = environment.command("stoker.functions.host", folder, str(theirs.fileno()))
        mark = f"{os.getppid()}.{os.getpid()}.{next(_numbers)}"
        self._marker = f"{MARKER}={mark}"
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env=os.environ | {MARKER: mark},
        )
        theirs.close()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._ready: Future[None] = Future()
        self._loads: dict[str, Future[ModelLoaded]] = {}
        self._unloads: dict[str, Future[None]] = {}
        self._calls: dict[str, tuple[Future[CallDone], Report]] = {}
        self._started: set[str] = set()
        self._has_confessed = False
        self._printed = OutputLog()
        self._printing = threading.Lock()
        self.is_dead = False
        self.is_worn = False
        """A call has left threads that go on: nothing new is run in it, and it is ended when it is idle."""
        threading.Thread(target=self._read, name="function host", daemon=True).start()
        threading.Thread(target=self._pass_output_on, name="function output", daemon=True).start()
        threading.Thread(target=self._await_end, name="function host's end", daemon=True).start()
        try:
            self._ready.result(IMPORT_TIMEOUT_S)
        except TimeoutError:
            self.kill()
            raise EngineError(f"{folder}: importing it took too long", "load_failed") from None

    def _send(self, message: Message) -> None:
        try:
            with self._lock:
                self._connection.sendall(frame(message))
        except OSError:
            pass  # its end is noticed by the reader

    def load(self, key: str, path: Path, kind: str) -> ModelLoaded:
        """Have it load a model. Raises EngineError."""
        answer: Future[ModelLoaded] = Future()
        self._loads[key] = answer
        self._send(LoadModel(key, str(path), kind))
        self._tell_if_dead(answer)
        try:
            loaded = answer.result(LOAD_TIMEOUT_S)
        except HostDied as error:
            raise EngineError(f"the process ended while it loaded {key} ({error})", "load_failed") from error
        if loaded.error:
            raise EngineError(loaded.error, "resource" if loaded.is_out_of_memory else "load_failed")
        return loaded

    def unload(self, key: str) -> None:
        answer: Future[None] = Future()
        self._unloads[key] = answer
        self._send(UnloadModel(key))
        self._tell_if_dead(answer)
        try:
            answer.result(LOAD_TIMEOUT_S)
        except HostDied:
            pass  # so it is unloaded

    def call(self, message: Call, report: Report) -> tuple[str, "Future[CallDone]"]:
        """Begin a call; its id, which it is given here, and a future that raises EngineError or HostDied."""
        number = str(next(self._numbers))
        answer: Future[CallDone] = Future()
        self._calls[number] = (answer, report)
        self._send(msgspec.structs.replace(message, call=number))
        self._tell_if_dead(answer)
        return number, answer

    def _tell_if_dead(self, answer: "Future[Any]") -> None:
        """Who has asked after the reader told everybody of the end would wait for nothing."""
        if self.is_dead and not answer.done():
            with contextlib.suppress(InvalidStateError):  # the reader was just before us
                answer.set_exception(HostDied(self.process.poll()))

    def cancel(self, number: str) -> None:
        self._send(CancelCall(number))

    def child_ended(self, message: ChildEnded) -> None:
        """A call that one of its calls has asked for has ended."""
        self._send(message)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def stop(self) -> None:
        """It ends by itself when the connection does. Closing alone does not end what a thread reads from."""
        with contextlib.suppress(OSError):  # the host has ended it
            self._connection.shutdown(socket.SHUT_RDWR)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()

        self._connection.close()

    def _read(self) -> None:
        frames = Frames(FromHost, MAX_FRAME_BYTES)
        try:
            while chunk := self._connection.recv(READ_BYTES):
                for message in frames.feed(chunk):
                    self._take(message)
        except OSError:
            pass
        except msgspec.DecodeError:  # something else has written to the connection
            self.kill()
        self._died()

    def _take(self, message: object) -> None:
        match message:
            case CallProgress() | CallItem() | CallPrinted() | ChildAsked() | ChildLeft():
                if (found := self._calls.get(message.call)) is not None:
                    found[1](message)
            case CallStarted():
                self._started.add(message.call)
            case CallDone() | CallFailed():
                self._ended(message)
            case ModelLoaded():
                self._loads.pop(message.key).set_result(message)
            case ModelUnloaded():
                self._unloads.pop(message.key).set_result(None)
            case HostReady():
                if message.error:
                    self._ready.set_exception(EngineError(message.error, "load_failed"))
                else:
                    self._ready.set_result(None)

    def _ended(self, message: CallDone | CallFailed) -> None:
        """A call is over. Nobody waits for it where a task that it left behind speaks in its name."""
        self._hand_on_printed()
        self._started.discard(message.call)
        answer, report = self._calls.pop(message.call, (Future[CallDone](), _nobody))
        if message.output:
            report(CallPrinted(message.call, message.output))
        self.is_worn = self.is_worn or message.must_restart
        if isinstance(message, CallDone):
            answer.set_result(message)
        else:
            self._has_confessed = self._has_confessed or message.ends_process
            answer.set_exception(EngineError(message.message, message.kind))
        if self.is_worn and not self._calls:
            self._has_confessed = True  # who comes now is not to blame for this end
            self.kill()

    def _await_end(self) -> None:
        """When the process ends so does what it has started: else it would hold the connection open."""
        self.process.wait()
        end_marked(self._marker, self.process.pid)

    def _died(self) -> None:
        try:
            status: int | None = self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._hand_on_printed()
        self.is_dead = True
        running = self._calls.keys() & self._started
        died = HostDied(status, is_blamed=len(running) == 1 and not self._has_confessed)
        waiting: list[Future[Any]] = [*self._loads.values(), *self._unloads.values(), self._ready]
        waiting += [answer for answer, _ in self._calls.values()]
        self._calls.clear()
        for answer in waiting:
            if not answer.done():
                answer.set_exception(died)

    def _pass_output_on(self) -> None:
        """Until the process and all that it has started have ended."""
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        os.set_blocking(pipe, False)
        handed_on_at = said_at = 0.0
        own = OutputLog()
        while self._read_printed():
            select.select([pipe], [], [], PRINTED_EVERY_S)
            now = time.monotonic()
            if now - handed_on_at >= PRINTED_EVERY_S:
                handed_on_at = now
                if not self._hand_on_printed():
                    own.add_part(self._printed.take())
            if now - said_at >= OWN_EVERY_S:
                said_at = now
                self._say(own)
        own.add_part(self._printed.take())
        self._say(own)

    def _read_printed(self) -> bool:
        """Read what there is; False when there will be nothing more."""
        assert self.process.stdout is not None
        with self._printing:
            try:
                while chunk := os.read(self.process.stdout.fileno(), READ_BYTES):
                    self._printed.add(chunk)
                    if len(chunk) < READ_BYTES // 4:
                        return True
            except BlockingIOError:
                return True
            except OSError:
                return False
        return False

    def _hand_on_printed(self) -> bool:
        """Into the log of the call that runs, where it is the only one.

        That it has started may be heard later than what it has printed, which comes another way.
        """
        self._read_printed()
        running = list(self._started) or list(self._calls)
        found = self._calls.get(running[0]) if len(running) == 1 else None
        if found is None:
            return False
        if part := self._printed.take():
            found[1](CallPrinted(running[0], part))
        return True

    def _say(self, own: OutputLog) -> None:
        part = own.take()
        text = (part.head + part.tail).decode(errors="replace").strip()
        if text:
            left_out = part.dropped_bytes + max(len(text) - OWN_CHARS, 0)
            log.info("project.printed", text=text[-OWN_CHARS:], left_out_bytes=left_out)


def _nobody(message: Told) -> None:
    """Who hears of a call that nobody waits for."""


def end_abandoned() -> None:
    """End what hosts of an earlier process of this worker have left: it was killed, and could not."""
    for place in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            marks = [line for line in place.read_bytes().split(b"\0") if line.startswith(MARKER.encode())]
            agent, runner, _ = marks[0].partition(b"=")[2].split(b".") if marks else (b"", b"", b"")
            if agent == str(os.getppid()).encode() and runner != str(os.getpid()).encode():
                end_processes([int(place.parent.name)])
