"""The agent: a worker's face on NATS. It takes assignments, drives the runner, and reports.

An attempt's way: accepted → model hot (loader.py) → slot free → running in the runner → its terminal event
stored → `Finished`. Events to the gateway are published as they come; how the runner cuts text is how it
travels. A runner that dies takes its running jobs along: they are reported as lost, and tried elsewhere.
"""

import asyncio
import os
import socket
import time
from collections.abc import Awaitable

import psutil

from schemas import wire
from schemas.catalog import Model, Spec
from schemas.job_events import (
    Assigned,
    Cancelled,
    Completed,
    Downloading,
    Ending,
    Failed,
    FailureKind,
    ImageOutput,
    Loading,
    Output,
    Picture,
    Preview,
    Progress,
    SmallEvent,
    Started,
    Terminal,
    Timings,
)
from schemas.jobs import ChatInput, CompletionInput, work_units
from schemas.workers import (
    HEARTBEAT_INTERVAL_S,
    Accepted,
    Assignment,
    AssignmentAnswer,
    EngineCapability,
    Finished,
    Heartbeat,
    JobCommand,
    Outcome,
    Replay,
    ReplayRequest,
    ResidentModel,
    RunningJob,
    SentText,
)
from services.bus.blobs import put_large
from services.bus.connection import Bus, BusError
from services.bus.logs import get_logger
from services.bus.results import publish_terminal
from services.bus.telemetry import counter, histogram
from services.worker.cache import ModelCache
from services.worker.core import Attempt, WorkerCore
from services.worker.loader import Loader, LoadError
from services.worker.runner_messages import (
    Cancel,
    ImagesDone,
    Loaded,
    LoadFailed,
    Message,
    Prepare,
    PreviewImage,
    Run,
    RunCancelled,
    RunFailed,
    Step,
    Text,
    TextDone,
    Unload,
)
from services.worker.runner_process import RunnerProcess

log = get_logger("agent")

CHANGE_DELAY_S = 0.02
"""Changes within this time share one heartbeat."""
RESUME_TIMEOUT_S = 1.0
STOP_GRACE_S = 10.0
"""An engine that does not stop this long after it was told to is ended with its process."""
RESTART_DELAY_S = 0.2

RUNS = counter("stoker_runs_total", "Attempts by how they ended", "model", "outcome")
RUN_TIME = histogram("stoker_run_seconds", "Time in the engine", "model")


