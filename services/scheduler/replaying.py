"""The scheduler's core over a recording (services/process/recording.py)."""

from collections.abc import Iterator
from typing import assert_never

from stoker.services.process.recording import Difference, Head, replay
from stoker.services.scheduler.core import Scheduler
from stoker.services.scheduler.protocol.commands import (
    Acknowledge,
    AcknowledgeEnded,
    Assign,
    Cancel,
    CheckResult,
    Command,
    EndJob,
    LoadOnWorker,
    Notify,
    Probe,
    PublishDepth,
    ReadOnWorker,
    Record,
    Revoke,
)
from stoker.services.scheduler.protocol.events import Event

CORE = "scheduler"


def describe(command: Command) -> str:
    """A command in a few words, the same for the same decision."""
    name = type(command).__name__
    match command:
        case Assign(worker=worker, assignment=given):
            return f"{name} {given.job.id} #{given.attempt} to {worker}, {given.spec.name}, {given.tier}"
        case Acknowledge(handle=handle) | AcknowledgeEnded(handle=handle):
            return f"{name} {handle}"
        case EndJob(job=job, event=event):
            return f"{name} {job.id} {type(event).__name__}"
        case Notify(job=job, event=event):
            return f"{name} {job.id} {type(event).__name__}"
        case Cancel(worker=worker, job=job_id, attempt=attempt):
            return f"{name} {job_id} #{attempt} on {worker}"
        case Revoke(worker=worker, job=job_id, attempt=attempt):
            return f"{name} {job_id} #{attempt} on {worker}"
        case LoadOnWorker(worker=worker, model=model, spec=spec):
            return f"{name} {model}/{spec.name} on {worker}"
        case ReadOnWorker(worker=worker, model=model, spec=spec):
            return f"{name} {model}/{spec.name} on {worker}"
        case Probe(worker=worker):
            return f"{name} {worker}"
        case CheckResult(job=job_id, attempt=attempt):
            return f"{name} {job_id} #{attempt}"
        case PublishDepth(depth=depth):
            return f"{name} {depth.model} {depth.queued}+{depth.running}"
        case Record(event=event):
            return f"{name} {event.kind} {event.subject}"
        case _:
            assert_never(command)


def replayed(head: Head, lines: Iterator[bytes]) -> Iterator[Difference]:
    """Where the core of today differs from the one that was recorded. Raises BadRecording."""
    return replay(lines, Scheduler(head.term, head.now), Event, describe)
