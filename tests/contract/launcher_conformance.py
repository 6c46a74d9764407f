"""What every launcher must do; a test class per launcher inherits this and gives its fixtures.

A launched worker here is one that cannot reach NATS for as long as the test takes: launching is tested, not
serving.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from schemas.catalog import ResourceProfile, Spec
from services.autoscaler.events import Seen
from services.autoscaler.launchers.base import Launcher, Order, OutOfStock

NOWHERE = "nats://127.0.0.1:9"


def order(replica: str, profile: ResourceProfile, **env: str) -> Order:
    spec = Spec("s", "synthetic", "", profile=profile.name)
    arguments = ("--name", replica, "--spec", "m/s", "--engines", "synthetic", "--profile", profile.name)
    return Order(replica, "m", spec, profile, arguments, {"STOKER_NATS": NOWHERE, **env})


async def until(
    launcher: Launcher, is_so: Callable[[dict[str, Seen]], bool], seconds: float = 20.0
) -> dict[str, Seen]:
    """What the launcher sees once it is so."""
    deadline = time.monotonic() + seconds
    while True:
        seen = await launcher.look()
        if is_so(seen):
            return seen
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.05)


class LauncherConformance:
    """`make` gives a launcher of the same cluster each time; `profile` one that it can launch."""

    make: Callable[[], Launcher]
    end: Callable[[str], Awaitable[None]]
    profile: ResourceProfile

    async def test_nothing_is_there_at_first(self) -> None:
        launcher = self.make()
        assert await launcher.look() == {}
        await launcher.stop("nobody", 1.0)
        await launcher.close()

    async def test_a_replica_is_launched_seen_and_stopped(self) -> None:
        launcher = self.make()
        await launcher.launch(order("r-1", self.profile))
        await until(launcher, lambda seen: seen.keys() == {"r-1"} and seen["r-1"].state != "ended")
        await launcher.stop("r-1", 10.0)
        await until(launcher, lambda seen: "r-1" not in seen or seen["r-1"].state == "ended")
        await launcher.stop("r-1", 0.0)
        await until(launcher, lambda seen: seen == {})
        assert await launcher.look() == {}
        await launcher.close()

    async def test_a_new_launcher_finds_what_an_earlier_one_started(self) -> None:
        first = self.make()
        await first.launch(order("r-2", self.profile))
        await first.close()
        second = self.make()
        await until(second, lambda seen: "r-2" in seen)
        await second.stop("r-2", 10.0)
        await until(second, lambda seen: "r-2" not in seen or seen["r-2"].state == "ended")
        await second.stop("r-2", 0.0)
        await until(second, lambda seen: seen == {})
        assert await second.look() == {}
        await second.close()

    async def test_one_that_died_is_seen_with_a_reason_until_it_is_cleared_away(self) -> None:
        launcher = self.make()
        await launcher.launch(order("r-3", self.profile))
        await until(launcher, lambda seen: seen["r-3"].state == "running")
        await self.end("r-3")
        seen = await until(launcher, lambda seen: seen["r-3"].state == "ended")
        assert seen["r-3"].message
        await launcher.stop("r-3", 0.0)
        await until(launcher, lambda seen: seen == {})
        await launcher.close()

    async def test_an_inventory_that_is_used_up_is_a_stock_out(self) -> None:
        launcher = self.make()
        one = ResourceProfile(**{**_fields(self.profile), "name": "one", "inventory": 1})
        await launcher.launch(order("r-4", one))
        await until(launcher, lambda seen: "r-4" in seen)
        with pytest.raises(OutOfStock, match="1 of 1 units are in use"):
            await launcher.launch(order("r-5", one))
        await launcher.stop("r-4", 10.0)
        await until(launcher, lambda seen: "r-4" not in seen or seen["r-4"].state == "ended")
        await launcher.stop("r-4", 0.0)
        await until(launcher, lambda seen: seen == {})
        await launcher.close()


def _fields(profile: ResourceProfile) -> dict[str, object]:
    return {name: getattr(profile, name) for name in profile.__struct_fields__}
