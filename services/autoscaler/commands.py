"""What the autoscaler's core wants done, in order."""

from dataclasses import dataclass

from stoker.schemas.catalog import ResourceProfile, Spec
from stoker.schemas.fleet import ModelReplicas, PlatformEvent, Replica


@dataclass(frozen=True, slots=True)
class Record:
    """Write this to the bucket; a launch is recorded before it is ordered, so that none is forgotten."""

    replicas: ModelReplicas


@dataclass(frozen=True, slots=True)
class Forget:
    """The model is gone, and its replicas are."""

    model: str


@dataclass(frozen=True, slots=True)
class Launch:
    model: str
    replica: Replica
    spec: Spec
    profile: ResourceProfile


@dataclass(frozen=True, slots=True)
class Stop:
    """Have a replica finish what it runs and end; cut short after grace_s."""

    replica: str
    launcher: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class Announce:
    event: PlatformEvent


Command = Record | Forget | Launch | Stop | Announce
