"""What a launcher is. Adding one: a file beside this with a class like `Launcher`, a line in `registry.py`,
and a test class that inherits tests/contract/launcher_conformance.py. docs/new-launcher.md does it step by
step.

A launcher keeps no state that it could not find again: whatever it starts carries the replica's id and the
cluster's name (a label, an environment variable, a job's name), and `look` lists by these. So a restarted
autoscaler neither forgets nor doubles nor orphans anything.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from stoker.schemas.catalog import ResourceProfile, Spec
from stoker.services.autoscaler.events import Seen
from stoker.services.process.devices import Card

DEVICES = "CUDA_VISIBLE_DEVICES"
WORDS = re.compile("[a-z0-9]+")


class LaunchError(Exception):
    """A replica could not be started. reason: one word for the condition of its spec."""

    reason = "LaunchFailed"


class OutOfStock(LaunchError):
    """There is none of this hardware left."""

    reason = "OutOfStock"


class Misconfigured(LaunchError):
    """The launcher's configuration or its rights do not allow it: somebody has to change them."""

    reason = "Misconfigured"


class Unavailable(LaunchError):
    """The launcher itself (a daemon, an API) cannot be reached."""

    reason = "LauncherUnavailable"


@dataclass(frozen=True, slots=True)
class Order:
    """Start one worker. arguments: for `stoker.services.worker`. env: how it reaches NATS, and the spec's
    own.
    """

    replica: str
    model: str
    spec: Spec
    profile: ResourceProfile
    arguments: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)

    @property
    def units(self) -> int:
        """Units of the profile that the replica takes."""
        return self.spec.profile_count

    @property
    def gpus(self) -> int:
        return self.units * self.profile.gpu.count if self.profile.gpu is not None else 0

    @property
    def memory_bytes(self) -> int:
        return self.units * self.profile.memory_bytes

    @property
    def cpu(self) -> float:
        """Cores."""
        return self.units * self.profile.cpu


class Launcher(Protocol):
    """Starts, lists and stops workers of one cluster."""

    name: str

    async def launch(self, order: Order) -> None:
        """Start a worker; returns as soon as it is on its way. Never two of one id. Raises LaunchError."""

    async def look(self) -> dict[str, Seen]:
        """Every replica of the cluster that there is, by id; ended ones until they are stopped.

        May wait for a change for a few seconds. Raises Unavailable.
        """

    async def stop(self, replica: str, grace_s: float) -> None:
        """Tell it to finish what it runs; end it after `grace_s`; clear an ended one away.

        May wait for its end, `grace_s` at most; cancelling the wait leaves it told. Says nothing when there is
        no such replica. Raises Unavailable.
        """

    async def close(self) -> None:
        """Let go of connections; workers go on, and nothing of the launcher runs in this process any more."""


def local_weights(order: Order) -> list[str]:
    """Paths that the order's weights lie at; a container needs them where they are."""
    urls = [order.spec.url, *(adapter.url for adapter in (*order.spec.adapters, *order.spec.loras))]
    return sorted({url.removeprefix("file://") for url in urls if url.startswith("file://")})


def cards_for(order: Order, present: Sequence[Card], taken: Collection[str]) -> tuple[str, ...]:
    """The GPUs that an order is given, by their UUIDs: of those of its kind, none that another replica has.

    None where it needs none, says itself which, or the driver lists none: then nothing is known of them. Raises
    OutOfStock.
    """
    gpu = order.profile.gpu
    if gpu is None or not present or DEVICES in order.env:
        return ()
    wanted = set(WORDS.findall(gpu.kind.lower())) - {"nvidia", "gpu"}
    free = [card.uuid for card in present if card.uuid not in taken and wanted <= _words(card)]
    if len(free) < order.gpus:
        kind = f" of kind {gpu.kind}" if gpu.kind else ""
        raise OutOfStock(f"{order.profile.name}: {len(free)} GPUs{kind} are free, {order.gpus} needed")
    return tuple(free[: order.gpus])


def _words(card: Card) -> set[str]:
    return set(WORDS.findall(card.name.lower()))


def check_inventory(order: Order, units_in_use: int) -> None:
    """Raises OutOfStock when the profile's inventory does not hold the order as well."""
    inventory = order.profile.inventory
    if inventory is not None and units_in_use + order.units > inventory:
        raise OutOfStock(
            f"{order.profile.name}: {units_in_use} of {inventory} units are in use, {order.units} needed"
        )
