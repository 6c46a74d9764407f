"""What every launcher must do; a test class per launcher inherits this and gives its fixtures.

A launched worker here is one that cannot reach NATS for as long as the test takes: launching is tested, not
serving. Whatever a test starts it stops, and after `close` nothing of the launcher runs in this process.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from stoker.schemas.catalog import ResourceProfile, Spec
from stoker.services.autoscaler.events import Seen
from stoker.services.autoscaler.launchers.base import Launcher, LaunchError, Order, OutOfStock
from tests.fixtures.cancelling import cancel_at_each_await

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
    """`make` gives a launcher of the same cluster each time; `profile` one that it can launch. told_s: within how
    long a stop has been told.
    """

    make: Callable[[], Launcher]
    end: Callable[[str], Awaitable[None]]
    profile: ResourceProfile
    told_s = 0.2

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

    async def test_stopped_at_once_it_ends_all_the_same(self) -> None:
        """Before it has come up: there is nothing to finish yet."""
        async with self.opened() as launcher:
            await launcher.launch(order("r-20", self.profile))
            await launcher.stop("r-20", 10.0)
            await until(launcher, lambda seen: "r-20" not in seen or seen["r-20"].state == "ended")
            assert await self.states(launcher) in ({}, {"r-20": "ended"})

    async def test_stopped_before_it_was_launched_twice_and_after_its_end_says_nothing(self) -> None:
        async with self.opened() as launcher:
            await launcher.stop("r-21", 0.0)
            await launcher.stop("r-21", 1.0)
            await launcher.launch(order("r-21", self.profile))
            async with asyncio.TaskGroup() as both:
                both.create_task(launcher.stop("r-21", 10.0))
                both.create_task(launcher.stop("r-21", 10.0))
            await until(launcher, lambda seen: "r-21" not in seen or seen["r-21"].state == "ended")
            await launcher.stop("r-21", 10.0)
            await launcher.stop("r-21", 0.0)
            await until(launcher, lambda seen: seen == {})
            await launcher.stop("r-21", 0.0)
            assert await self.states(launcher) == {}

    async def test_launched_twice_there_is_one(self) -> None:
        """The second order is refused, or changes nothing; it never takes the first away."""
        async with self.opened() as launcher:
            await launcher.launch(order("r-22", self.profile))
            await until(launcher, lambda seen: "r-22" in seen and seen["r-22"].state == "running")
            try:
                await launcher.launch(order("r-22", self.profile))
            except LaunchError as error:
                assert not isinstance(error, OutOfStock)
            assert await self.states(launcher) == {"r-22": "running"}

    async def test_two_launched_at_the_same_time_are_both_there(self) -> None:
        async with self.opened() as launcher:
            async with asyncio.TaskGroup() as both:
                both.create_task(launcher.launch(order("r-23", self.profile)))
                both.create_task(launcher.launch(order("r-24", self.profile)))
                both.create_task(launcher.look())
            await until(launcher, lambda seen: seen.keys() == {"r-23", "r-24"})
            assert "ended" not in (await self.states(launcher)).values()

    async def test_a_stop_that_is_cancelled_has_told_it_and_leaves_nothing_running_here(self) -> None:
        async with self.opened() as launcher:
            await launcher.launch(order("r-25", self.profile))
            before = asyncio.all_tasks()
            stopping = asyncio.create_task(launcher.stop("r-25", 30.0))
            await asyncio.sleep(self.told_s)
            stopping.cancel()
            await asyncio.wait([stopping])
            await until(launcher, lambda seen: "r-25" not in seen or seen["r-25"].state == "ended")
            assert asyncio.all_tasks() <= before

    async def test_cancelled_at_each_await_a_launch_is_seen_or_never_was(self) -> None:
        """Nothing is started that `look` does not list."""
        async with self.opened() as launcher:
            count = 0

            async def launch() -> None:
                nonlocal count
                count += 1
                await launcher.launch(order(f"r-3{count}", self.profile))

            async def check(_: int) -> None:
                before = asyncio.all_tasks()
                await launcher.stop(f"r-3{count}", 0.0)
                await self.cleared(launcher)
                assert asyncio.all_tasks() <= before

            await cancel_at_each_await(launch, check)

    async def test_a_second_launcher_sees_what_the_first_stops(self) -> None:
        async with self.opened() as first, self.opened() as second:
            await first.launch(order("r-26", self.profile))
            await until(second, lambda seen: "r-26" in seen)
            await first.stop("r-26", 10.0)
            await until(second, lambda seen: "r-26" not in seen or seen["r-26"].state == "ended")
            assert await self.states(second) in ({}, {"r-26": "ended"})

    async def test_closing_ends_no_worker_and_leaves_no_task_here(self) -> None:
        before = asyncio.all_tasks()
        first = self.make()
        await first.launch(order("r-27", self.profile))
        await first.close()
        assert asyncio.all_tasks() <= before
        async with self.opened() as second:
            await until(second, lambda seen: "r-27" in seen and seen["r-27"].state != "ended")

    async def states(self, launcher: Launcher) -> dict[str, str]:
        """Every replica that is seen, and its state."""
        return {replica: one.state for replica, one in (await launcher.look()).items()}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Launcher]:
        """A launcher; whatever is there at the end of the block is ended."""
        launcher = self.make()
        try:
            yield launcher
            await self.cleared(launcher)
        finally:
            await launcher.close()

    @staticmethod
    async def cleared(launcher: Launcher) -> None:
        """End everything: workers that look for NATS end when they are told to, wherever they are in starting."""
        began = time.monotonic()
        seen = await launcher.look()
        while seen:
            is_late = time.monotonic() - began > 3.0
            for replica, one in seen.items():
                await launcher.stop(replica, 0.0 if one.state == "ended" or is_late else 0.2)
            assert time.monotonic() - began < 30.0, seen
            await asyncio.sleep(0.05)
            seen = await launcher.look()


def _fields(profile: ResourceProfile) -> dict[str, object]:
    return {name: getattr(profile, name) for name in profile.__struct_fields__}
