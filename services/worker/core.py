"""What a worker decides, without I/O: which jobs it takes, which runs next, what a drain waits for.

A job here is waiting (for its model, or for a slot of its lane), running, or ending (its terminal event is
being stored). Lanes are as in the scheduler: the engine where that is exclusive, else the model.
"""

from asyncio import TimerHandle
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from schemas.workers import Accepted, Assignment, AssignmentAnswer, EngineCapability, Refused
from services.worker.event_log import EventLog

Phase = Literal["waiting", "running", "ending"]


@dataclass(slots=True)
class Attempt:
    """One job in this worker's hands."""

    assignment: Assignment
    log: EventLog
    lane: str
    accepted_at: float
    phase: Phase = "waiting"
    wants_events: bool = False
    sent_text: str = ""
    ready_at: float = 0.0
    started_at: float = 0.0
    stop_reason: str = ""
    timer: TimerHandle | None = None

    @property
    def id(self) -> str:
        return self.assignment.job.id

    @property
    def model(self) -> str:
        return self.assignment.job.model


@dataclass(slots=True)
class WorkerCore:
    """Assignments and slots. `now` is in seconds since 1970."""

    engines: dict[str, EngineCapability]
    attempts: dict[str, Attempt] = field(default_factory=dict)
    is_draining: bool = False
    _term: int = 0
    _running: dict[str, int] = field(default_factory=dict)
    _ready: dict[str, deque[str]] = field(default_factory=dict)

    def assign(self, assignment: Assignment, now: float) -> AssignmentAnswer:
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
        lane = f"engine:{spec.engine}" if capability.is_exclusive else job.model
        self.attempts[job.id] = Attempt(
            assignment=assignment,
            log=EventLog(assignment.term, assignment.attempt),
            lane=lane,
            accepted_at=now,
            wants_events=job.wants_events,
        )
        return Accepted(len(self.attempts))

    def slots(self, attempt: Attempt) -> int:
        spec = attempt.assignment.spec
        return spec.slots or self.engines[spec.engine].slots

    def make_ready(self, attempt: Attempt) -> None:
        """The model is hot: the job waits for nothing but a slot."""
        self._ready.setdefault(attempt.lane, deque()).append(attempt.id)

    def next_to_run(self, lane: str) -> Attempt | None:
        """Take the next ready job of a lane with a free slot; it is running now."""
        ready = self._ready.get(lane)
        while ready:
            attempt = self.attempts.get(ready[0])
            if attempt is None or attempt.phase != "waiting":
                ready.popleft()
                continue
            if self._running.get(lane, 0) >= self.slots(attempt):
                return None
            ready.popleft()
            attempt.phase = "running"
            self._running[lane] = self._running.get(lane, 0) + 1
            return attempt
        return None

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
