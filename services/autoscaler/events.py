"""What the autoscaler's core takes in. Structs, so that they can be recorded and read again."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from stoker.schemas.catalog import Model, ResourceProfile
from stoker.schemas.fleet import ModelReplicas, QueueDepth
from stoker.schemas.workers import Heartbeat


class HeartbeatSeen(msgspec.Struct, frozen=True, tag=True):
    heartbeat: Heartbeat


class DepthSeen(msgspec.Struct, frozen=True, tag=True):
    depth: QueueDepth


class ModelChanged(msgspec.Struct, frozen=True, tag=True):
    """None: it was removed."""

    name: str
    model: Model | None


class ProfileChanged(msgspec.Struct, frozen=True, tag=True):
    """None: it was removed."""

    name: str
    profile: ResourceProfile | None


class Restored(msgspec.Struct, frozen=True, tag=True):
    """What an earlier autoscaler recorded of a model; comes before anything else of it."""

    replicas: ModelReplicas


class Launched(msgspec.Struct, frozen=True, tag=True):
    """The launcher has taken the order; the replica is starting."""

    replica: str


class LaunchFailed(msgspec.Struct, frozen=True, tag=True):
    """The launcher has refused: out of stock, or something is wrong with the order."""

    replica: str
    reason: str
    message: str


class Seen(msgspec.Struct, frozen=True):
    """A replica as its launcher sees it. message: why it has ended."""

    state: Literal["pending", "running", "ended"]
    message: str = ""


class LauncherLooked(msgspec.Struct, frozen=True, tag=True):
    """Everything of ours that a launcher had when it was asked at began_at; what is not here does not exist."""

    launcher: str
    began_at: float
    replicas: Mapping[str, Seen] = msgspec.field(default_factory=dict)


class Settled(msgspec.Struct, frozen=True, tag=True):
    """Records, catalog and launchers have been read: decisions may begin."""


class Ticked(msgspec.Struct, frozen=True, tag=True):
    pass


Event = (
    HeartbeatSeen | DepthSeen | Ticked | LauncherLooked | Launched | LaunchFailed | ModelChanged
    | ProfileChanged | Restored | Settled
)  # fmt: skip