class Agent:
    """One worker. `start`, then `heartbeats` for as long as it lives, then `drain`."""

    def __init__(
        self,
        bus: Bus,
        name: str,
        profile: str,
        spec: str,
        device: str,
        cache: ModelCache,
        engines: dict[str, EngineCapability],
    ) -> None:
        self.bus = bus
        self.name = name
        self.core = WorkerCore(engines)
        self.loader = Loader(cache, self._send, self._report_download, self._changed)
        self._prepared: set[str] = set()
        self._profile, self._spec, self._device = profile, spec, device
        self._started_at = time.time()
        self._heartbeat_seq = 0
        self._change = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: RunnerProcess | None = None
        self._is_stopping = False
        self.ended = asyncio.Event()

    async def start(self) -> None:
        await self._start_runner()

    async def _start_runner(self) -> None:
        runner = RunnerProcess(self._take, self._runner_died)
        await runner.start()
        self._runner = runner

    def model_changed(self, _name: str, model: Model | None) -> None:
        """The catalog has changed: look for the weights, and get ready for the engine."""
        if model is not None:
            self.loader.note_disk(model)
            self._prepared |= {spec.engine for spec in model.specs if spec.engine in self.core.engines}
            self._prepare_engines()
        self._changed()

    def _prepare_engines(self) -> None:
        for engine in sorted(self._prepared, reverse=True):  # the light ones are later in the alphabet
            self._send(Prepare(engine))

    def _send(self, message: Message) -> None:
        if self._runner is not None:
            self._runner.send(message)

    def own(self, work: Awaitable[None]) -> None:
        """Run work on the side; it ends with the agent."""
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Commands -------------------------------------------------------------------------------------

    def assign(self, assignment: Assignment) -> AssignmentAnswer:
        """Take a job or refuse it; a taken one begins by itself."""
        answer = self.core.assign(assignment, time.time())
        attempt = self.core.attempts.get(assignment.job.id)
        if isinstance(answer, Accepted) and attempt is not None and not attempt.ready_at:
            attempt.ready_at = -1.0
            self._begin(attempt)
        return answer

    def _begin(self, attempt: Attempt) -> None:
        assignment = attempt.assignment
        job, spec = assignment.job, assignment.spec
        self._tell(attempt, Assigned(worker=self.name, spec=spec.name, tier=assignment.tier))
        resumes = assignment.attempt > 1 and isinstance(job.input, ChatInput | CompletionInput)
        if self.loader.is_hot(attempt.model, spec) and not resumes:
            self._ready(attempt)
        else:
            self.own(self._prepare(attempt, resumes))

    async def _prepare(self, attempt: Attempt, resumes: bool) -> None:
        """Fetch what was sent already, and the model."""
        assignment = attempt.assignment
        if resumes:
            attempt.sent_text = await self._ask_sent(attempt)
            attempt.log.start_after(attempt.sent_text)
        if not self.loader.is_hot(attempt.model, assignment.spec):
            tier = self.loader.cache.tier(attempt.model, assignment.spec.name)
            self._tell(attempt, Loading(tier=tier))
            try:
                await self.loader.make_hot(attempt.model, assignment.spec, assignment.evict)
            except LoadError as error:
                if attempt.phase == "waiting":
                    self.core.stop_running(attempt)
                    await self._end_failed(attempt, "load_failed", str(error))
                return
        if attempt.phase == "waiting":
            self._ready(attempt)

    async def _ask_sent(self, attempt: Attempt) -> str:
        job = attempt.assignment.job
        try:
            subject = self.bus.subjects.gateway(job.gateway, "sent")
            sent = await self.bus.ask(subject, JobCommand(job.id), SentText, RESUME_TIMEOUT_S)
        except (BusError, wire.UnreadableMessage):
            return ""  # that gateway is gone: the same seed makes the same text from the beginning
        text: str = sent.text
        return text

    def _ready(self, attempt: Attempt) -> None:
        attempt.ready_at = time.time()
        self.loader.cache.pin(attempt.model, attempt.ready_at)
        self.core.make_ready(attempt)
        self._run_next(attempt.lane)

    def _run_next(self, lane: str) -> None:
        while (attempt := self.core.next_to_run(lane)) is not None:
            job = attempt.assignment.job
            attempt.started_at = time.time()
            self._tell(attempt, Started(worker=self.name))
            loop = asyncio.get_running_loop()
            attempt.timer = loop.call_later(job.run_timeout_s, self._stop, attempt, "timeout")
            self._send(
                Run(
                    job=job.id,
                    model=job.model,
                    input=job.input,
                    seed=job.seed,
                    adapter=job.adapter,
                    sent_text=attempt.sent_text,
                    wants_events=attempt.wants_events,
                )
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
            self.own(self._store(attempt, self._cancelled(attempt), "cancelled"))
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

    def load(self, model: str, spec: Spec, evict: tuple[str, ...]) -> None:
        async def load() -> None:
            try:
                await self.loader.make_hot(model, spec, evict)
            except LoadError:
                pass  # logged, and in the heartbeat

        self.own(load())

    def unload(self, model: str) -> str:
        """Drop a model from memory; the reason when that cannot be."""
        entry = self.loader.cache.entries.get(model)
        if entry is None or entry.tier not in ("hot", "parked"):
            return f"{model} is not loaded"
        if entry.pins:
            return f"{model} is in use"
        self.loader.cache.dropped(model)
        self._send(Unload(model, park=False))
        self._changed()
        return ""

    # What the runner says -------------------------------------------------------------------------

    def _take(self, message: object) -> None:
        match message:
            case Text():
                attempt = self.core.attempts.get(message.job)
                if attempt is not None and attempt.phase == "running":
                    delta = attempt.log.delta(message.text, message.tokens)
                    if attempt.wants_events:
                        self._publish(attempt, wire.encode(delta))
            case TextDone():
                self._done(message.job, message.output, [], message.run_s)
            case Step():
                if (attempt := self.core.attempts.get(message.job)) is not None:
                    self._tell(attempt, Progress(step=message.step, steps=message.steps))
            case PreviewImage():
                self._preview(message)
            case ImagesDone():
                output = ImageOutput(message.pictures)
                self._done(message.job, output, list(message.images), message.run_s)
            case RunFailed():
                attempt = self.core.attempts.get(message.job)
                if attempt is not None:
                    self._leave_runner(attempt)
                    self.own(self._end_failed(attempt, message.kind, message.reason))
            case RunCancelled():
                attempt = self.core.attempts.get(message.job)
                if attempt is not None:
                    self._leave_runner(attempt)
                    self.own(self._end_stopped(attempt))
            case Loaded() | LoadFailed():
                self.loader.take(message)

    def _leave_runner(self, attempt: Attempt) -> None:
        """The engine is done with the job: free its slot and start the next."""
        if attempt.timer is not None:
            attempt.timer.cancel()
        self.core.stop_running(attempt)
        self._unpin(attempt)
        self._run_next(attempt.lane)

    def _unpin(self, attempt: Attempt) -> None:
        self.loader.cache.unpin(attempt.model, time.time())
        self.loader.room_made()

    def _done(self, job: str, output: Output, images: list[bytes], run_s: float) -> None:
        attempt = self.core.attempts.get(job)
        if attempt is None:
            return
        self._leave_runner(attempt)
        RUN_TIME.labels(attempt.model).observe(run_s)
        self.own(self._complete(attempt, output, images, run_s))

    async def _complete(self, attempt: Attempt, output: Output, images: list[bytes], run_s: float) -> None:
        if isinstance(output, ImageOutput):
            try:
                names, images = await put_large(self.bus, attempt.id, images)
            except (BusError, TimeoutError) as error:
                await self._end_failed(attempt, "internal", f"the pictures were not stored: {error}")
                return
            output = ImageOutput(
                tuple(
                    Picture(
                        seed=picture.seed,
                        width=picture.width,
                        height=picture.height,
                        image_bytes=picture.image_bytes,
                        blob=name,
                    )
                    for picture, name in zip(output.pictures, names, strict=True)
                )
            )
        event = Completed(**self._ending(attempt, run_s), output=output)
        await self._store(attempt, event, "completed", images, run_s)

    async def _end_failed(self, attempt: Attempt, kind: FailureKind, reason: str) -> None:
        event = Failed(**self._ending(attempt), kind=kind, message=reason)
        await self._store(attempt, event, "failed")

    async def _end_stopped(self, attempt: Attempt) -> None:
        if attempt.stop_reason == "timeout":
            limit = attempt.assignment.job.run_timeout_s
            await self._end_failed(attempt, "timeout", f"it ran longer than {limit:g} s")
        else:
            await self._store(attempt, self._cancelled(attempt), "cancelled")

    def _cancelled(self, attempt: Attempt) -> Cancelled:
        return Cancelled(**self._ending(attempt))

    def _ending(self, attempt: Attempt, run_s: float = 0.0) -> Ending:
        job = attempt.assignment.job
        load_s = max(attempt.ready_at - attempt.accepted_at, 0.0) if attempt.ready_at > 0 else 0.0
        return {
            "term": attempt.log.term,
            "attempt": attempt.log.attempt,
            "seq": attempt.log.next_seq(),
            "job": job.id,
            "model": job.model,
            "created_at": job.created_at,
            "finished_at": time.time(),
            "timings": Timings(
                queued_s=round(attempt.assignment.queued_s, 4),
                load_s=round(load_s, 4),
                run_s=round(run_s, 4),
            ),
            "worker": self.name,
            "spec": attempt.assignment.spec.name,
            "fingerprint": job.fingerprint,
            "webhook": job.webhook,
            "tenant": job.tenant,
            "history": attempt.log.history(),
        }

    async def _store(
        self,
        attempt: Attempt,
        event: Terminal,
        outcome: Outcome,
        images: list[bytes] | None = None,
        run_s: float = 0.0,
    ) -> None:
        """Store the terminal event, then say that the job is finished."""
        job = attempt.assignment.job
        while True:
            try:
                await publish_terminal(self.bus, job.gateway, event, images)
                break
            except BusError as error:
                log.warning("result.not_stored", job=job.id, error=str(error))
                await asyncio.sleep(0.5)
        RUNS.labels(job.model, outcome).inc()
        self.core.forget(attempt)
        finished = Finished(
            job=job.id,
            model=job.model,
            attempt=attempt.assignment.attempt,
            outcome=outcome,
            run_s=round(run_s, 4),
            units=work_units(job.input),
        )
        self.bus.tell(self.bus.subjects.finished(self.name), finished)
        if self.core.is_draining and self.core.is_idle:
            self.ended.set()

    def _runner_died(self, status: int) -> None:
        log.error("runner.died", status=status, jobs=len(self.core.attempts))
        self._runner = None
        self.loader.runner_died()
        for attempt in list(self.core.attempts.values()):
            if attempt.phase == "ending":
                continue
            if attempt.phase == "running":
                if attempt.timer is not None:
                    attempt.timer.cancel()
                self.core.stop_running(attempt)
                if attempt.stop_reason:
                    self.own(self._end_stopped(attempt))
                else:
                    self.own(self._give_up(attempt))
            elif attempt.ready_at > 0:  # it waited for a slot of a model that is gone now
                self.core.stop_running(attempt)
                self.own(self._give_up(attempt))
        self._changed()
        if not self._is_stopping:
            self.own(self._restart_runner())

    async def _give_up(self, attempt: Attempt) -> None:
        job = attempt.assignment.job
        self.core.forget(attempt)
        RUNS.labels(job.model, "lost").inc()
        lost = Finished(job.id, job.model, attempt.assignment.attempt, "lost")
        self.bus.tell(self.bus.subjects.finished(self.name), lost)

    async def _restart_runner(self) -> None:
        while not self._is_stopping:
            await asyncio.sleep(RESTART_DELAY_S)
            try:
                await self._start_runner()
            except (OSError, TimeoutError) as error:
                log.error("runner.not_started", error=str(error))
                continue
            log.info("runner.restarted")
            self._prepare_engines()
            self._changed()
            return

    # Events to the gateway ------------------------------------------------------------------------

    def _tell(self, attempt: Attempt, event: SmallEvent) -> None:
        """Number a small event, keep it for replays, and publish it to who watches."""
        log_ = attempt.log
        fields = {name: getattr(event, name) for name in event.__struct_fields__}
        numbers = {"term": log_.term, "attempt": log_.attempt, "seq": log_.next_seq()}
        numbered = type(event)(**(fields | numbers))
        log_.note(numbered)
        if attempt.wants_events:
            self._publish(attempt, wire.encode(numbered))

    def _preview(self, message: PreviewImage) -> None:
        attempt = self.core.attempts.get(message.job)
        if attempt is None or not attempt.wants_events:
            return
        event = Preview(
            term=attempt.log.term,
            attempt=attempt.log.attempt,
            seq=attempt.log.next_seq(),
            index=message.index,
            step=message.step,
            width=message.width,
            height=message.height,
            image_bytes=len(message.png),
        )
        payload, headers = wire.pack(event, [message.png])
        self._publish(attempt, payload, headers)

    def _publish(self, attempt: Attempt, payload: bytes, headers: dict[str, str] | None = None) -> None:
        job = attempt.assignment.job
        self.bus.post(self.bus.subjects.out(job.gateway, job.id), payload, headers=headers)

    def _report_download(self, model: str, percent: float | None) -> None:
        for attempt in self.core.attempts.values():
            if attempt.model == model and attempt.phase == "waiting":
                self._tell(attempt, Downloading(percent=percent))

    # Heartbeats -----------------------------------------------------------------------------------

    def _changed(self) -> None:
        self._change.set()

    def solicited(self) -> None:
        self._change.set()

    async def heartbeats(self) -> None:
        """Publish the worker's state every second and on every change."""
        while True:
            await self._beat()
            try:
                await asyncio.wait_for(self._change.wait(), HEARTBEAT_INTERVAL_S)
                await asyncio.sleep(CHANGE_DELAY_S)
            except TimeoutError:
                pass
            self._change.clear()

    async def _beat(self, *, is_leaving: bool = False) -> None:
        self._heartbeat_seq += 1
        beat = self._heartbeat(is_leaving)
        self.bus.tell(self.bus.subjects.heartbeat(self.name), beat)

    def _heartbeat(self, is_leaving: bool) -> Heartbeat:
        cache = self.loader.cache
        entries = list(cache.entries.values())

        def in_tier(*tiers: str) -> tuple[str, ...]:
            return tuple(entry.model for entry in entries if entry.tier in tiers)

        return Heartbeat(
            worker=self.name,
            started_at=self._started_at,
            seq=self._heartbeat_seq,
            spec=self._spec,
            profile=self._profile,
            device=self._device,
            host=socket.gethostname(),
            engines=self.core.engines if self._runner is not None else {},
            memory_total_bytes=cache.memory_bytes,
            memory_used_bytes=cache.used_bytes,
            ram_total_bytes=cache.ram_bytes,
            models=tuple(
                ResidentModel(
                    model=entry.model,
                    spec=entry.spec,
                    engine=entry.engine,
                    tier=self.loader.tier_of(entry),
                    memory_bytes=entry.memory_bytes,
                    load_s=entry.load_s,
                    loaded_from=entry.loaded_from,
                )
                for entry in entries
            ),
            vram_models=in_tier("hot"),
            ram_models=in_tier("parked"),
            disk_models=in_tier("warm", "parked", "hot"),
            running=tuple(
                RunningJob(a.id, a.model, a.assignment.spec.name, a.assignment.attempt)
                for a in self.core.attempts.values()
            ),
            is_draining=self.core.is_draining,
            is_leaving=is_leaving,
            failed_loads=self.loader.failures(),
            rss_bytes=self._rss(),
        )

    def _rss(self) -> int:
        total = psutil.Process(os.getpid()).memory_info().rss
        if self._runner is not None:
            try:
                total += psutil.Process(self._runner.pid).memory_info().rss
            except psutil.NoSuchProcess:
                pass
        return total

    # The end --------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new, finish what is here, say goodbye."""
        self.core.is_draining = True
        if not self.core.is_idle:
            await self._beat()
            log.info("worker.draining", jobs=len(self.core.attempts))
            try:
                await asyncio.wait_for(self.ended.wait(), timeout_s)
            except TimeoutError:
                log.warning("worker.drain_cut_short", jobs=len(self.core.attempts))
        self._is_stopping = True
        await self._beat(is_leaving=True)
        if self._runner is not None:
            await self._runner.stop()
        for task in self._tasks:
            task.cancel()
