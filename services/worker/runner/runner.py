"""The runner: the child process that holds the engines. Its crash never takes the agent down.

It knows nothing of NATS and takes frames (messages.py) from the agent. What engines emit from their threads is
collected and sent by the loop in as few writes as possible: the first token leaves at once, later ones join
what is waiting.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from stoker.functions.output import OutputPart
from stoker.schemas.job_events import CallPart, EmbeddingOutput, TextOutput, TokenChance, ValueOutput
from stoker.services.process.tasks import TaskOwner
from stoker.services.worker.engines.base import (
    AttachesLoras,
    Cancellation,
    Closes,
    Describes,
    Engine,
    EngineError,
    Files,
    HasCard,
    Images,
    Measured,
    ModelFiles,
    Parks,
    Request,
    RunOutput,
    RunsTogether,
    Stopped,
    Task,
)
from stoker.services.worker.engines.registry import create
from stoker.services.worker.runner.asked import AskedCalls
from stoker.services.worker.runner.messages import (
    Cancel,
    ChildEnded,
    Describe,
    Described,
    Drawn,
    FilesDone,
    ImagesDone,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    Pace,
    Ping,
    Pong,
    Prepare,
    PreviewImage,
    Printed,
    Run,
    RunCancelled,
    RunFailed,
    RunTogether,
    Step,
    Text,
    TextDone,
    Unload,
    Unloaded,
    Unpark,
    Usage,
)
from stoker.services.worker.runner.outbox import Outbox
from stoker.services.worker.runner.resources import measure

MAX_REASON_CHARS = 500
FIGURES_EVERY_S = 1.0
USAGE_DELAY_S = 0.2
"""Loads and runs within this time share one report of what the process takes."""


class JobEmitter:
    """Where one run sends what it makes (services.worker.engines.base.Emitter)."""

    def __init__(self, job: str, outbox: Outbox) -> None:
        self._job = job
        self._outbox = outbox
        self._began = time.perf_counter()

    def text(
        self, text: str, tokens: int = 1, *, is_reasoning: bool = False, logprobs: tuple[TokenChance, ...] = ()
    ) -> None:
        if type(text) is not str:  # it would be joined with text of before, far from its job
            raise TypeError(f"an engine emits text, not {type(text).__name__}")
        self._outbox.put(Text(self._job, text, tokens, is_reasoning, logprobs))

    def calls(self, parts: tuple[CallPart, ...], tokens: int) -> None:
        self._outbox.put(Text(self._job, "", tokens, calls=parts))

    def step(self, step: int, steps: int) -> None:
        self._outbox.put(Step(self._job, step, steps))

    def preview(self, index: int, step: int, width: int, height: int, png: bytes) -> None:
        self._outbox.put(PreviewImage(self._job, index, step, width, height, png))

    def printed(self, output: OutputPart) -> None:
        self._outbox.put(Printed(self._job, output))

    def drawn(self, kept: int, read: int) -> None:
        self._outbox.put(Drawn(self._job, time.perf_counter() - self._began, kept, read))


class Runner:
    """Engines by name, the engine of each model, and the runs under way. `tasks` owns all but the runs.

    Every message is answered, whatever a library raises: a load with Loaded or LoadFailed, a run with its end.
    """

    def __init__(self, outbox: Outbox, tasks: TaskOwner) -> None:
        self._outbox = outbox
        self._tasks = tasks
        self._engines: dict[str, Engine] = {}
        self._engine_of: dict[str, Engine] = {}
        self._running: dict[str, Cancellation] = {}
        self._loading = asyncio.Lock()
        self._importing = asyncio.Lock()
        """One engine is imported at a time: libraries that import each other break in two threads."""
        self._runs: set[asyncio.Task[None]] = set()
        self._usage: asyncio.TimerHandle | None = None
        self._asked = AskedCalls(outbox.put)

    def take(self, message: object) -> None:
        match message:
            case Run():
                self._running[message.job] = Cancellation()
                self._start_run(self._run(message))
            case RunTogether():
                for run in message.runs:
                    self._running[run.job] = Cancellation()
                self._start_run(self._run_together(message.runs))
            case Describe():
                self._tasks.start_contained(self._describe, message)
            case Ping():
                self._outbox.put(Pong())
            case Pace():
                self._outbox.pace(message.window_s)
            case Cancel():
                if (cancellation := self._running.get(message.job)) is not None:
                    cancellation.set()
            case ChildEnded():
                self._asked.ended(message)
            case Load():
                self._tasks.start_contained(self._load, message)
            case Prepare():
                self._tasks.start_contained(self._prepare, message.engine)
            case Unpark():
                self._tasks.start_contained(self._unpark, message.model)
            case Unload():
                self._tasks.start_contained(self._unload, message)

    def cancel_runs(self) -> None:
        """Nobody waits for what runs."""
        for task in self._runs:
            task.cancel()

    async def close_engines(self) -> None:
        """Nothing is run any more."""
        for engine in self._engines.values():
            if isinstance(engine, Closes):
                await engine.close()

    def _start_run(self, work: Coroutine[Any, Any, None]) -> None:
        """A bare task, which raises nothing: an owner's costs 25 µs more, and every request comes here."""
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._runs.add(task)
        task.add_done_callback(self._runs.discard)

    async def _engine(self, name: str) -> Engine:
        """The engine, imported if it is not yet. Raises EngineError, and whatever its libraries raise."""
        async with self._importing:
            if name not in self._engines:
                self._engines[name] = await asyncio.to_thread(create, name)
            return self._engines[name]

    async def _prepare(self, name: str) -> None:
        with contextlib.suppress(EngineError, ImportError):  # the first load will say what is wrong
            await self._engine(name)

    async def _describe(self, message: Describe) -> None:
        files = ModelFiles(message.model, Path(message.path), message.options)
        try:
            engine = await self._engine(message.engine)
            if isinstance(engine, Describes):
                schema = await asyncio.to_thread(engine.describe, files)
                self._outbox.put(Described(message.model, schema))
        except Exception:  # the first load will say what is wrong
            return

    async def _load(self, message: Load) -> None:
        """load_s counts from when the engine is there: importing it is no part of this model's load."""
        model = message.model
        files = ModelFiles(
            model,
            Path(message.path),
            message.options,
            message.adapters,
            message.args,
            message.env,
            lambda percent: self._outbox.put(LoadProgress(model, percent)),
            message.memory_bytes,
            message.slots,
        )
        try:
            engine = await self._engine(message.engine)
            async with self._loading:
                began = time.perf_counter()
                if model not in self._engine_of:
                    await asyncio.to_thread(engine.load, files)
                    self._engine_of[model] = engine
                skipped = await self._attach(engine, message)
                self._report_loaded(model, engine, time.perf_counter() - began, skipped)
        except Exception as error:  # whatever a library raises, the agent must be told
            self._outbox.put(_load_failed(model, error))

    async def _attach(self, engine: Engine, message: Load) -> tuple[str, ...]:
        """LoRAs that do not fit, with the reason. Raises EngineError."""
        if not message.loras:
            return ()
        if not isinstance(engine, AttachesLoras):
            raise EngineError(f"engine {message.engine} has no LoRAs", "load_failed")
        return await asyncio.to_thread(engine.attach, message.model, message.loras)

    async def _unpark(self, model: str) -> None:
        try:
            async with self._loading:
                began = time.perf_counter()
                engine = self._engine_of.get(model)
                if not isinstance(engine, Parks):
                    raise EngineError(f"{model} is not parked here", "load_failed")
                await asyncio.to_thread(engine.unpark, model)
                self._report_loaded(model, self._engine_of[model], time.perf_counter() - began)
        except Exception as error:  # as above
            self._outbox.put(_load_failed(model, error))

    def _report_loaded(self, model: str, engine: Engine, load_s: float, skipped: tuple[str, ...] = ()) -> None:
        can_park = isinstance(engine, Parks)
        card = engine.card(model) if isinstance(engine, HasCard) else None
        self._outbox.put(Loaded(model, engine.memory_bytes(model), load_s, can_park, skipped, card))
        self._report_usage()

    def _report_usage(self) -> None:
        """Tell soon what this process takes."""
        if self._usage is None:
            self._usage = asyncio.get_running_loop().call_later(USAGE_DELAY_S, self._tell_usage)

    def _tell_usage(self) -> None:
        self._usage = None
        if self._tasks.is_open:
            self._tasks.start_contained(self._measure)

    async def _measure(self) -> None:
        figures: dict[str, float] = {}
        for engine in self._engines.values():
            if isinstance(engine, Measured):
                figures |= await engine.metrics()
        self._outbox.put(Usage(measure(figures)))
        if figures:  # they change by themselves
            await asyncio.sleep(FIGURES_EVERY_S)
            self._report_usage()

    async def _unload(self, message: Unload) -> None:
        model = message.model
        try:
            async with self._loading:
                engine = self._engine_of.get(model)
                if message.park and isinstance(engine, Parks):
                    await asyncio.to_thread(engine.park, model)
                elif engine is not None:
                    del self._engine_of[model]
                    await asyncio.to_thread(engine.unload, model)
        finally:
            self._outbox.put(Unloaded(model))
            self._report_usage()

    async def _run(self, message: Run) -> None:
        began = time.perf_counter()
        output: RunOutput | Exception
        try:
            engine = self._engine_for(message.model)
            task = self._task(message)
            output = await engine.run(message.model, task.request, task.emit, task.cancelled)
        except asyncio.CancelledError:  # nobody cancels a run's task: an engine let one of its own pass
            output = EngineError("the run was given up by its engine", "internal")
        except Exception as error:  # a bug in an engine fails this job alone
            output = error
        self._report_run(message.job, output, time.perf_counter() - began)

    async def _run_together(self, runs: tuple[Run, ...]) -> None:
        began = time.perf_counter()
        outputs: list[RunOutput | Exception]
        model = runs[0].model
        try:
            engine = self._engine_for(model)
            if not isinstance(engine, RunsTogether):
                raise EngineError("this engine runs one request at a time")
            outputs = await engine.run_together(model, [self._task(run) for run in runs])
        except Exception as error:  # as above
            outputs = [error] * len(runs)
        for run, output in zip(runs, outputs, strict=True):
            self._report_run(run.job, output, time.perf_counter() - began)

    def _engine_for(self, model: str) -> Engine:
        engine = self._engine_of.get(model)
        if engine is None:
            raise EngineError(f"{model} is not loaded", "internal")
        return engine

    def _task(self, run: Run) -> Task:
        request = Request(
            job=run.job_id or run.job,
            input=run.input,
            seed=run.seed,
            title=run.title,
            adapter=run.adapter,
            loras=run.loras,
            sent_text=run.sent_text,
            sent_tokens=run.sent_tokens,
            wants_events=run.wants_events,
            options=run.options,
            ask=partial(self._asked.ask, run.job),
            files=run.files,
            folder=run.folder,
        )
        return Task(request, JobEmitter(run.job, self._outbox), self._running[run.job])

    def _report_run(self, job: str, output: RunOutput | Exception, run_s: float) -> None:
        self._running.pop(job, None)
        self._asked.forget(job)
        match output:
            case TextOutput() | EmbeddingOutput() | ValueOutput():
                self._outbox.put(TextDone(job, output, run_s))
            case Images():
                self._outbox.put(ImagesDone(job, output.pictures, output.images, output.details, run_s))
            case Files():
                self._outbox.put(FilesDone(job, output.output, output.contents, run_s))
            case Stopped():
                self._outbox.put(RunCancelled(job))
            case EngineError():
                self._outbox.put(RunFailed(job, output.kind, _reason(output), output.code, output.field))
            case Exception():
                self._outbox.put(RunFailed(job, "internal", _reason(output)))
        self._report_usage()


def _load_failed(model: str, error: Exception) -> LoadFailed:
    return LoadFailed(model, _reason(error), isinstance(error, EngineError) and error.kind == "resource")


def _reason(error: BaseException) -> str:
    text = (str(error) or type(error).__name__).encode("utf-8", "backslashreplace").decode()
    return text if isinstance(error, EngineError) else f"{type(error).__name__}: {text}"[:MAX_REASON_CHARS]
