"""The host process of a project: imports it, holds its models, runs its functions.

    python -P -m stoker.functions.host FOLDER DESCRIPTOR

Messages (messages.py) come and go over the socket whose number is DESCRIPTOR; the process ends when that
closes, and what it has started with it. What functions print goes into bounded logs (capture.py); what is
printed by nobody's call, and by child processes, goes to stderr.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from stoker.functions.calls import Calls, current_call
from stoker.functions.capture import Capture
from stoker.functions.errors import kind_of, message_of
from stoker.functions.frames import Frames, frame
from stoker.functions.leftovers import adopt_orphans, descendants, end_processes
from stoker.functions.loading import load_model
from stoker.functions.messages import (
    MAX_FRAME_BYTES,
    Call,
    CancelCall,
    ChildEnded,
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
MAX_CALLS = 1536
"""Threads for plain functions, those that wait for calls of theirs included; how many run, and wait, is for
the worker to say."""


class Host:
    """One project at work."""

    def __init__(self, project: Project, connection: socket.socket, capture: Capture) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._models: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loading = asyncio.Lock()
        self._calls = Calls(project, self._models, self.send, capture)

    def send(self, message: Message) -> None:
        """From any thread."""
        content = frame(message)
        with self._sending:
            self._connection.sendall(content)

    def take(self, message: Any) -> None:
        match message:
            case Call():
                self._calls.start(message)
            case CancelCall():
                self._calls.cancel(message.call)
            case ChildEnded():
                self._calls.child_ended(message)
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
    capture = Capture(current_call)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        project = load_project(folder)
    except BadProject as error:
        connection.sendall(frame(HostReady(str(error))))
        return
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MAX_CALLS))
    host = Host(project, connection, capture)
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
    leave = os._exit
    adopt_orphans()
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # end with the worker, whatever the function does
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # what is printed goes where the log goes
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    with contextlib.suppress(ConnectionError):
        asyncio.run(serve(folder, connection))
    end_processes(descendants(os.getpid()))
    leave(0)  # threads of functions that do not stop end here


if __name__ == "__main__":
    main()
