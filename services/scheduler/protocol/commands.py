"""What comes out of the scheduler's core: instructions for the shell, which holds no policy.

`Revoke` takes an attempt back and says nothing about the job; only `Cancel`, which somebody asked for, makes a
worker end the job as cancelled.
"""

import msgspec

from stoker.schemas.catalog import Spec
from stoker.schemas.fleet import PlatformEvent, QueueDepth
from stoker.schemas.job_events import Downloading, Loading, Provisioning, Queued, Terminal
from stoker.schemas.jobs import Job
from stoker.schemas.workers import Assignment


class Instruction(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Base of all commands."""


class Assign(Instruction, frozen=True):
    """trace: the context that the job came with.

    must_fence: an earlier attempt may be alive: first see to it that it cannot end the job (results.py).
    """

    worker: str
    assignment: Assignment
    trace: str = ""
    must_fence: bool = False


class Acknowledge(Instruction, frozen=True):
    """The job's result is stored: take it out of the stream. order: first have its webhook posted."""

    handle: str
    order: Job | None = None


class AcknowledgeEnded(Instruction, frozen=True):
    """The job has ended and came again: take it out of the stream as soon as its result is stored."""

    job: Job
    handle: str


class EndJob(Instruction, frozen=True):
    """Store this terminal event, then take the job out of the stream. fence: as in Assignment."""

    job: Job
    handle: str
    event: Terminal
    fence: int = 0


class Notify(Instruction, frozen=True):
    """Tell who watches the job where it stands."""

    job: Job
    event: Queued | Provisioning | Downloading | Loading


class Cancel(Instruction, frozen=True):
    """Have a worker end a job as cancelled: somebody asked for that."""

    worker: str
    job: str
    attempt: int


class Revoke(Instruction, frozen=True):
    """Have a worker drop an attempt without a word about the job."""

    worker: str
    job: str
    term: int
    attempt: int


class LoadOnWorker(Instruction, frozen=True):
    worker: str
    model: str
    spec: Spec
    evict: tuple[str, ...]


class ReadOnWorker(Instruction, frozen=True):
    """Have a worker read weights that it will load as soon as there is room for them."""

    worker: str
    model: str
    spec: Spec


class Probe(Instruction, frozen=True):
    """Ask a silent worker whether it is there."""

    worker: str


class CheckResult(Instruction, frozen=True):
    """Look whether a job that its worker no longer mentions has ended."""

    job: str
    attempt: int


class PublishDepth(Instruction, frozen=True):
    depth: QueueDepth


class Record(Instruction, frozen=True):
    """Keep an event for operators."""

    event: PlatformEvent


Command = (
    Assign
    | Acknowledge
    | AcknowledgeEnded
    | EndJob
    | Notify
    | Cancel
    | Revoke
    | LoadOnWorker
    | ReadOnWorker
    | Probe
    | CheckResult
    | PublishDepth
    | Record
)
