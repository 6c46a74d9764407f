"""The host process of a project: imports it, holds its models, runs its functions.

    python -P -m stoker.functions.host FOLDER DESCRIPTOR [MEMORY_LIMIT_BYTES]

Messages (messages.py) come and go over the socket whose number is DESCRIPTOR; the process ends when that
closes. What functions print goes to stderr, never into the frames.
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Coroutine
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from stoker.functions.calling import call, read_payload
from stoker.functions.context import ActionContext
from stoker.functions.errors import kind_of, message_of
from stoker.functions.frames import Frames, frame
from stoker.functions.loading import load_model
from stoker.functions.messages import (
    MAX_FRAME_BYTES,
    Call,
    CallDone,
    CallFailed,
    CallItem,
    CallProgress,
    CallStarted,
    CancelCall,
    File,
    HostReady,
    LoadModel,
    Message,
    ModelLoaded,
    ModelUnloaded,
    ToHost,
    UnloadModel,
)
from stoker.functions.project import BadProject, Project, load_project

READ_BYTES = 256 * 1024

_current: ContextVar[str] = ContextVar("call")
"""The call that the running code belongs to."""


class Host:
    """One project at work."""

    def __init__(self, project: Project, connection: socket.socket) -> None:
        self._project = project
        self._connection = connection
        self._sending = threading.Lock()
        self._models: dict[str, Any] = {}
        self._cancelled: dict[str, threading.Event] = {}
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._async_calls: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loading = asyncio.Lock()

    def send(self, message: Message) -> None:
        """From any thread."""
        with self._sending:
            self._connection.sendall(frame(message))

    def take(self, message: Any) -> None:
        match message:
            case Call():
                self._cancelled[message.call] = threading.Event()
                self._calls[message.call] = self._own(self._call(message))
            case CancelCall():
                if (cancelled := self._cancelled.get(message.call)) is not None:
                    cancelled.set()
                    if message.call in self._async_calls:
                        self._calls[message.call].cancel()
            case LoadModel():
                self._own(self._load(message))
            case UnloadModel():
                self._own(self._unload(message.key))

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _load(self, message: LoadModel) -> None:
        async with self._loading:
            before = _memory_bytes()
            try:
                model = await asyncio.to_thread(load_model, message.kind, Path(message.path))
            except BaseException as error:
                is_full = kind_of(error) == "resource"
                said = message_of(error, with_trace=False)
                self.send(ModelLoaded(message.key, error=said, is_out_of_memory=is_full))
                return
            self._models[message.key] = model
            self.send(ModelLoaded(message.key, max(_memory_bytes() - before, 0)))

    async def _unload(self, key: str) -> None:
        async with self._loading:
            self._models.pop(key, None)
            await asyncio.to_thread(_free)
            self.send(ModelUnloaded(key))

    async def _call(self, message: Call) -> None:
        function = self._project.functions[message.function]
        cancelled = self._cancelled[message.call]

        def report(step: int, steps: int) -> None:
            self.send(CallProgress(message.call, step, steps))

        def item(result: msgspec.Struct) -> None:
            self.send(CallItem(message.call, msgspec.json.encode(result)))

        if function.is_async:
            self._async_calls.add(message.call)
        context = ActionContext(message.job, message.seed, report, cancelled)
        _current.set(message.call)
        self.send(CallStarted(message.call))
        try:
            payload = read_payload(function, message.payload)
            models = {name: self._models[key] for name, key in message.models.items()}
            result = msgspec.json.encode(await call(function, context, payload, models, item))
            files = tuple(File(one.name, one.content_type, one.content) for one in context.files)
            self.send(CallDone(message.call, result, files))
        except (SystemExit, KeyboardInterrupt) as error:
            self.send(CallFailed(message.call, "fatal", f"the function ended the process: {error!r}"))
        except asyncio.CancelledError:
            self.send(CallFailed(message.call, "cancelled", "the call was cancelled"))
        except BaseException as error:  # whatever a function raises fails this call alone
            kind = "cancelled" if cancelled.is_set() else kind_of(error)
            self.send(
                CallFailed(message.call, kind, message_of(error, with_trace=self._project.manifest.is_debug))
            )
        finally:
            del self._cancelled[message.call], self._calls[message.call]
            self._async_calls.discard(message.call)


def _confess(host: Host) -> None:
    """A function that calls os._exit says so first: the other calls of this process are not to blame."""
    leave = os._exit

    def exit_with_a_word(status: int) -> NoReturn:
        with contextlib.suppress(LookupError, OSError):
            said = f"the function ended its process with status {status}"
            host.send(CallFailed(_current.get(), "fatal", said, ends_process=True))
        leave(status)

    os._exit = exit_with_a_word


def _memory_bytes() -> int:
    """Of the GPU where torch uses one, else of this process."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _free() -> None:
    import ctypes
    import gc

    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


async def serve(folder: Path, connection: socket.socket) -> None:
    """Import the project, say so, and work until the connection ends."""
    try:
        project = load_project(folder)
    except BadProject as error:
        connection.sendall(frame(HostReady(str(error))))
        return
    host = Host(project, connection)
    _confess(host)
    host.send(HostReady())
    ended = asyncio.Event()
    reading = threading.Thread(target=_read, args=(connection, host, asyncio.get_running_loop(), ended))
    reading.daemon = True
    reading.start()
    await ended.wait()


def _read(connection: socket.socket, host: Host, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    """Hand frames on until the connection ends. On a thread: sending blocks, so the socket must."""
    frames = Frames(ToHost, MAX_FRAME_BYTES)
    with contextlib.suppress(OSError, msgspec.DecodeError):
        while chunk := connection.recv(READ_BYTES):
            for message in frames.feed(chunk):
                loop.call_soon_threadsafe(host.take, message)
    loop.call_soon_threadsafe(ended.set)


def main() -> None:
    folder, descriptor = Path(sys.argv[1]), int(sys.argv[2])
    limit = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # end with the worker, whatever the function does
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(job)s %(message)s", stream=sys.stderr)
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    os.dup2(2, 1)  # what functions print goes where their log goes
    connection = socket.socket(fileno=descriptor)
    with contextlib.suppress(ConnectionError):
        asyncio.run(serve(folder, connection))
    os._exit(0)  # threads of functions that do not stop end here


if __name__ == "__main__":
    main()
