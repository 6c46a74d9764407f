"""How many posts a receiver has at a time, and when it is away. The clock is the test's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpcore
import pytest

from stoker.services.gateway import webhook_receivers as module
from stoker.services.gateway.webhook_receivers import AWAY_AFTER, AWAY_S, EACH, Away, Receivers

URL = "http://one.example:80/hook"


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def receivers(clock: Clock) -> Receivers:
    return Receivers(clock)


async def post(receivers: Receivers, error: Exception | None = None, url: str = URL) -> None:
    """One that ends with an error, which is then known."""
    try:
        async with receivers.turn(url):
            if error is not None:
                raise error
    except (TimeoutError, httpcore.TimeoutException, OSError) as raised:
        assert raised is error


async def is_away(receivers: Receivers, url: str = URL) -> bool:
    try:
        await post(receivers, url=url)
    except Away:
        return True
    return False


@asynccontextmanager
async def all_places(receivers: Receivers) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for _ in range(EACH):
            await stack.enter_async_context(receivers.turn(URL))
        yield


@pytest.mark.parametrize("slow", [TimeoutError(), httpcore.ReadTimeout(), httpcore.ConnectTimeout()])
async def test_one_that_runs_out_of_time_again_and_again_is_away(
    receivers: Receivers, clock: Clock, slow: Exception
) -> None:
    for _ in range(AWAY_AFTER - 1):
        await post(receivers, slow)
    assert not await is_away(receivers), "one that answers in between begins anew"
    for _ in range(AWAY_AFTER):
        await post(receivers, slow)
    clock.now += AWAY_S - 1
    assert await is_away(receivers)
    assert not await is_away(receivers, "http://other.example/hook")


async def test_when_its_time_is_over_one_post_looks_for_all(receivers: Receivers, clock: Clock) -> None:
    for _ in range(AWAY_AFTER):
        await post(receivers, TimeoutError())
    clock.now += AWAY_S
    async with receivers.turn(URL):
        assert await is_away(receivers), "another one waits for what this one finds"
    assert not await is_away(receivers)
    for _ in range(AWAY_AFTER):
        await post(receivers, TimeoutError())
    clock.now += AWAY_S
    await post(receivers, TimeoutError())
    assert await is_away(receivers), "it is still not there"


async def test_one_that_refuses_quickly_costs_nothing(receivers: Receivers) -> None:
    for _ in range(10 * AWAY_AFTER):
        await post(receivers, OSError())
    assert not await is_away(receivers)


async def test_so_many_at_a_time_and_the_next_waits_for_its_turn(
    receivers: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with all_places(receivers):
        waiting = asyncio.create_task(post(receivers))
        assert not await is_away(receivers, "http://other.example/hook")
        assert not waiting.done()
    await waiting
    monkeypatch.setattr(module, "TURN_S", 0.01)
    async with all_places(receivers):
        assert await is_away(receivers)
    assert not await is_away(receivers)


async def test_what_is_cancelled_gives_its_place_back(receivers: Receivers) -> None:
    async with all_places(receivers):
        waiting = [asyncio.create_task(post(receivers)) for _ in range(5)]
        await asyncio.sleep(0)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    async with all_places(receivers):
        pass
    assert receivers._known == {}


async def test_receivers_of_which_nothing_is_known_are_forgotten(
    receivers: Receivers, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_KNOWN", 10)
    for number in range(30):
        await post(receivers, TimeoutError(), f"http://{number}.example/")
        clock.now += AWAY_S / 5
    assert len(receivers._known) <= 11
    await post(receivers)
    assert "one.example:80" not in receivers._known
