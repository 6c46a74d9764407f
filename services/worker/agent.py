"""The agent: a worker's face on NATS. It takes assignments, drives the runner, and reports.

An attempt's way: accepted → model hot (loader.py) → slot free → running in the runner → its terminal event
stored → `Finished`. Events to the gateway are published as they come; how the runner cuts text is how it
travels. A runner that dies takes its running jobs along: they are reported as lost, and tried elsewhere.
"""

import asyncio
import time
from collections.abc import Awaitable
from functools import cache

import msgspec
from prometheus_client import Histogram

from schemas.catalog import Spec, weights_key
from schemas.job_events import (
    Assigned,
    Downloading,
    ImageOutput,
    Loading,
    Output,
    Progress,
    Started,
    ValueOutput,
)
from schemas.jobs import ChatInput, CompletionInput, FunctionInput, LoadInput
from schemas.workers import (
    Accepted,
    Assignment,
    AssignmentAnswer,
    EngineCapability,
    JobCommand,
    Replay,
    ReplayRequest,
)
from services.bus.connection import Bus
from services.catalog import store
from services.process.logs import get_logger
from services.process.telemetry import histogram
from services.worker.heartbeats import Heartbeats, Identity
from services.worker.jobs.core import Attempt, WorkerCore
from services.worker.jobs.endings import Endings
from services.worker.jobs.inputs import ask_sent, brings_more, fetch
from services.worker.jobs.reports import Reports
from services.worker.models.cache import ModelCache
from services.worker.models.loader import Loader, LoadError
from services.worker.models.readiness import Readiness
from services.worker.runner.messages import (
    Cancel,
    Described,
    FilesDone,
    ImagesDone,
    Loaded,
    LoadFailed,
    LoadProgress,
    Message,
    PreviewImage,
    Run,
    RunCancelled,
    RunFailed,
    RunTogether,
    Step,
    Text,
    TextDone,
    Usage,
)
from services.worker.runner.process import RunnerProcess

log = get_logger("agent")

STOP_GRACE_S = 10.0
"""An engine that does not stop this long after it was told to is ended with its process."""
FIRST_RESTART_PAUSE_S, MAX_RESTART_PAUSE_S = 0.2, 10.0
"""Before a runner that died is started again; doubles while it keeps dying young."""
YOUNG_S = 30.0

RUN_TIME = histogram("stoker_run_seconds", "Time in the engine", "model")


@cache  # finding a label costs more than observing
def _run_time(model: str) -> Histogram:
    return RUN_TIME.labels(model)


