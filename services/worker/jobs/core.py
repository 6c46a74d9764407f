"""What a worker decides, without I/O: which jobs it takes, which runs next, what a drain waits for.

A job here is waiting (for its model, or for a slot of its lane), running, or ending (its terminal event is
being stored). Lanes are as in the scheduler: the one that the engine names, else the model.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from schemas.catalog import Adapter, Spec, batch_limit
from schemas.jobs import ImageInput, JobInput
from schemas.workers import Accepted, Assignment, AssignmentAnswer, EngineCapability, Refused
from services.worker.jobs.event_log import EventLog

Phase = Literal["waiting", "running", "ending"]


@dataclass(slots=True)
class Attempt:
    """One job in this worker's hands. input, loras, companions: the job's, once what it brings is here.

    trace: the context that it came with. text_at: when it last made text, on the monotonic clock.
    """

    assignment: Assignment
    input: JobInput
    log: EventLog
    lane: str
    accepted_at: float
    phase: Phase = "waiting"
    wants_events: bool = False
    sent_text: str = ""
    loras: tuple[Adapter, ...] = ()
    has_retried: bool = False
    ready_at: float = 0.0
    started_at: float = 0.0
    stop_reason: str = ""
    companions: list[tuple[str, Spec]] = field(default_factory=list)
    trace: str = ""
    text_at: float = 0.0

    @property
    def id(self) -> str:
        return self.assignment.job.id

    @property
    def model(self) -> str:
        return self.assignment.job.model

    @property
    def spec(self) -> Spec:
        return self.assignment.spec


@dataclass(slots=True)
class WorkerCore:
    """Assignments and slots. `now` is in seconds since 1970."""

    engines: dict[str, EngineCapability]
    attempts: dict[str, Attempt] = field(default_factory=dict)
    is_draining: bool = False
    _term: int = 0
    _running: dict[str, int] = field(default_factory=dict)
    _ready: dict[str, deque[str]] = field(default_factory=dict)

    def assign(self, assignment: Assignment, now: float, trace: str = "") -> AssignmentAnswer:
        """Take a job, or say why not."""
        job, spec = assignment.job, assignment.spec
        if assignment.term < self._term:
            return Refused("a newer scheduler is in office", is_permanent=True)
        self._term = assignment.term
        if self.is_draining:
            return Refused("this worker is draining", is_permanent=True)
        capability = self.engines.get(spec.engine)
        if capability is None:
            return Refused(f"this worker has no engine {spec.engine}", is_permanent=True)
        known = self.attempts.get(job.id)
        if known is not None:
            if known.assignment.attempt == assignment.attempt:
                return Accepted(len(self.attempts))
            return Refused("an earlier attempt of this job is still here")
        lane = f"lane:{capability.lane}" if capability.lane else job.model
        self.attempts[job.id] = Attempt(
            assignment=assignment,
            input=job.input,
            log=EventLog(assignment.term, assignment.attempt),
            lane=lane,
            accepted_at=now,
            wants_events=job.wants_events,
            trace=trace,
        )
        return Accepted(len(self.attempts))

    def slots(self, attempt: Attempt) -> int:
        spec = attempt.assignment.spec
        return spec.slots or self.engines[spec.engine].slots

    def make_ready(self, attempt: Attempt) -> None:
        """The model is hot: the job waits for nothing but a slot."""
        self._ready.setdefault(attempt.lane, deque()).append(attempt.id)

    def next_to_run(self, lane: str) -> list[Attempt]:
        """Take the next ready job of a lane with a free slot, and those like it that run along; running now."""
        ready = self._ready.get(lane)
        while ready:
            attempt = self.attempts.get(ready[0])
            if attempt is None or attempt.phase != "waiting":
                ready.popleft()
                continue
            if self._running.get(lane, 0) >= self.slots(attempt):
                return []
            batch = [attempt, *self._like(attempt, ready)]
            for chosen in batch:
                ready.remove(chosen.id)
                chosen.phase = "running"
            self._running[lane] = self._running.get(lane, 0) + len(batch)
            return batch
        return []

    def _like(self, first: Attempt, ready: Iterable[str]) -> list[Attempt]:
        """Ready jobs that differ from the first in prompt and seed only, up to the spec's `batch`."""
        limit = batch_limit(first.assignment.spec)
        if limit == 1 or not isinstance(first.assignment.job.input, ImageInput):
            return []
        waiting = [
            other for job in ready if (other := self.attempts.get(job)) is not None and other.phase == "waiting"
        ]
        likeness = _likeness(first)
        return [other for other in waiting if other is not first and _likeness(other) == likeness][: limit - 1]

    def stop_running(self, attempt: Attempt) -> None:
        """The engine has done with the job: its slot is free, its ending is being stored."""
        if attempt.phase == "running":
            self._running[attempt.lane] -= 1
        attempt.phase = "ending"

    def forget(self, attempt: Attempt) -> None:
        self.attempts.pop(attempt.id, None)

    @property
    def is_idle(self) -> bool:
        return not self.attempts


def _likeness(attempt: Attempt) -> object:
    """What jobs of one batch have in common; unlike anything for what is not drawn in batches."""
    job = attempt.assignment.job
    asked = job.input
    if not isinstance(asked, ImageInput) or asked.n > 1 or asked.files:
        return attempt.id
    alike = msgspec.structs.replace(asked, prompt="", previews=0)
    return (job.model, attempt.assignment.spec, job.adapter, alike)
