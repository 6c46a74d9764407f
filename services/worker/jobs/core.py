"""What a worker decides, without I/O: which attempts it takes, which runs next, what a drain waits for.

Lanes are as in the scheduler: the one that the engine names, else the model. A lane runs as many attempts at a
time as its engine has slots; one that was told to stop keeps its slot until the engine has stopped. One that
waits for calls of its own takes no slot, and is the first to get one when they have ended. One whose pictures
are only to be written takes none either, up to MAX_WRITTEN pictures of a lane, which lie in memory. Of one job
at most one attempt is current, the latest: an earlier one that is still here is told to stop (`revoked`).

`move` is the only writer of an attempt's state (attempt.py has the table); it raises IllegalMove and changes
nothing where the table forbids it. `validate` checks all counts.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from stoker.schemas.jobs import ImageInput, likeness
from stoker.schemas.workers import (
    Accepted,
    Assignment,
    AssignmentAnswer,
    EngineCapability,
    Refused,
    together,
)
from stoker.services.worker.jobs.attempt import (
    HOLDS,
    IN_RUNNER,
    TAKES_SLOT,
    TRANSITIONS,
    Attempt,
    IllegalMove,
    Phase,
    StopReason,
)
from stoker.services.worker.jobs.event_log import EventLog

MAX_WRITTEN = 32
"""Pictures of a lane that may be written while others are drawn: 12 MB each at 1024x1024."""


@dataclass(slots=True)
class WorkerCore:
    """Attempts and slots. `now` is in seconds since 1970."""

    engines: dict[str, EngineCapability]
    is_draining: bool = False
    _attempts: dict[str, Attempt] = field(default_factory=dict)
    _current: dict[str, Attempt] = field(default_factory=dict)
    _term: int = 0
    _running: dict[str, int] = field(default_factory=dict)
    _ready: dict[str, deque[str]] = field(default_factory=dict)
    _resuming: dict[str, deque[str]] = field(default_factory=dict)

    # Looking --------------------------------------------------------------------------------------

    def current(self, job: str) -> Attempt | None:
        """The attempt of a job that counts: not one that was revoked."""
        return self._current.get(job)

    def by_key(self, key: str) -> Attempt | None:
        """What the runner speaks of."""
        return self._attempts.get(key)

    def attempts(self) -> list[Attempt]:
        """Every attempt that is here, revoked ones that still stop included."""
        return list(self._attempts.values())

    def listed(self) -> list[Attempt]:
        """What a heartbeat says that this worker has."""
        return list(self._current.values())

    @property
    def is_idle(self) -> bool:
        return not self._attempts

    # Taking ---------------------------------------------------------------------------------------

    def assign(self, assignment: Assignment, now: float, trace: str = "") -> AssignmentAnswer:
        """Take an attempt, or say why not. `superseded` is asked for before, and revoked."""
        job, spec = assignment.job, assignment.spec
        if assignment.term < self._term:
            return Refused("a newer scheduler leads", is_permanent=True)
        self._term = assignment.term
        if self.is_draining:
            return Refused("this worker is draining", is_permanent=True)
        capability = self.engines.get(spec.engine)
        if capability is None:
            return Refused(f"this worker has no engine {spec.engine}", is_permanent=True)
        known = self._current.get(job.id)
        order = (assignment.term, assignment.attempt)
        if known is not None and known.order >= order:
            same = known.order == order
            return Accepted(len(self._current)) if same else Refused("a later attempt of this job is here")
        if known is not None:
            return Refused("an earlier attempt of this job is still here")
        attempt = Attempt(
            assignment=assignment,
            input=job.input,
            log=EventLog(assignment.term, assignment.attempt),
            lane=f"lane:{capability.lane}" if capability.lane else job.model,
            accepted_at=now,
            wants_events=job.wants_events,
            batches_text=job.wants_events and job.batches_text,
            trace=trace,
        )
        if attempt.key in self._attempts:
            return Refused("this attempt was revoked, and is still here")
        self._attempts[attempt.key] = self._current[job.id] = attempt
        return Accepted(len(self._current))

    def superseded(self, assignment: Assignment) -> Attempt | None:
        """The earlier attempt that this one makes worthless; of a term that may still assign."""
        known = self._current.get(assignment.job.id)
        is_later = known is not None and known.order < (assignment.term, assignment.attempt)
        return known if is_later and assignment.term >= self._term else None

    # States ---------------------------------------------------------------------------------------

    def move(self, attempt: Attempt, to: Phase) -> None:
        """Change the state of an attempt. Raises IllegalMove, changing nothing, where there is no such move."""
        before = attempt.phase
        if to not in TRANSITIONS[before]:
            raise IllegalMove(f"attempt {attempt.key}: {before} -> {to}")
        attempt.phase = to
        for phase, queues in (("ready", self._ready), ("resuming", self._resuming)):
            if to == phase:
                queues.setdefault(attempt.lane, deque()).append(attempt.key)
            elif before == phase:
                _drop(queues, attempt)
        if to in TAKES_SLOT and before not in TAKES_SLOT:
            self._running[attempt.lane] = self._running.get(attempt.lane, 0) + 1
        elif before in TAKES_SLOT and to not in TAKES_SLOT:
            self._free_slot(attempt.lane)
        if to not in HOLDS:
            attempt.leave()
        if to == "gone":
            del self._attempts[attempt.key]
            self._uncurrent(attempt)
            while attempt.when_gone:
                attempt.when_gone.pop()()

    def _free_slot(self, lane: str) -> None:
        self._running[lane] -= 1
        if not self._running[lane]:
            del self._running[lane]

    def _uncurrent(self, attempt: Attempt) -> None:
        if self._current.get(attempt.job) is attempt:
            del self._current[attempt.job]

    def stop(self, attempt: Attempt, reason: StopReason) -> bool:
        """Tell an attempt to stop; whether its engine must be told. One that does not run ends here and now.

        A revoked one is no longer current, and goes without a terminal event; any other is `ending` then.
        """
        if attempt.phase in ("ending", "gone"):
            return False
        if reason == "revoked":
            self._uncurrent(attempt)
            attempt.why_stopped = reason
        elif not attempt.why_stopped:
            attempt.why_stopped = reason
        if attempt.phase == "stopping":
            return False
        if attempt.phase in IN_RUNNER:
            self.move(attempt, "stopping")
            return True
        self.move(attempt, "gone" if reason == "revoked" else "ending")
        return False

    @property
    def waiting(self) -> int:
        """Attempts that wait for calls of theirs."""
        return sum(attempt.phase == "waiting" for attempt in self._attempts.values())

    def next_to_resume(self, lane: str) -> Attempt | None:
        """The next attempt whose calls have ended, where the lane has a free slot; running now."""
        resuming = self._resuming.get(lane)
        if not resuming:
            return None
        first = self._attempts[resuming[0]]
        if self._running.get(lane, 0) >= self._slots(first):
            return None
        self.move(first, "running")
        return first

    def drawn(self, attempt: Attempt) -> bool:
        """The device is done with an attempt, its pictures are to be written; whether its slot is free now."""
        if attempt.phase != "running":
            return False
        others = (one for one in self._attempts.values() if one.lane == attempt.lane and one.phase == "writing")
        being_written = sum(map(_pictures, others))
        if being_written and being_written + _pictures(attempt) > MAX_WRITTEN:
            return False
        self.move(attempt, "writing")
        return True

    def next_to_run(self, lane: str) -> list[Attempt]:
        """The next ready attempt of a lane with a free slot, and those like it that run along; running now."""
        waiting = self._ready.get(lane)
        if not waiting:
            return []
        first = self._attempts[waiting[0]]
        if self._running.get(lane, 0) >= self._slots(first):
            return []
        batch = [first, *self._like(first, waiting)]
        for chosen in batch:
            self.move(chosen, "running")
            chosen.batch = len(batch)
        return batch

    def _slots(self, attempt: Attempt) -> int:
        return attempt.spec.slots or self.engines[attempt.spec.engine].slots

    def _like(self, first: Attempt, waiting: Iterable[str]) -> list[Attempt]:
        """Ready attempts that differ from the first in prompt and seed only, as many as it may run with."""
        limit = together(first.assignment)
        if limit == 1:
            return []
        like = likeness(first.assignment.job, first.spec)
        others = [self._attempts[key] for key in waiting if key != first.key]
        return [one for one in others if likeness(one.assignment.job, one.spec) == like][: limit - 1]

    def validate(self) -> None:
        """Raise AssertionError where counts, queues and states disagree."""
        running: dict[str, int] = {}
        ready: dict[str, set[str]] = {}
        resuming: dict[str, set[str]] = {}
        for key, attempt in self._attempts.items():
            assert key == attempt.key
            assert attempt.phase != "gone", f"{key} is gone and still here"
            if attempt.phase in TAKES_SLOT:
                running[attempt.lane] = running.get(attempt.lane, 0) + 1
            if attempt.phase == "ready":
                ready.setdefault(attempt.lane, set()).add(key)
            if attempt.phase == "resuming":
                resuming.setdefault(attempt.lane, set()).add(key)
            assert attempt.phase in HOLDS or not attempt.is_held, f"{key} has ended and holds something"
            is_current = self._current.get(attempt.job) is attempt
            assert is_current != (attempt.why_stopped == "revoked"), f"{key}: revoked or current, not both"
        assert running == self._running, f"running {running}, counted {self._running}"
        assert ready == {lane: set(keys) for lane, keys in self._ready.items()}
        assert resuming == {lane: set(keys) for lane, keys in self._resuming.items()}
        assert all(self._attempts.get(attempt.key) is attempt for attempt in self._current.values())


def _pictures(attempt: Attempt) -> int:
    return attempt.input.n if isinstance(attempt.input, ImageInput) else 1


def _drop(queues: dict[str, deque[str]], attempt: Attempt) -> None:
    """It is no longer in the queue of its lane."""
    waiting = queues[attempt.lane]
    waiting.remove(attempt.key)
    if not waiting:
        del queues[attempt.lane]
