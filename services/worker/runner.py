"""The runner: the child process that holds the engines. Its crash never takes the agent down.

It knows nothing of NATS. It reads frames (runner_messages.py) from the socket whose number is its argument,
and ends when that socket closes. What engines emit from their threads is collected and sent by the loop in
as few writes as possible: the first token leaves at once, later ones join what is waiting.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from pathlib import Path

import uvloop

from schemas.job_events import EmbeddingOutput, TextOutput
from services.bus.running import die_with_parent
from services.worker.engines.base import (
    Cancellation,
    Engine,
    EngineError,
    Images,
    ModelFiles,
    Request,
    Stopped,
)
from services.worker.engines.registry import create
from services.worker.runner_messages import (
    Cancel,
    ImagesDone,
    Load,
    Loaded,
    LoadFailed,
    Message,
    Prepare,
    PreviewImage,
    Ready,
    Run,
    RunCancelled,
    RunFailed,
    Step,
    Text,
    TextDone,
    ToRunner,
    Unload,
    Unloaded,
    Unpark,
    frame,
    messages,
)

MAX_REASON_CHARS = 500


class Outbox:
    """Frames on their way to the agent; may be filled from any thread, is emptied by the loop."""

    def __init__(self, writer: asyncio.StreamWriter, loop: asyncio.AbstractEventLoop) -> None:
        self._writer = writer
        self._loop = loop
        self._waiting: deque[Message] = deque()
        self._is_scheduled = False
        self._thread = threading.get_ident()

    def put(self, message: Message) -> None:
        self._waiting.append(message)
        if self._is_scheduled:
            return
        self._is_scheduled = True
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._flush)
        else:
            self._loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        frames: list[bytes] = []
        text: Text | None = None
        while self._waiting:
            message = self._waiting.popleft()
            if isinstance(message, Text):
                if text is not None and text.job == message.job:
                    text = Text(text.job, text.text + message.text, text.tokens + message.tokens)
                    continue
                if text is not None:
                    frames.append(frame(text))
                text = message
                continue
            if text is not None:
                frames.append(frame(text))
                text = None
            frames.append(frame(message))
        if text is not None:
            frames.append(frame(text))
        self._writer.write(b"".join(frames))


class JobEmitter:
    """Where one run sends what it makes (services.worker.engines.base.Emitter)."""

    def __init__(self, job: str, outbox: Outbox) -> None:
        self._job = job
        self._outbox = outbox

    def text(self, text: str, tokens: int = 1) -> None:
        self._outbox.put(Text(self._job, text, tokens))

    def step(self, step: int, steps: int) -> None:
        self._outbox.put(Step(self._job, step, steps))

    def preview(self, index: int, step: int, width: int, height: int, png: bytes) -> None:
        self._outbox.put(PreviewImage(self._job, index, step, width, height, png))


class Runner:
    """Engines by name, the engine of each model, and the runs under way."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._engines: dict[str, Engine] = {}
        self._engine_of: dict[str, Engine] = {}
        self._running: dict[str, Cancellation] = {}
        self._loading = asyncio.Lock()
        self._importing: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, message: object) -> None:
        match message:
            case Run():
                self._running[message.job] = Cancellation()
                self._own(self._run(message))
            case Cancel():
                if (cancellation := self._running.get(message.job)) is not None:
                    cancellation.set()
            case Load():
                self._own(self._load(message))
            case Prepare():
                self._own(self._prepare(message.engine))
            case Unpark():
                self._own(self._unpark(message.model))
            case Unload():
                self._own(self._unload(message))

    def _own(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _engine(self, name: str) -> Engine:
        async with self._importing.setdefault(name, asyncio.Lock()):
            if name not in self._engines:
                self._engines[name] = await asyncio.to_thread(create, name)
            return self._engines[name]

    async def _prepare(self, name: str) -> None:
        with contextlib.suppress(EngineError, ImportError):  # the first load will say what is wrong
            await self._engine(name)

    async def _load(self, message: Load) -> None:
        files = ModelFiles(message.model, Path(message.path), message.options, message.adapters)
        began = time.perf_counter()
        try:
            engine = await self._engine(message.engine)
            async with self._loading:
                await asyncio.to_thread(engine.load, files)
        except Exception as error:  # whatever a library raises, the agent must hear of it
            self._outbox.put(LoadFailed(message.model, _reason(error)))
            return
        self._engine_of[message.model] = engine
        self._report_loaded(message.model, engine, time.perf_counter() - began)

    async def _unpark(self, model: str) -> None:
        engine = self._engine_of[model]
        began = time.perf_counter()
        try:
            async with self._loading:
                await asyncio.to_thread(engine.unpark, model)
        except Exception as error:  # as above
            self._outbox.put(LoadFailed(model, _reason(error)))
            return
        self._report_loaded(model, engine, time.perf_counter() - began)

    def _report_loaded(self, model: str, engine: Engine, load_s: float) -> None:
        self._outbox.put(Loaded(model, engine.memory_bytes(model), load_s, engine.can_park))

    async def _unload(self, message: Unload) -> None:
        engine = self._engine_of.get(message.model)
        if engine is not None:
            async with self._loading:
                if message.park:
                    await asyncio.to_thread(engine.park, message.model)
                else:
                    del self._engine_of[message.model]
                    await asyncio.to_thread(engine.unload, message.model)
        self._outbox.put(Unloaded(message.model))

    async def _run(self, message: Run) -> None:
        job = message.job
        cancelled = self._running[job]
        request = Request(
            job=job,
            input=message.input,
            seed=message.seed,
            adapter=message.adapter,
            sent_text=message.sent_text,
            wants_events=message.wants_events,
        )
        began = time.perf_counter()
        try:
            engine = self._engine_of[message.model]
            output = await engine.run(message.model, request, JobEmitter(job, self._outbox), cancelled)
            run_s = time.perf_counter() - began
            match output:
                case TextOutput() | EmbeddingOutput():
                    self._outbox.put(TextDone(job, output, run_s))
                case Images():
                    self._outbox.put(ImagesDone(job, output.pictures, output.images, run_s))
        except Stopped:
            self._outbox.put(RunCancelled(job))
        except EngineError as error:
            self._outbox.put(RunFailed(job, error.kind, _reason(error)))
        except Exception as error:  # a bug in an engine fails this job alone
            self._outbox.put(RunFailed(job, "internal", _reason(error)))
        finally:
            del self._running[job]


def _reason(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if isinstance(error, EngineError) else f"{type(error).__name__}: {text}"[:MAX_REASON_CHARS]


async def serve(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):  # the agent decides when this process ends
        loop.add_signal_handler(number, lambda: None)
    connection = socket.socket(fileno=descriptor)
    reader, writer = await asyncio.open_connection(sock=connection)
    outbox = Outbox(writer, loop)
    runner = Runner(outbox)
    outbox.put(Ready())
    with contextlib.suppress(ConnectionError):
        async for message in messages(reader, ToRunner):
            runner.take(message)


def main() -> None:
    die_with_parent()
    uvloop.run(serve(int(sys.argv[1])))
    os._exit(0)  # engine threads may still compute: nobody waits for them


if __name__ == "__main__":
    main()
