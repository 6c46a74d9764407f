"""One job in the scheduler, and the states that it goes through.

A job arrives and is `waiting` in the queue of its model. It is `offered` to a worker, which takes it
(`running`) or does not (`waiting` again). When its worker stops mentioning it, it is `checking`: its result is
looked up, and the answer says whether it has ended or must run again. A job that somebody cancelled while a
worker has it is `cancelling` until the worker says how it ended, and never runs again. `ended` is final: the
job leaves the books.

    waiting ──▶ offered ──▶ running ◀──▶ checking
       ▲           │           │             │
       └───────────┴───────────┴─────────────┘        every state ──▶ ended
    offered, running, checking ──▶ cancelling ──▶ ended

In every state but `waiting` a job holds a slot of its worker. `Ledger.move` is the only writer of a state:
leaving a state gives back what it held, whichever way the job goes (ledger.py).
"""

from dataclasses import dataclass, field
from typing import Literal

from stoker.schemas.job_events import FailureKind
from stoker.schemas.jobs import Job, Status

Phase = Literal["waiting", "offered", "running", "checking", "cancelling", "ended"]

TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    "waiting": frozenset({"offered", "running", "ended"}),  # running: adopted from a worker that has it
    "offered": frozenset({"running", "waiting", "cancelling", "ended"}),
    "running": frozenset({"waiting", "checking", "cancelling", "ended"}),
    "checking": frozenset({"running", "waiting", "cancelling", "ended"}),
    "cancelling": frozenset({"ended"}),
    "ended": frozenset(),
}
HOLDS_SLOT: frozenset[Phase] = frozenset({"offered", "running", "checking", "cancelling"})
"""The states in which a job takes up a slot of its worker."""

STATUS: dict[Phase, Status] = {
    "waiting": "queued",
    "offered": "assigned",
    "running": "running",
    "checking": "running",
    "cancelling": "running",
}
"""What people are told of a live job."""

REFUSAL_REMEMBERED_S = 1.0
"""A worker that refused a job is asked again after this, when no other takes it."""


FAILURE_REMEMBERED_S = 30.0
"""A worker where a job failed gets it again after this, when the others that could try it are gone."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a job failed with on one worker, where another may do better. at: when, seconds."""

    kind: FailureKind
    reason: str
    at: float


class IllegalMove(Exception):
    """A job was to go from a state to one that the table does not allow; nothing was changed."""


@dataclass(slots=True)
class Record:
    """One live job.

    phase: its state. mentioned_at: when that began, or its worker last mentioned the job; seconds. attempt,
    term: of the newest assignment, and of the leader that made it. worker, spec: who has it; "" while
    it waits. lost_on: the workers that died under it. crashes: how often a runner crashed under it.
    failed_on: what it failed with where another worker may do better. refused_at: when a worker did not
    take it. handle: acknowledges the stored message. number: counts arrivals, its place among the jobs
    of its tenant. fence: number of the last record under its result subject, as far as is known.
    must_fence: an attempt of before may still be alive, and must not end the job once another has it.
    units: the size of its work (Estimates.units). charged_s: device seconds that its tenant was
    charged for. beside: earlier attempts, by worker and number, that go on beside the current one:
    whichever ends first ends the job. told: the wait that the plan first predicted, and when; seconds.
    models: those that it needs together, where they are several (placing/model_sets.py).
    """

    job: Job
    handle: str
    sequence: int
    number: int
    mentioned_at: float
    trace: str = ""
    phase: Phase = "waiting"
    attempt: int = 0
    term: int = 0
    worker: str = ""
    spec: str = ""
    queued_s: float = 0.0
    lost_on: list[str] = field(default_factory=list)
    crashes: int = 0
    refused_at: dict[str, float] = field(default_factory=dict)
    failed_on: dict[str, Failure] = field(default_factory=dict)
    fence: int = 0
    must_fence: bool = False
    units: float = 1.0
    charged_s: float = 0.0
    beside: list[tuple[str, int]] = field(default_factory=list)
    told: tuple[float, float] | None = None
    models: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.job.id

    @property
    def is_particular(self) -> bool:
        """Whether it may have to wait where other jobs of its model need not: those behind it may pass."""
        job = self.job
        return bool(
            job.adapter or self.models or self.lost_on or self.refused_at or self.failed_on or self.beside
        )

    def is_attempt(self, worker: str, attempt: int) -> bool:
        """Whether this is the attempt that the books know as the current one, at the worker that has it."""
        return self.phase in HOLDS_SLOT and (self.worker, self.attempt) == (worker, attempt)

    def refused_lately(self, worker: str, now: float) -> bool:
        refused_at = self.refused_at.get(worker)
        return refused_at is not None and now - refused_at < REFUSAL_REMEMBERED_S

    def failed_lately(self, worker: str, now: float) -> bool:
        failure = self.failed_on.get(worker)
        return failure is not None and now - failure.at < FAILURE_REMEMBERED_S
