"""The autoscaler's core over a recording (services/process/recording.py)."""

from collections.abc import Iterator
from typing import assert_never

from stoker.services.autoscaler.commands import Announce, Command, Forget, Launch, Record, Stop
from stoker.services.autoscaler.core import Autoscaler
from stoker.services.autoscaler.events import Event
from stoker.services.process.recording import Difference, Head, replay

CORE = "autoscaler"


def describe(command: Command) -> str:
    """A command in a few words, the same for the same decision."""
    name = type(command).__name__
    match command:
        case Record(replicas):
            phases = ", ".join(f"{one.id} {one.phase}" for one in replicas.replicas)
            desired = ", ".join(f"{spec.spec}={spec.desired}" for spec in replicas.specs)
            return f"{name} {replicas.model}: {desired}; {phases}"
        case Forget(model):
            return f"{name} {model}"
        case Launch(model, replica, spec):
            return f"{name} {replica.id} of {model}, {spec.name}"
        case Stop(replica, _, grace_s):
            return f"{name} {replica} within {grace_s:.3f} s"
        case Announce(event):
            return f"{name} {event.kind} {event.worker}"
        case _:
            assert_never(command)


def replayed(head: Head, lines: Iterator[bytes]) -> Iterator[Difference]:
    """Where the core of today differs from the one that was recorded. Raises BadRecording."""
    return replay(lines, Autoscaler(head.term), Event, describe)
