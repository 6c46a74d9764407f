"""What goes into the scheduler's core. Each says which question it answers: job, attempt, worker."""

from dataclasses import dataclass

from schemas.catalog import Model
from schemas.fleet import ModelReplicas
from schemas.jobs import Job
from schemas.workers import AssignmentAnswer, Finished, Heartbeat


@dataclass(frozen=True, slots=True)
class JobArrived:
    """An accepted job was delivered.

    handle: acks the stored message; sequence: its place in the stream; trace: the context it came with.
    """

    job: Job
    handle: str
    sequence: int
    trace: str = ""


@dataclass(frozen=True, slots=True)
class JobFinished:
    worker: str
    finished: Finished


@dataclass(frozen=True, slots=True)
class AssignmentAnswered:
    job: str
    attempt: int
    worker: str
    answer: AssignmentAnswer


@dataclass(frozen=True, slots=True)
class AssignmentFailed:
    """No answer. is_gone: nobody listens at the worker's subject any more."""

    job: str
    attempt: int
    worker: str
    is_gone: bool


@dataclass(frozen=True, slots=True)
class HeartbeatSeen:
    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """A probe found nobody at the worker's subject."""

    worker: str


@dataclass(frozen=True, slots=True)
class CancelRequested:
    job: str


@dataclass(frozen=True, slots=True)
class ResultChecked:
    """Answer to CheckResult: whether the job's terminal event is stored."""

    job: str
    attempt: int
    is_stored: bool


@dataclass(frozen=True, slots=True)
class ModelChanged:
    """A model was added or changed; None: removed."""

    name: str
    model: Model | None


@dataclass(frozen=True, slots=True)
class ReplicasChanged:
    """What the autoscaler has recorded of a model; None: nothing any more."""

    model: str
    replicas: ModelReplicas | None


@dataclass(frozen=True, slots=True)
class Settled:
    """Everything that was there before this scheduler took office is known: start placing."""


@dataclass(frozen=True, slots=True)
class Ticked:
    pass


Event = (
    JobArrived
    | JobFinished
    | AssignmentAnswered
    | AssignmentFailed
    | HeartbeatSeen
    | WorkerGone
    | CancelRequested
    | ResultChecked
    | ModelChanged
    | ReplicasChanged
    | Settled
    | Ticked
)
