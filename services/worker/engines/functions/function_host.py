"""The host process of one function project, as its worker sees it: loads, calls, its output, its end.

What the host says arrives on a thread; whoever waits is told through a future. When the process ends, everybody
who waits is told by `HostDied`.
"""

import contextlib
import io
import itertools
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

from services.worker.engines.base import EngineError
from stoker.functions.environments import Environment, environment_of
from stoker.functions.frames import Frames, frame
from stoker.functions.manifest import BadProject
from stoker.functions.messages import (
    MAX_FRAME_BYTES,
    Call,
    CallDone,
    CallFailed,
    CallItem,
    CallProgress,
    CallStarted,
    CancelCall,
    FromHost,
    HostReady,
    LoadModel,
    Message,
    ModelLoaded,
    ModelUnloaded,
    UnloadModel,
)

IMPORT_TIMEOUT_S = 120.0
LOAD_TIMEOUT_S = 1800.0
READ_BYTES = 256 * 1024
OUTPUT_BYTES, OUTPUT_WINDOW_S = 256 * 1024, 10.0
"""How much of what functions print is passed on in a time; the rest is counted and left out."""


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


Report = Callable[[CallProgress | CallItem], None]


class HostProcess:
    """A running host. Raises EngineError when the project cannot be imported."""

    def __init__(self, folder: str, memory_limit: int) -> None:
        environment = _environment(folder)
        ours, theirs = socket.socketpair()
        self._connection = ours
        command = environment.command("stoker.functions.host", folder, str(theirs.fileno()))
        self.process = subprocess.Popen(
            [*command, str(memory_limit)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
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
        self.is_dead = False
        threading.Thread(target=self._read, name="function host", daemon=True).start()
        threading.Thread(target=self._pass_output_on, name="function output", daemon=True).start()
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

    def call(
        self,
        job: str,
        function: str,
        payload: dict[str, Any],
        models: dict[str, str],
        seed: int,
        report: Report,
    ) -> tuple[str, "Future[CallDone]"]:
        """Begin a call; its id, and a future that raises EngineError or HostDied."""
        number = str(next(self._numbers))
        answer: Future[CallDone] = Future()
        self._calls[number] = (answer, report)
        self._send(Call(number, job, function, payload, models, seed))
        self._tell_if_dead(answer)
        return number, answer

    def _tell_if_dead(self, answer: "Future[Any]") -> None:
        """Who has asked after the reader told everybody of the end would wait for nothing."""
        if self.is_dead and not answer.done():
            with contextlib.suppress(InvalidStateError):  # the reader was just before us
                answer.set_exception(HostDied(self.process.poll()))

    def cancel(self, number: str) -> None:
        self._send(CancelCall(number))

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def stop(self) -> None:
        """It ends by itself when the connection does."""
        self._connection.close()
        try:
            self.process.wait(2.0)
        except subprocess.TimeoutExpired:
            self.process.kill()

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
            case CallProgress() | CallItem():
                if (found := self._calls.get(message.call)) is not None:
                    found[1](message)
            case CallStarted():
                self._started.add(message.call)
            case CallDone():
                self._answer_of(message.call).set_result(message)
            case CallFailed():
                self._has_confessed = self._has_confessed or message.ends_process
                self._answer_of(message.call).set_exception(EngineError(message.message, message.kind))
            case ModelLoaded():
                self._loads.pop(message.key).set_result(message)
            case ModelUnloaded():
                self._unloads.pop(message.key).set_result(None)
            case HostReady():
                if message.error:
                    self._ready.set_exception(EngineError(message.error, "load_failed"))
                else:
                    self._ready.set_result(None)

    def _answer_of(self, call: str) -> Future[CallDone]:
        """What waits for a call that has ended; nobody, where a task it left behind speaks in its name."""
        self._started.discard(call)
        found = self._calls.pop(call, None)
        return found[0] if found is not None else Future()

    def _died(self) -> None:
        try:
            status: int | None = self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
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
        """To this process's log, as much as is fit to print."""
        output = self.process.stdout
        assert isinstance(output, io.BufferedReader)
        window_began, passed, left_out = time.monotonic(), 0, 0
        while chunk := output.read1(READ_BYTES):
            now = time.monotonic()
            if now - window_began > OUTPUT_WINDOW_S:
                if left_out:
                    print(f"… {left_out} bytes of output were left out", file=sys.stderr)
                window_began, passed, left_out = now, 0, 0
            shown = chunk[: max(OUTPUT_BYTES - passed, 0)]
            passed += len(shown)
            left_out += len(chunk) - len(shown)
            if shown:
                sys.stderr.write(shown.decode(errors="replace"))
                sys.stderr.flush()
