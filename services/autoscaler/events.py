"""What the autoscaler's core takes in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from schemas.catalog import Model, ResourceProfile
from schemas.fleet import ModelReplicas, QueueDepth
from schemas.workers import Heartbeat


@dataclass(frozen=True, slots=True)
class HeartbeatSeen:
    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True)
class DepthSeen:
    depth: QueueDepth


@dataclass(frozen=True, slots=True)
class ModelChanged:
    """None: it was removed."""

    name: str
    model: Model | None


@dataclass(frozen=True, slots=True)
class ProfileChanged:
    """None: it was removed."""

    name: str
    profile: ResourceProfile | None


@dataclass(frozen=True, slots=True)
class Restored:
    """What an earlier autoscaler recorded of a model; comes before anything else of it."""

    replicas: ModelReplicas


@dataclass(frozen=True, slots=True)
class Launched:
    """The launcher has taken the order; the replica is starting."""

    replica: str


@dataclass(frozen=True, slots=True)
class LaunchFailed:
    """The launcher has refused: out of stock, or something is wrong with the order."""

    replica: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A replica as its launcher sees it. message: why it has ended."""

    state: Literal["pending", "running", "ended"]
    message: str = ""


@dataclass(frozen=True, slots=True)
class LauncherLooked:
    """Everything of ours that a launcher had when it was asked at began_at; what is not here does not exist."""

    launcher: str
    began_at: float
    replicas: Mapping[str, Seen] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settled:
    """Records, catalog and launchers have been read: decisions may begin."""


@dataclass(frozen=True, slots=True)
class Ticked:
    pass


Event = (
    HeartbeatSeen | DepthSeen | Ticked | LauncherLooked | Launched | LaunchFailed | ModelChanged
    | ProfileChanged | Restored | Settled
)  # fmt: skip
