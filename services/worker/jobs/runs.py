"""Attempts in their runners: started when a slot is free, stopped when told to, ended as the runner says.

A run has a limit (`run_timeout_s`). One that was told to stop has a limit too: an engine that goes on is ended
with its process, after as long as steps of these weights have been seen to take (steps.py). But where something
else lives in that process, another job or other weights, a client that leaves in the middle of one long step
must not cost them that: the step may go on for as long as its run may take. How long steps were says nothing
then: that of a larger picture is longer.

A process holds one family of engines: what lives in those of others is not concerned.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from functools import cache, partial
from pathlib import Path

from prometheus_client import Histogram

from stoker.schemas.catalog import RUN_OPTIONS, weights_key
from stoker.schemas.job_events import ImageOutput, Output, Progress, Started, ValueOutput
from stoker.schemas.jobs import FunctionInput, LoadInput
from stoker.services.process.logs import get_logger
from stoker.services.process.telemetry import counter, histogram
from stoker.services.worker.jobs.attempt import IN_RUNNER, Attempt, StopReason
from stoker.services.worker.jobs.children import Children
from stoker.services.worker.jobs.core import WorkerCore
from stoker.services.worker.jobs.endings import Endings
from stoker.services.worker.jobs.reports import Reports
from stoker.services.worker.jobs.steps import StepTimes
from stoker.services.worker.limits import STOP_GRACE_S
from stoker.services.worker.models.loader import Loader
from stoker.services.worker.runner.messages import (
    Cancel,
    ChildAsked,
    ChildLeft,
    Drawn,
    FilesDone,
    ImagesDone,
    PreviewImage,
    Printed,
    Run,
    RunCancelled,
    RunFailed,
    RunTogether,
    Step,
    Text,
    TextDone,
)
from stoker.services.worker.runner.process import RunnerAway
from stoker.services.worker.runner.runners import Runners

log = get_logger("attempts")
MAX_RUNS = 2
"""A run that the device had no memory for is tried once more, after what is idle was evicted."""

RUN_TIME = histogram("stoker_run_seconds", "Time in the engine", "model")
PROMPTS = counter(
    "stoker_prompts_total",
    "Prompts of pictures: read by text encoders, or kept from before",
    "was",
    known=("kept", "read"),
)

RunMessage = ( Text | TextDone | Step | Drawn | Printed | ChildAsked | ChildLeft | PreviewImage | ImagesDone
| FilesDone | RunFailed | RunCancelled )  # fmt: skip


@cache  # finding a label costs more than observing
def _run_time(model: str) -> Histogram:
    return RUN_TIME.labels(model)


class Runs:
    """Starts, stops and ends runs. `worker`: the name that events carry. stop_grace_s: see STOP_GRACE_S."""

    def __init__(
        self,
        worker: str,
        core: WorkerCore,
        loader: Loader,
        runners: Runners,
        reports: Reports,
        endings: Endings,
        children: Children,
        stop_grace_s: float = STOP_GRACE_S,
    ) -> None:
        self.children = children
        self._stop_grace_s = stop_grace_s
        self._worker = worker
        self._core = core
        self._loader = loader
        self._runners = runners
        self._steps = StepTimes()
        self._reports = reports
        self._endings = endings

    def start_next(self, lane: str) -> None:
        """Give the runner what a free slot of the lane takes; those first whose calls have ended."""
        while (resumed := self._core.next_to_resume(lane)) is not None:
            self.children.resumed(resumed)
        while batch := self._core.next_to_run(lane):
            for attempt in batch:
                self._begin(attempt)
            runs = [self._run(attempt) for attempt in batch if not isinstance(attempt.input, LoadInput)]
            if not runs:  # a mode switch: the model is hot, and that was all
                self._done(batch[0], ValueOutput(), [], 0.0)
                continue
            try:
                message = RunTogether(tuple(runs)) if len(runs) > 1 else runs[0]
                self._runners.send(batch[0].spec.engine, message)
            except RunnerAway as error:
                for attempt in batch:
                    self._endings.lost(attempt, str(error), was_killed=True)  # it never ran
            except (OverflowError, ValueError) as error:  # what a message cannot hold, as an integer of 70 bits
                reason = f"the input cannot be sent to its engine: {error}"
                for attempt in batch:
                    self._core.move(attempt, "ending")  # its slot is free for the next of the lane
                    self._endings.failed(attempt, "validation", reason)

    def _begin(self, attempt: Attempt) -> None:
        attempt.started_at = time.time()
        attempt.stepped_at = time.monotonic()
        attempt.runs += 1
        self._reports.tell(attempt, Started(worker=self._worker))
        limit_s = attempt.assignment.job.run_timeout_s
        timer = asyncio.get_running_loop().call_later(limit_s, self.stop, attempt, "timeout")
        attempt.hold(timer.cancel)

    def _run(self, attempt: Attempt) -> Run:
        job = attempt.assignment.job
        return Run(
            job=attempt.key,
            job_id=job.id,
            model=_weights(attempt),
            input=attempt.input,
            seed=job.seed,
            title=job.model,
            adapter=job.adapter,
            loras=self._loader.attached(job.model, attempt.spec) + attempt.loras,
            sent_text=attempt.sent.text,
            sent_tokens=attempt.sent.tokens,
            wants_events=attempt.wants_events,
            options={name: value for name, value in attempt.spec.options.items() if name in RUN_OPTIONS},
            files=attempt.files,
            folder=attempt.folder,
        )

    def stop(self, attempt: Attempt, reason: StopReason) -> bool:
        """Tell an attempt to stop; False when it has ended already. A revoked one says nothing of its job."""
        if attempt.phase in ("ending", "gone"):
            return False
        if self._core.stop(attempt, reason):
            self._end_stubborn_after(self._grace_s(attempt), attempt)
            try:
                self._runners.send(attempt.spec.engine, Cancel(attempt.key))
            except RunnerAway:
                pass  # it died with its runner, which is being noticed
        elif attempt.phase == "ending":
            self._endings.stopped(attempt)
        return True

    def _grace_s(self, attempt: Attempt) -> float:
        """How long the engine of an attempt may take to stop, if nothing else lives in its process."""
        return max(self._stop_grace_s, min(self._steps.grace_s(_weights(attempt)), self._left_s(attempt)))

    def _left_s(self, attempt: Attempt) -> float:
        """How much longer an attempt may run whatever it was told."""
        limit_s = attempt.assignment.job.run_timeout_s + self._stop_grace_s
        return attempt.started_at + limit_s - time.time()

    def _end_stubborn_after(self, seconds: float, attempt: Attempt) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, self._end_stubborn, attempt)
        attempt.hold(timer.cancel)

    def _end_stubborn(self, attempt: Attempt) -> None:
        """An engine goes on though it was told to stop."""
        left_s = self._left_s(attempt)
        if left_s > 0 and self._lives_beside(attempt):
            log.warning("engine.stops_late", job=attempt.job, model=attempt.model, left_s=round(left_s, 1))
            self._end_stubborn_after(min(left_s, self._stop_grace_s), attempt)
            return
        log.error("engine.does_not_stop", job=attempt.job, model=attempt.model)
        self._runners.kill(attempt.spec.engine)

    def _lives_beside(self, attempt: Attempt) -> bool:
        """Whether ending the runner would cost anything but this attempt and its weights."""
        engines = self._runners.beside(attempt.spec.engine)
        others = (one for one in self._core.attempts() if one is not attempt and one.spec.engine in engines)
        return any(
            one.phase in IN_RUNNER or one.phase == "ready" for one in others
        ) or self._loader.has_other_than(attempt.model, attempt.spec, engines)

    # What the runner says -------------------------------------------------------------------------

    def take(self, message: RunMessage) -> None:
        """News of a run. What is said of an attempt that has ended changes nothing."""
        attempt = self._core.by_key(message.job)
        if attempt is None or not (attempt.phase in IN_RUNNER or attempt.phase == "stopping"):
            return
        attempt.heard_at = time.monotonic()
        match message:
            case Text():
                if attempt.phase in IN_RUNNER:
                    self._reports.text(attempt, message)
            case TextDone():
                self._done(attempt, message.output, [], message.run_s)
            case Step():
                self._note_step(attempt)
                self._reports.tell(attempt, Progress(step=message.step, steps=message.steps))
            case Drawn():
                self._drawn(attempt, message)
            case Printed():
                attempt.log.printed.add_part(message.output)
            case ChildAsked():
                self.children.asked(attempt, message)
            case ChildLeft():
                self.children.left(attempt, message.number)
            case PreviewImage():
                self._reports.preview(attempt, message)
            case ImagesDone():
                self._note_step(attempt)
                output = ImageOutput(message.pictures, message.details)
                self._done(attempt, output, list(message.images), message.run_s)
            case FilesDone():
                self._files_done(attempt, message)
            case RunFailed():
                self._failed(attempt, message)
            case RunCancelled():
                self._leave_runner(attempt)

    def _drawn(self, attempt: Attempt, message: Drawn) -> None:
        """The device is the next one's while the files of this one are written."""
        attempt.device_s = message.run_s
        PROMPTS.labels("kept").inc(message.texts_kept)
        PROMPTS.labels("read").inc(message.texts_read)
        if self._core.drawn(attempt):
            self.start_next(attempt.lane)

    def _files_done(self, attempt: Attempt, message: FilesDone) -> None:
        """A function has saved files; those that it says to lie on the disk lie in its attempt's folder."""
        contents: list[bytes | Path] = []
        for one in message.contents:
            path = Path(one.path).resolve()
            if one.path and not (attempt.folder and path.is_relative_to(Path(attempt.folder).resolve())):
                self._failed(attempt, RunFailed(attempt.key, "fatal", "a saved file lies where none may lie"))
                return
            contents.append(path if one.path else one.content)
        self._done(attempt, message.output, contents, message.run_s)

    def _note_step(self, attempt: Attempt) -> None:
        now = time.monotonic()
        self._steps.note(_weights(attempt), now - attempt.stepped_at)
        attempt.stepped_at = now

    def _done(self, attempt: Attempt, output: Output, images: Sequence[bytes | Path], run_s: float) -> None:
        if attempt.why_stopped == "revoked":
            self._leave_runner(attempt)
            return
        run_s = max(run_s - attempt.waited_s, 0.0)  # while it waited others had its slot
        self._core.move(attempt, "ending")
        _run_time(attempt.model).observe(run_s)
        self._endings.completed(attempt, output, images, run_s)
        self.start_next(attempt.lane)

    def _failed(self, attempt: Attempt, failure: RunFailed) -> None:
        if attempt.phase == "stopping":
            self._leave_runner(attempt)
            return
        if self._runs_again(attempt, failure):
            return
        if _may_run_elsewhere(attempt, failure):
            self._endings.lost(attempt, failure.reason, failure.kind)
        else:
            self._core.move(attempt, "ending")
            self._endings.failed(attempt, failure.kind, failure.reason, failure.code, failure.field)
        self.start_next(attempt.lane)

    def _runs_again(self, attempt: Attempt, failure: RunFailed) -> bool:
        """The device ran out of memory for a run: free what is idle, and run it once more when that is out."""
        if failure.kind != "resource" or not _may_run_elsewhere(attempt, failure) or attempt.runs >= MAX_RUNS:
            return False
        self._loader.evict_idle(attempt.model)
        attempt.runs += 1
        attempt.too_many, attempt.batch = attempt.batch, 1
        self._loader.answers.when_left(partial(self._run_again, attempt))
        return True

    def _run_again(self, attempt: Attempt) -> None:
        if attempt.phase == "stopping":  # no engine has it, so none will say that it has stopped
            self._leave_runner(attempt)
        elif attempt.phase in IN_RUNNER:
            try:
                self._runners.send(attempt.spec.engine, self._run(attempt))
            except RunnerAway as error:
                self._endings.lost(attempt, str(error), was_killed=True)
                self.start_next(attempt.lane)

    def _leave_runner(self, attempt: Attempt) -> None:
        """The engine has stopped, as it was told to."""
        if attempt.why_stopped == "revoked":
            self._core.move(attempt, "gone")
            self._endings.dropped(attempt)
        else:
            self._core.move(attempt, "ending")
            self._endings.stopped(attempt)
        self.start_next(attempt.lane)

    def runner_died(self, engines: Collection[str], status: int, *, was_killed: bool) -> None:
        """What these engines ran is lost, and what waited for a slot of a model that is gone is prepared again
        elsewhere. Slots that they had of a lane with others go to those.

        was_killed: from outside.
        """
        concerned = [attempt for attempt in self._core.attempts() if attempt.spec.engine in engines]
        for attempt in sorted(concerned, key=lambda one: one.phase != "ready"):  # none of these is to start
            if attempt.phase == "stopping":
                self._leave_runner(attempt)
            elif attempt.phase in IN_RUNNER or attempt.phase == "ready":
                reason = f"the runner died with status {status}"
                self._endings.lost(attempt, reason, was_killed=was_killed or attempt.phase == "ready")
        for lane in {attempt.lane for attempt in concerned}:
            self.start_next(lane)


def _weights(attempt: Attempt) -> str:
    return weights_key(attempt.model, attempt.spec)


def _may_run_elsewhere(attempt: Attempt, failure: RunFailed) -> bool:
    """Whether another worker may do better, and doing it twice does no harm: what a function did besides only
    itself knows, and says that it may be tried again.
    """
    return failure.kind == ("retryable" if isinstance(attempt.input, FunctionInput) else "resource")