class Agent:
    """One worker. `start`, then `heartbeats` for as long as it lives, then `drain`."""

    def __init__(
        self, bus: Bus, identity: Identity, cache: ModelCache, engines: dict[str, EngineCapability]
    ) -> None:
        self.bus = bus
        self.name = identity.name
        self.core = WorkerCore(engines)
        self.loader = Loader(cache, self._send, self._report_download, self._changed)
        self.heartbeats = Heartbeats(bus, identity, self.core, self.loader, self._runner_pid)
        self.reports = Reports(bus)
        self.endings = Endings(bus, identity.name, self._forget, self.own)
        self.ended = asyncio.Event()
        self.readiness = Readiness(identity, engines, self.loader, self._send, self.load)
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: RunnerProcess | None = None
        self._is_stopping = False
        self._limits: dict[str, asyncio.TimerHandle] = {}
        self._runner_started_at = 0.0
        self._restart_pause_s = FIRST_RESTART_PAUSE_S / 2

    def _changed(self) -> None:
        self.heartbeats.changed()

    def _runner_pid(self) -> int:
        return self._runner.pid if self._runner is not None else 0

    def _report_download(self, model: str, percent: float | None) -> None:
        for attempt in self.core.attempts.values():
            if attempt.model == model and attempt.phase == "waiting":
                self.reports.tell(attempt, Downloading(percent=percent))

    async def start(self) -> None:
        await self._start_runner()

    async def _start_runner(self) -> None:
        runner = RunnerProcess(self._take, self._runner_died)
        await runner.start()
        self._runner = runner
        self._runner_started_at = time.monotonic()

    def _send(self, message: Message) -> None:
        if self._runner is not None:
            self._runner.send(message)

    def own(self, work: Awaitable[None]) -> None:
        """Run work on the side; it ends with the agent."""
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Commands -------------------------------------------------------------------------------------

    def assign(self, assignment: Assignment, trace: str = "") -> AssignmentAnswer:
        """Take a job or refuse it; a taken one begins by itself. trace: the context that it came with."""
        pinned = self.readiness.pinned(assignment.job.model, assignment.spec)
        if pinned is not assignment.spec:
            assignment = msgspec.structs.replace(assignment, spec=pinned)
        answer = self.core.assign(assignment, time.time(), trace)
        attempt = self.core.attempts.get(assignment.job.id)
        if isinstance(answer, Accepted) and attempt is not None and not attempt.ready_at:
            attempt.ready_at = -1.0
            self._begin(attempt)
        return answer

    def _begin(self, attempt: Attempt) -> None:
        assignment = attempt.assignment
        job, spec = assignment.job, assignment.spec
        self.reports.tell(attempt, Assigned(worker=self.name, spec=spec.name, tier=assignment.tier))
        resumes = assignment.attempt > 1 and isinstance(job.input, ChatInput | CompletionInput)
        if self.loader.is_hot(attempt.model, spec) and not resumes and not brings_more(job.input):
            self._ready(attempt)
        else:
            self.own(self._prepare(attempt, resumes))

    async def _prepare(self, attempt: Attempt, resumes: bool) -> None:
        """Fetch what was sent already, what the job brings along, and the model."""
        assignment = attempt.assignment
        if resumes:
            attempt.sent_text = await ask_sent(self.bus, attempt)
            attempt.log.start_after(attempt.sent_text)
        try:
            if brings_more(attempt.input):
                await fetch(self.bus, self.loader, attempt)
            if not self.loader.is_hot(attempt.model, attempt.spec):
                self.reports.tell(attempt, Loading(tier=self.loader.tier(attempt.model, attempt.spec)))
                await self.loader.make_hot(attempt.model, attempt.spec, assignment.evict)
        except LoadError as error:
            if attempt.phase == "waiting":
                self.core.stop_running(attempt)
                self.endings.failed(attempt, "load_failed", str(error))
            return
        if attempt.phase == "waiting":
            self._ready(attempt)

    def _ready(self, attempt: Attempt) -> None:
        attempt.ready_at = time.time()
        self.loader.pin(attempt.model, attempt.spec)
        self.core.make_ready(attempt)
        self._run_next(attempt.lane)

    def _run_next(self, lane: str) -> None:
        while batch := self.core.next_to_run(lane):
            for attempt in batch:
                self._start(attempt)
            runs = [self._run(attempt) for attempt in batch if not isinstance(attempt.input, LoadInput)]
            if len(runs) > 1:
                self._send(RunTogether(tuple(runs)))
            elif runs:
                self._send(runs[0])
            else:  # a mode switch: the model is hot, and that was all
                self._done(batch[0].id, ValueOutput(), [], 0.0)

    def _start(self, attempt: Attempt) -> None:
        attempt.started_at = time.time()
        self.reports.tell(attempt, Started(worker=self.name))
        loop = asyncio.get_running_loop()
        limit_s = attempt.assignment.job.run_timeout_s
        self._limits[attempt.id] = loop.call_later(limit_s, self._stop, attempt, "timeout")

    def _run(self, attempt: Attempt) -> Run:
        job = attempt.assignment.job
        return Run(
            job=job.id,
            model=weights_key(job.model, attempt.spec),
            input=attempt.input,
            seed=job.seed,
            title=job.model,
            adapter=job.adapter,
            loras=self.loader.attached(job.model, attempt.spec) + attempt.loras,
            sent_text=attempt.sent_text,
            wants_events=attempt.wants_events,
        )

    def cancel(self, command: JobCommand) -> bool:
        """Stop a job; False when it is not here (in that attempt)."""
        attempt = self.core.attempts.get(command.job)
        if attempt is None or command.attempt not in (0, attempt.assignment.attempt):
            return False
        self._stop(attempt, "cancelled")
        return True

    def _stop(self, attempt: Attempt, reason: str) -> None:
        if attempt.phase == "waiting":
            was_pinned = attempt.ready_at > 0
            self.core.stop_running(attempt)
            if was_pinned:
                self._unpin(attempt)
            self.endings.stopped(attempt)
        elif attempt.phase == "running" and not attempt.stop_reason:
            attempt.stop_reason = reason
            self._send(Cancel(attempt.id))
            asyncio.get_running_loop().call_later(STOP_GRACE_S, self._end_stubborn, attempt)

    def _end_stubborn(self, attempt: Attempt) -> None:
        if attempt.phase == "running" and self._runner is not None:
            log.error("engine.does_not_stop", job=attempt.id, model=attempt.model)
            self._runner.kill()

    def replay(self, asked: ReplayRequest) -> Replay:
        """What a watcher has missed; from now on the job's events are published."""
        attempt = self.core.attempts.get(asked.job)
        if attempt is None:
            return Replay(known=False)
        attempt.wants_events = True
        events = attempt.log.replay(asked.term, asked.attempt, asked.seq, asked.chars)
        return Replay(known=True, events=tuple(events))

    def load(self, model: str, spec: Spec, evict: tuple[str, ...] = ()) -> None:
        """Begin to load a model, if it is not hot yet."""

        async def load() -> None:
            try:
                await self.loader.make_hot(model, spec, evict)
            except LoadError:
                pass  # logged, and in the heartbeat

        self.own(load())

    # What the runner says -------------------------------------------------------------------------

    def _take(self, message: object) -> None:
        match message:
            case Text():
                attempt = self.core.attempts.get(message.job)
                if attempt is not None and attempt.phase == "running":
                    self.reports.text(attempt, message)
            case TextDone():
                self._done(message.job, message.output, [], message.run_s)
            case Step():
                if (attempt := self.core.attempts.get(message.job)) is not None:
                    self.reports.tell(attempt, Progress(step=message.step, steps=message.steps))
            case PreviewImage():
                if (attempt := self.core.attempts.get(message.job)) is not None:
                    self.reports.preview(attempt, message)
            case ImagesDone():
                output = ImageOutput(message.pictures, message.details)
                self._done(message.job, output, list(message.images), message.run_s)
            case FilesDone():
                self._done(message.job, message.output, list(message.contents), message.run_s)
            case RunFailed():
                attempt = self.core.attempts.get(message.job)
                if attempt is not None and not self._tries_again(attempt, message):
                    self._leave_runner(attempt)
                    self.endings.failed(attempt, message.kind, message.reason)
            case RunCancelled():
                attempt = self.core.attempts.get(message.job)
                if attempt is not None:
                    self._leave_runner(attempt)
                    self.endings.stopped(attempt)
            case Loaded() | LoadFailed():
                self.loader.take(message)
            case LoadProgress():
                self.loader.progressed(message.model, message.percent)
            case Usage():
                self.heartbeats.resources = message.resources
            case Described():
                self.own(store.publish_schema(self.bus, message.model, message.schema))

    def _tries_again(self, attempt: Attempt, failure: RunFailed) -> bool:
        """The device ran out of memory for a run: once, free what is idle and run it again."""
        is_function = isinstance(attempt.input, FunctionInput)  # what it did besides must not be done twice
        if failure.kind != "resource" or is_function or attempt.has_retried or attempt.stop_reason:
            return False
        attempt.has_retried = True
        self.loader.evict_idle(attempt.model)
        self._send(self._run(attempt))
        return True

    def _leave_runner(self, attempt: Attempt) -> None:
        """The engine is done with the job: free its slot and start the next."""
        self._end_limit(attempt)
        self.core.stop_running(attempt)
        self._unpin(attempt)
        self._run_next(attempt.lane)

    def _end_limit(self, attempt: Attempt) -> None:
        if (limit := self._limits.pop(attempt.id, None)) is not None:
            limit.cancel()

    def _unpin(self, attempt: Attempt) -> None:
        self.loader.unpin(attempt.model, attempt.spec)
        for model, spec in attempt.companions:
            self.loader.unpin(model, spec)

    def _done(self, job: str, output: Output, images: list[bytes], run_s: float) -> None:
        attempt = self.core.attempts.get(job)
        if attempt is None:
            return
        self._leave_runner(attempt)
        _run_time(attempt.model).observe(run_s)
        self.endings.completed(attempt, output, images, run_s)

    def _forget(self, attempt: Attempt) -> None:
        self.core.forget(attempt)
        if self.core.is_draining and self.core.is_idle:
            self.ended.set()

    def _runner_died(self, status: int) -> None:
        log.error("runner.died", status=status, jobs=len(self.core.attempts))
        self._runner = None
        is_young = time.monotonic() - self._runner_started_at < YOUNG_S
        doubled = min(self._restart_pause_s * 2, MAX_RESTART_PAUSE_S)
        self._restart_pause_s = doubled if is_young else FIRST_RESTART_PAUSE_S
        self.loader.runner_died()
        for attempt in list(self.core.attempts.values()):
            if attempt.phase == "ending":
                continue
            if attempt.phase == "running":
                self._end_limit(attempt)
                self.core.stop_running(attempt)
                if attempt.stop_reason:
                    self.endings.stopped(attempt)
                else:
                    self.endings.lost(attempt)
            elif attempt.ready_at > 0:  # it waited for a slot of a model that is gone now
                self.core.stop_running(attempt)
                self.endings.lost(attempt)
        self.heartbeats.changed()
        if not self._is_stopping:
            self.own(self._restart_runner())

    async def _restart_runner(self) -> None:
        while not self._is_stopping:
            await asyncio.sleep(self._restart_pause_s)
            try:
                await self._start_runner()
            except (OSError, TimeoutError) as error:
                log.error("runner.not_started", error=str(error))
                continue
            log.info("runner.restarted")
            self.readiness.runner_restarted()
            self.heartbeats.changed()
            return

    # The end --------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new, finish what is here, say goodbye."""
        self.core.is_draining = True
        if not self.core.is_idle:
            self.heartbeats.beat()
            log.info("worker.draining", jobs=len(self.core.attempts))
            try:
                await asyncio.wait_for(self.ended.wait(), timeout_s)
            except TimeoutError:
                log.warning("worker.drain_cut_short", jobs=len(self.core.attempts))
        self._is_stopping = True
        self.heartbeats.beat(is_leaving=True)
        if self._runner is not None:
            await self._runner.stop()
        for task in self._tasks:
            task.cancel()
