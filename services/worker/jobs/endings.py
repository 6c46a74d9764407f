"""How attempts end: the terminal event is stored first, then `Finished` tells the scheduler.

While NATS is away an end is kept and stored again; the attempt stays with this worker (`ending`) until then.
One that is lost, or was revoked, has no terminal event. Neither has one that the server refuses because a later
attempt has the job: nothing is said of it then, as if it had been revoked.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
from prometheus_client import Counter

from stoker.schemas.children import SHOWN_CHILDREN, ChildView
from stoker.schemas.job_events import (
    Cancelled,
    Completed,
    Ending,
    Failed,
    FailureKind,
    ImageOutput,
    Output,
    Terminal,
    TextOutput,
    Timings,
    ValueOutput,
)
from stoker.schemas.jobs import work_units
from stoker.schemas.workers import Finished, Outcome
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, TooLarge
from stoker.services.bus.publishing import PubAck
from stoker.services.process import genai
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import TaskOwner
from stoker.services.process.telemetry import Bounded, counter
from stoker.services.process.tracing import in_trace, record
from stoker.services.records.blobs import attachments, put_large, store_value
from stoker.services.records.outputs import OutputTooLarge, apart
from stoker.services.records.results import of_attempt, post_terminal, publish_terminal
from stoker.services.worker.jobs.attempt import Attempt
from stoker.services.worker.jobs.core import WorkerCore

log = get_logger("endings")

RETRY_S = 0.5
UNDER_WAY = ("queued", "running")

RUNS = counter("stoker_runs_total", "Attempts by how they ended", "model", "outcome")
TOKENS = counter("stoker_tokens_total", "Tokens of answers that are whole, read and made", "model", "of")
KEY_TOKENS = counter("stoker_key_tokens_total", "The same by key", "key", "of")
KEYS = Bounded()


@cache  # finding a label costs more than counting
def _runs(model: str, outcome: Outcome) -> Counter:
    return RUNS.labels(model, outcome)


@cache
def _tokens(model: str, of: str) -> Counter:
    return TOKENS.labels(model, of)


def _count_tokens(model: str, key: str, output: Output) -> None:
    """Of an answer that is whole; key: whose it is, "" without keys."""
    if not isinstance(output, TextOutput):
        return
    used = {"prompt": output.usage.prompt_tokens, "answer": output.usage.completion_tokens}
    for of, count in used.items():
        _tokens(model, of).inc(count)
        if key:
            KEY_TOKENS.labels(KEYS.of(key), of).inc(count)


class Endings:
    """`gone()` is called when an attempt has left, `flush` to send the text of one that waits, before
    its end; `tasks` owns what has to be stored again.
    """

    def __init__(
        self,
        bus: Bus,
        worker: str,
        core: WorkerCore,
        tasks: TaskOwner,
        gone: Callable[[], None],
        flush: Callable[[Attempt], None],
    ) -> None:
        self._bus = bus
        self._worker = worker
        self._core = core
        self._tasks = tasks
        self._gone = gone
        self._flush = flush

    def completed(self, attempt: Attempt, output: Output, images: Sequence[bytes | Path], run_s: float) -> None:
        _count_tokens(attempt.model, attempt.assignment.job.tenant, output)
        attempt.told = genai.made(attempt.model, output)
        is_value = isinstance(output, ValueOutput) and output.value is not None
        if isinstance(output, ImageOutput | ValueOutput) and (images or is_value):
            self._tasks.start(self._complete_attached, attempt, output, images, run_s)
        else:
            event = Completed(**self._ending(attempt, run_s), output=output)
            if isinstance(output, TextOutput):
                attempt.tokens = (output.usage.prompt_tokens, output.usage.completion_tokens)
            self._store(attempt, event, "completed", run_s=run_s)

    async def _complete_attached(
        self,
        attempt: Attempt,
        output: ImageOutput | ValueOutput,
        contents: Sequence[bytes | Path],
        run_s: float,
    ) -> None:
        try:
            if isinstance(output, ValueOutput):
                output = await store_value(self._bus, attempt.key, output, is_sealed=attempt.is_sealed)
            names, inline = await put_large(self._bus, attempt.key, contents, is_sealed=attempt.is_sealed)
        except Exception as error:  # whatever the store raises, the job must end
            self.failed(attempt, "internal", f"the result was not stored: {error or type(error).__name__}")
            return
        stored = [
            msgspec.structs.replace(attached, blob=name)
            for attached, name in zip(attachments(output), names, strict=True)
        ]
        field = "pictures" if isinstance(output, ImageOutput) else "files"
        named = msgspec.structs.replace(output, **{field: tuple(stored)})
        event = Completed(**self._ending(attempt, run_s), output=named)
        self._store(attempt, event, "completed", inline, run_s)

    def failed(self, attempt: Attempt, kind: FailureKind, reason: str, code: str = "", field: str = "") -> None:
        attempt.failed_as = code or kind
        event = Failed(**self._ending(attempt), kind=kind, message=reason, code=code, field=field)
        self._store(attempt, event, "failed")

    def stopped(self, attempt: Attempt) -> None:
        """It was told to stop: by a client, or because its time was over."""
        if attempt.why_stopped == "timeout":
            limit = attempt.assignment.job.run_timeout_s
            self.failed(attempt, "timeout", f"it ran longer than {limit:g} s")
        else:
            self._store(attempt, Cancelled(**self._ending(attempt)), "cancelled")

    def lost(
        self,
        attempt: Attempt,
        reason: str,
        kind: FailureKind | Literal[""] = "",
        *,
        was_killed: bool = False,
    ) -> None:
        """It cannot go on here: the scheduler tries elsewhere. kind, was_killed: as in
        schemas.workers.Finished.
        """
        self._flush(attempt)
        attempt.failed_as = kind or "lost"
        with in_trace(attempt.trace):
            log.warning("attempt.lost", job=attempt.job, reason=reason, kind=kind)
        self._finish(attempt, "lost", 0.0, reason, kind, was_killed)

    def dropped(self, attempt: Attempt) -> None:
        """It was revoked, or superseded, and has left: nothing is said of its job."""
        with in_trace(attempt.trace):
            log.info("attempt.revoked", job=attempt.job, attempt=attempt.assignment.attempt)
        self._gone()

    def _ending(self, attempt: Attempt, run_s: float = 0.0) -> Ending:
        self._flush(attempt)
        job = attempt.assignment.job
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
                load_s=round(_load_s(attempt), 4),
                run_s=round(run_s, 4),
                fetch_s=round(attempt.fetch_s, 4),
            ),
            "worker": self._worker,
            "spec": attempt.assignment.spec.name,
            "fingerprint": job.fingerprint,
            "webhook": job.webhook,
            "tenant": job.tenant,
            "history": attempt.log.history(),
            "log": attempt.log.log(),
            "parent": job.parent,
            "children": tuple(map(_over, list(attempt.children.values())[:SHOWN_CHILDREN])),
            "child_count": len(attempt.children),
        }

    def _store(
        self,
        attempt: Attempt,
        event: Terminal,
        outcome: Outcome,
        images: list[bytes] | None = None,
        run_s: float = 0.0,
    ) -> None:
        """Store the terminal event, then say that the job is finished."""

        def answered(found: PubAck | BusError) -> None:
            if isinstance(found, PubAck):
                self._finish(attempt, outcome, run_s)
            elif self._tasks.is_open:
                with in_trace(attempt.trace):
                    self._tasks.start(self._insist, attempt, event, outcome, images, run_s)

        post_terminal(self._bus, of_attempt(self._bus, attempt.assignment), event, images or [], answered)

    async def _insist(
        self, attempt: Attempt, event: Terminal, outcome: Outcome, images: list[bytes] | None, run_s: float
    ) -> None:
        """Store it however long that takes; unless another has the job."""
        writer = of_attempt(self._bus, attempt.assignment)
        while True:
            try:
                found = await publish_terminal(self._bus, writer, event, images)
                break
            except TooLarge as error:
                if isinstance(event, Completed) and (smaller := await self._apart(attempt, event)) is not None:
                    outcome = "completed" if isinstance(smaller, Completed) else "failed"
                    event = smaller
                elif event.log is not None:  # rather without it than not at all
                    event = msgspec.structs.replace(event, log=None)
                elif not isinstance(event, Failed) or event.history:
                    outcome, images = "failed", None
                    reason = f"the answer is too large to be stored: {error}"
                    event = self._smallest(attempt, "internal", reason, "answer_too_large")
                else:
                    self.lost(attempt, f"the job's end cannot be stored: {error}", "poisoned")
                    return
            except BusError as error:
                log.warning("result.not_stored", job=event.job, error=str(error))
                await asyncio.sleep(RETRY_S)
        if found == "superseded":
            self._core.move(attempt, "gone")
            self.dropped(attempt)
        else:
            self._finish(attempt, outcome, run_s)

    async def _apart(self, attempt: Attempt, event: Completed) -> Completed | Failed | None:
        """The same end with its text or vectors as a blob; or how it failed, where they could not be stored."""
        try:
            return await apart(self._bus, event)
        except OutputTooLarge as error:
            return self._smallest(attempt, "validation", str(error), "answer_too_large")
        except BusError as error:
            return self._smallest(attempt, "internal", f"the answer was not stored: {error}")

    def _smallest(self, attempt: Attempt, kind: FailureKind, reason: str, code: str = "") -> Failed:
        """The smallest end there is."""
        failed = Failed(**self._ending(attempt), kind=kind, message=reason, code=code)
        return msgspec.structs.replace(failed, history=(), log=None, children=())

    def _finish(
        self,
        attempt: Attempt,
        outcome: Outcome,
        run_s: float,
        reason: str = "",
        kind: FailureKind | Literal[""] = "",
        was_killed: bool = False,
    ) -> None:
        job = attempt.assignment.job
        _runs(job.model, outcome).inc()
        self._trace(attempt, outcome, run_s)
        self._core.move(attempt, "gone")
        finished = Finished(
            job=job.id,
            model=job.model,
            attempt=attempt.assignment.attempt,
            outcome=outcome,
            load_s=round(_load_s(attempt), 4),
            fetch_s=round(attempt.fetch_s, 4),
            run_s=round(attempt.device_s or run_s, 4),
            units=work_units(job.input),
            batch=attempt.batch,
            too_many=attempt.too_many if attempt.too_many > 1 else 0,
            term=attempt.assignment.term,
            reason=reason,
            kind=kind,
            was_killed=was_killed,
            seal=attempt.assignment.seal,
            prompt_tokens=attempt.tokens[0],
            answer_tokens=attempt.tokens[1],
        )
        self._bus.tell(self._bus.subjects.finished(self._worker), finished)
        self._gone()

    def _trace(self, attempt: Attempt, outcome: Outcome, run_s: float) -> None:
        """What the attempt's time went into."""
        if not attempt.trace:
            return
        now = time.time()
        error = "" if outcome == "completed" else outcome
        named: dict[str, Any] = {
            "job": attempt.job,
            "model": attempt.model,
            "spec": attempt.spec.name,
            "engine": attempt.spec.engine,
            "worker": self._worker,
            "attempt": attempt.assignment.attempt,
        }
        assigned_at = attempt.assignment.job.created_at + attempt.assignment.queued_s
        record("assign", attempt.trace, assigned_at, attempt.accepted_at, **named)
        if attempt.ready_at:
            record("load", attempt.trace, attempt.accepted_at, attempt.ready_at, **named)
        else:
            record("load", attempt.trace, attempt.accepted_at, now, error, **named)
        if attempt.started_at:
            record("slot", attempt.trace, attempt.ready_at, attempt.started_at, **named)
            ended_at = attempt.started_at + run_s if run_s else now
            told = genai.asked(attempt.model, attempt.input)
            if told and attempt.first_text_at:
                waited_s = max(attempt.first_text_at - attempt.started_at, 0.0)
                told |= {genai.TIME_TO_FIRST_TOKEN: round(waited_s, 6)}
            told |= attempt.told | ({genai.ERROR_TYPE: attempt.failed_as or outcome} if error else {})
            record("run", attempt.trace, attempt.started_at, ended_at, error, told, **named)
            record("store", attempt.trace, ended_at, now, **named)


def _over(child: ChildView) -> ChildView:
    """A call as it is once the one that made it has ended: what was not over is cancelled with it."""
    return msgspec.structs.replace(child, status="cancelled") if child.status in UNDER_WAY else child


def _load_s(attempt: Attempt) -> float:
    """Seconds that an attempt waited for weights."""
    return max(attempt.ready_at - attempt.accepted_at, 0.0) if attempt.ready_at else 0.0
