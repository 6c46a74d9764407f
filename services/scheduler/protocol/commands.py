"""What comes out of the scheduler's core: instructions for the shell, which holds no policy."""

from dataclasses import dataclass

from schemas.catalog import Spec
from schemas.fleet import PlatformEvent, QueueDepth
from schemas.job_events import Provisioning, Queued, Terminal
from schemas.jobs import Job
from schemas.workers import Assignment


@dataclass(frozen=True, slots=True)
class Assign:
    """trace: the context that the job came with."""

    worker: str
    assignment: Assignment
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The job's result is stored: take it out of the stream."""

    handle: str


@dataclass(frozen=True, slots=True)
class EndJob:
    """Store this terminal event, then take the job out of the stream."""

    job: Job
    handle: str
    event: Terminal


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell who watches the job where it stands."""

    job: Job
    event: Queued | Provisioning


@dataclass(frozen=True, slots=True)
class CancelOnWorker:
    worker: str
    job: str
    attempt: int


@dataclass(frozen=True, slots=True)
class LoadOnWorker:
    worker: str
    model: str
    spec: Spec
    evict: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask a silent worker whether it is there."""

    worker: str


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Look whether a job that its worker no longer mentions has ended."""

    job: str
    attempt: int
    gateway: str


@dataclass(frozen=True, slots=True)
class PublishDepth:
    depth: QueueDepth


@dataclass(frozen=True, slots=True)
class Record:
    """Keep an event for operators."""

    event: PlatformEvent


Command = (
    Assign
    | Acknowledge
    | EndJob
    | Notify
    | CancelOnWorker
    | LoadOnWorker
    | Probe
    | CheckResult
    | PublishDepth
    | Record
)
