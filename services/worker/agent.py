"""The agent: a worker on NATS. It takes commands, and composes what carries them out; no policy here.

An attempt's way: accepted (jobs/core.py) → prepared (jobs/preparing.py) → running in the runner (jobs/runs.py)
→ its terminal event stored (jobs/endings.py) → `Finished`. Models come and go in models/loader.py; the runners,
one for each family of engines, are kept running by runner/runners.py. Events are published as they come; how a
runner cuts text is how it travels.
"""

import asyncio
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import msgspec

from stoker.schemas.catalog import Model, Spec
from stoker.schemas.job_events import Assigned, Downloading, TextPace
from stoker.schemas.jobs import FunctionInput, StoredInput
from stoker.schemas.workers import (
    Accepted,
    Assignment,
    AssignmentAnswer,
    EngineCapability,
    Heartbeat,
    JobCommand,
    ModelSchema,
    Replay,
    ReplayRequest,
    Revocation,
    together,
)
from stoker.services.bus.connection import Bus
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import LimitExceeded, TaskOwner, limit
from stoker.services.process.tracing import in_trace
from stoker.services.worker.heartbeats import Heartbeats, Identity
from stoker.services.worker.jobs.attempt import Attempt
from stoker.services.worker.jobs.children import Children
from stoker.services.worker.jobs.core import WorkerCore
from stoker.services.worker.jobs.endings import Endings
from stoker.services.worker.jobs.preparing import Preparing
from stoker.services.worker.jobs.reports import Reports
from stoker.services.worker.jobs.runs import RunMessage, Runs
from stoker.services.worker.jobs.scratch import Scratch
from stoker.services.worker.limits import LIMIT_S, STOP_GRACE_S
from stoker.services.worker.models.cache import ModelCache
from stoker.services.worker.models.loader import Loader
from stoker.services.worker.models.read_ahead import ReadAhead
from stoker.services.worker.models.readiness import Readiness
from stoker.services.worker.runner.messages import (
    Described,
    Drawn,
    Loaded,
    LoadFailed,
    LoadProgress,
    Message,
    Unloaded,
)
from stoker.services.worker.runner.process import RunnerAway
from stoker.services.worker.runner.runners import Engines, Listener, Runners

log = get_logger("agent")

RUN_MESSAGES = get_args(RunMessage)
GATHER_S = 0.01
"""A job that may be drawn with others waits so long for those that were sent with it."""
ACCEPT_WITHIN_S = 0.02
"""A job that ends sooner is not said to be accepted: that it has ended says so too."""
CLOCK_AHEAD_S = 3600.0
"""How far ahead the clock of another machine may be: a start later than that is not believed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. runner_silent_s: as in RunnerSupervisor. stop_grace_s: as in Runs."""

    runner_silent_s: float = LIMIT_S
    stop_grace_s: float = STOP_GRACE_S


