"""What goes into the scheduler's core. Each says which question it answers: job, attempt, worker."""

from typing import Literal

import msgspec

from stoker.schemas.catalog import Model
from stoker.schemas.fleet import JobView, ModelReplicas
from stoker.schemas.jobs import Job, Status
from stoker.schemas.workers import AssignmentAnswer, Finished, Heartbeat

Stored = Literal["stored", "not_stored", "unknown"]
"""Whether a job's terminal event is stored; unknown: that could not be found out, and says nothing."""


class Stimulus(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Base of all events."""


class JobArrived(Stimulus, frozen=True):
    """An accepted job was delivered.

    handle: acks the stored message; sequence: its place in the stream; trace: the context it came with.
    may_have_run: it may have been given to a worker by an earlier leader, or have ended under the same id.
    unreadable: why it cannot be read, where that is so: it is to be ended.
    """

    job: Job
    handle: str
    sequence: int
    trace: str = ""
    may_have_run: bool = False
    unreadable: str = ""


class EarlierJobsArrived(Stimulus, frozen=True):
    """Every job that was in the stream when this term began has been delivered."""


class EndingsListed(Stimulus, frozen=True):
    """The last jobs that ended, oldest first."""

    endings: tuple[JobView, ...]


class Fenced(Stimulus, frozen=True):
    """From now on no attempt before this one can end the job. fence: number of the record that says so."""

    job: str
    attempt: int
    fence: int


class JobFinished(Stimulus, frozen=True):
    worker: str
    finished: Finished


class AssignmentAnswered(Stimulus, frozen=True):
    job: str
    attempt: int
    worker: str
    answer: AssignmentAnswer


class AssignmentFailed(Stimulus, frozen=True):
    """No answer. is_gone: nobody listens at the worker's subject at this moment."""

    job: str
    attempt: int
    worker: str
    is_gone: bool


class HeartbeatSeen(Stimulus, frozen=True):
    heartbeat: Heartbeat


class WorkerGone(Stimulus, frozen=True):
    """The server says that nobody listens at the worker's subject, at this moment."""

    worker: str


class CancelRequested(Stimulus, frozen=True):
    job: str


class ResultChecked(Stimulus, frozen=True):
    """Whether the job has ended, found out for this attempt. status: how, where it is stored."""

    job: str
    attempt: int
    found: Stored
    status: Status = "completed"


class ModelChanged(Stimulus, frozen=True):
    """A model was added or changed; None: removed."""

    name: str
    model: Model | None


class PossibleNoted(Stimulus, frozen=True):
    """An earlier leader knew that some worker could run a model, as it was then."""

    name: str
    model: Model


class ReplicasChanged(Stimulus, frozen=True):
    """What the autoscaler has recorded of a model; None: nothing any more."""

    model: str
    replicas: ModelReplicas | None


class Settled(Stimulus, frozen=True):
    """The catalog is read, the workers had time to answer, and jobs have come: start placing."""


class Ticked(Stimulus, frozen=True):
    pass


Event = (
    JobArrived
    | EarlierJobsArrived
    | EndingsListed
    | Fenced
    | JobFinished
    | AssignmentAnswered
    | AssignmentFailed
    | HeartbeatSeen
    | WorkerGone
    | CancelRequested
    | ResultChecked
    | ModelChanged
    | PossibleNoted
    | ReplicasChanged
    | Settled
    | Ticked
)
