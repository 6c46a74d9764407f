"""Stopping: every task ends, whatever it makes of being cancelled."""

import asyncio

import pytest

from services.process import running


async def test_a_task_that_loses_its_cancellation_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "CANCEL_AGAIN_S", 0.05)
    lost = 0

    async def deaf_at_first() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1
                if lost == 2:
                    raise

    stopping = asyncio.Event()
    asyncio.get_running_loop().call_soon(stopping.set)
    async with asyncio.timeout(5):
        await running.until(stopping, deaf_at_first())
    assert lost == 2


async def test_an_error_is_raised_as_it_is() -> None:
    async def wrong() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        await running.until(asyncio.Event(), wrong(), asyncio.Event().wait())