class Agent:
    """One worker, for as long as the block of `tasks` lasts: `start`, then `drain`."""

    def __init__(
        self,
        bus: Bus,
        identity: Identity,
        cache: ModelCache,
        engines: dict[str, EngineCapability],
        tasks: TaskOwner,
        limits: Limits = Limits(),
    ) -> None:
        self.bus = bus
        self.name = identity.name
        self.core = WorkerCore(engines)
        listener = Listener(
            self._take,
            self._runner_ready,
            self._runner_died,
            self._changed,
            lambda engines: self.loader.is_loading(engines),
        )
        self.runners = Runners(engines, tasks, listener, limits.runner_silent_s)
        self.loader = Loader(cache, self.runners, tasks, self._report_download, self._changed)
        self.heartbeats = Heartbeats(bus, identity, self.core, self.loader, self.runners)
        self.reports = Reports(bus)
        self.endings = Endings(bus, identity.name, self.core, tasks, self._attempt_left, self.reports.flush)
        children = Children(bus, self.core, self.runners, tasks, self._freed)
        self.runs = Runs(
            identity.name,
            self.core,
            self.loader,
            self.runners,
            self.reports,
            self.endings,
            children,
            limits.stop_grace_s,
        )
        self.scratch = Scratch()
        self.preparing = Preparing(bus, self.core, self.loader, self.reports, self.endings, self._ready)
        self.readiness = Readiness(identity, engines, self.loader, self._prepare_runner, self.loader.begin)
        self._read_ahead = ReadAhead()
        self.replaced = asyncio.Event()
        """Set when a newer process has this worker's name."""
        self._newer_life = (0.0, 0)
        """Start and last heartbeat of such a process. One heartbeat alone proves nothing."""
        self._idle = asyncio.Event()
        self._tasks = tasks

    def start(self) -> None:
        """Start the heartbeats, and the runner where there will be one only."""
        self.runners.start()
        self._tasks.start(self.heartbeats.run)

    def _freed(self, lane: str) -> None:
        """A slot of a lane is free, or somebody waits for one."""
        self.runs.start_next(lane)
        self.heartbeats.changed()

    def _changed(self) -> None:
        if self.loader.is_loading(self.core.engines):
            self._read_ahead.end()
        self.heartbeats.changed()

    # Commands -------------------------------------------------------------------------------------

    def assign(self, assignment: Assignment, trace: str = "") -> AssignmentAnswer | None:
        """Take an attempt or refuse it; a taken one begins by itself. trace: the context that it came with.

        None, and no answer, where another process of this name is meant.
        """
        if assignment.life not in (0.0, self.heartbeats.started_at):
            return None
        pinned = self.readiness.pinned(assignment.job.model, assignment.spec)
        if pinned is not assignment.spec:
            assignment = msgspec.structs.replace(assignment, spec=pinned)
        earlier = self.core.superseded(assignment)
        if earlier is not None:
            self.runs.stop(earlier, "revoked")
        known = self.core.current(assignment.job.id)
        answer = self.core.assign(assignment, time.time(), trace)
        attempt = self.core.current(assignment.job.id)
        if isinstance(answer, Accepted) and attempt is not None and attempt is not known:
            with in_trace(trace):
                self._begin(attempt)
        return answer

    def accept(self, job: str, tell: Callable[[], None]) -> None:
        """Say that a job is taken; not where it ends at once."""
        attempt = self.core.current(job)
        if attempt is not None:
            attempt.when_gone.append(asyncio.get_running_loop().call_later(ACCEPT_WITHIN_S, tell).cancel)

    def _begin(self, attempt: Attempt) -> None:
        assignment = attempt.assignment
        if isinstance(attempt.input, FunctionInput | StoredInput):
            attempt.folder = self.scratch.folder()
            attempt.when_gone.append(partial(self._remove, attempt.folder))
        told = Assigned(worker=self.name, spec=assignment.spec.name, tier=assignment.tier)
        self.reports.tell(attempt, told)
        if self.preparing.is_ready_at_once(attempt):
            self.preparing.make_ready(attempt)
        else:
            self._tasks.start(self.preparing.prepare, attempt)

    def _remove(self, folder: str) -> None:
        """Remove an attempt's folder, where it was made."""
        if Path(folder).exists() and self._tasks.is_open:
            self._tasks.start_contained(asyncio.to_thread, partial(shutil.rmtree, folder, ignore_errors=True))

    def _ready(self, attempt: Attempt) -> None:
        if together(attempt.assignment) > 1:  # those that were sent with it come a moment later
            timer = asyncio.get_running_loop().call_later(GATHER_S, self.runs.start_next, attempt.lane)
            attempt.hold(timer.cancel)
        else:
            self.runs.start_next(attempt.lane)

    def cancel(self, command: JobCommand) -> bool:
        """End a job as cancelled, as somebody asked; False when it is not here (in that attempt)."""
        attempt = self.core.current(command.job)
        if attempt is None or command.attempt not in (0, attempt.assignment.attempt):
            return False
        return self.runs.stop(attempt, "cancelled")

    def revoke(self, command: Revocation) -> bool:
        """Drop an attempt without a word of its job; False when it is not here."""
        attempt = self.core.current(command.job)
        if attempt is None or attempt.order != (command.term, command.attempt):
            return False
        is_here = self.runs.stop(attempt, "revoked")
        if attempt.phase == "gone":
            self.endings.dropped(attempt)
        self.heartbeats.changed()
        return is_here

    def replay(self, asked: ReplayRequest) -> Replay:
        """What a watcher has missed; from now on the job's events are published. Or what it has printed."""
        attempt = self.core.current(asked.job)
        if attempt is None:
            return Replay(known=False)
        if asked.wants_log:
            return Replay(known=True, log=attempt.log.log())
        self.reports.flush(attempt)
        attempt.wants_events, attempt.batches_text = True, False
        events = attempt.log.replay(asked.term, asked.attempt, asked.seq, asked.chars)
        return Replay(known=True, events=tuple(events))

    def load(self, model: str, spec: Spec, evict: tuple[str, ...] = ()) -> None:
        """Begin to load a model, if it is not hot yet."""
        self.loader.begin(model, spec, evict)

    def read(self, model: str, spec: Spec) -> None:
        """Read weights that are to be loaded later, if they are on this machine's disk and nowhere nearer."""
        if self.loader.tier(model, spec) == "warm" and spec.url:
            self._read_ahead.begin(spec.url)

    def model_changed(self, name: str, model: Model | None) -> None:
        self.readiness.model_changed(name, model)
        self.heartbeats.changed()

    def heartbeat_seen(self, heartbeat: Heartbeat) -> None:
        """A heartbeat under this worker's name: its own, or that of another process."""
        life, seq = self._newer_life
        is_newer = self.heartbeats.started_at < heartbeat.started_at < time.time() + CLOCK_AHEAD_S
        if not is_newer or self.replaced.is_set():
            return
        self._newer_life = (heartbeat.started_at, heartbeat.seq)
        if heartbeat.started_at == life and heartbeat.seq > seq:
            log.error("worker.replaced", name=self.name, remedy="give each worker a --name of its own")
            self.replaced.set()

    def paced(self, pace: TextPace) -> None:
        """A gateway says how long text may wait for more."""
        self.reports.pace(pace)
        readers = {one.assignment.job.gateway for one in self.core.listed() if one.wants_events}
        self.runners.pace(self.reports.window_s(readers))

    # The runners ----------------------------------------------------------------------------------

    def _take(self, message: Any) -> None:
        if isinstance(message, RUN_MESSAGES):
            self.runs.take(message)
            if isinstance(message, Drawn):  # a slot is free long before anything has ended
                self.heartbeats.changed()
            return
        match message:
            case Loaded() | LoadFailed():
                self.loader.answers.take(message)
            case LoadProgress():
                self.loader.progressed(message.model, message.percent)
            case Unloaded():
                self.loader.answers.unloaded(message.model)
            case Described():
                described = ModelSchema(message.model, message.schema)
                self.bus.tell(self.bus.subjects.described(self.name), described)

    def _prepare_runner(self, engine: str, message: Message) -> None:
        """What a runner should do ahead of need; one that is being started is told when it is ready."""
        try:
            self.runners.send(engine, message)
        except RunnerAway:
            pass  # `runner_ready` tells it everything

    def _runner_ready(self, engines: Engines) -> None:
        self.readiness.runner_ready(engines)
        self.heartbeats.changed()

    def _runner_died(self, engines: Engines, status: int, was_killed: bool) -> None:
        self.runs.runner_died(engines, status, was_killed=was_killed)
        self.loader.runner_died(engines, was_killed=was_killed)
        self.heartbeats.changed()

    def _report_download(self, model: str, percent: float | None) -> None:
        for attempt in self.core.listed():
            if attempt.model == model and attempt.phase == "preparing":
                self.reports.tell(attempt, Downloading(percent=percent))

    # The end --------------------------------------------------------------------------------------

    def _attempt_left(self) -> None:
        if self.core.is_idle:
            self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new, finish what is here, say goodbye."""
        self.core.is_draining = True
        self._read_ahead.end()
        if not self.core.is_idle:
            self._idle.clear()
            self.heartbeats.beat()
            log.info("worker.draining", jobs=len(self.core.attempts()))
            try:
                with limit("the last jobs", timeout_s):
                    await self._idle.wait()
            except LimitExceeded:
                log.warning("worker.drain_cut_short", jobs=len(self.core.attempts()))
        self.heartbeats.beat(is_leaving=True)
