"""Turns: so many at a time, of one key fewer, and what is left when somebody gives up."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.turns import Turns


def made(wait_s: float = 5.0) -> Turns:
    return Turns("uploads", "too_many_uploads", 4, 2, wait_s)


async def taken(turns: Turns, stack: AsyncExitStack, *senders: str) -> None:
    for sender in senders:
        await stack.enter_async_context(turns.turn(sender))


async def test_a_key_has_its_part_and_others_have_the_rest() -> None:
    turns = made()
    async with AsyncExitStack() as stack:
        await taken(turns, stack, "ada", "ada")
        with pytest.raises(RequestError) as refused:
            await taken(turns, stack, "ada")
        assert (refused.value.status, refused.value.code) == (429, "too_many_uploads")
        assert refused.value.retry_after_s and "2 uploads of this key" in str(refused.value)
        await taken(turns, stack, "bob", "bob")
    assert turns.senders == {}
    async with AsyncExitStack() as stack:
        await taken(turns, stack, "", "", "", "")  # where no keys are needed nobody is known


async def test_who_comes_when_all_places_are_taken_waits_and_then_is_refused() -> None:
    turns = made(0.05)
    async with AsyncExitStack() as stack:
        await taken(turns, stack, "", "", "", "")
        with pytest.raises(RequestError) as refused:
            await taken(turns, stack, "ada")
        assert (refused.value.status, refused.value.retry_after_s) == (503, 1)
        assert "ada" not in turns.senders
    turns = made()
    async with AsyncExitStack() as stack:
        await taken(turns, stack, "", "", "", "")
        waiting = [asyncio.create_task(taken(turns, stack, sender)) for sender in ("ada", "bob")]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        assert turns.senders == {"": 4, "bob": 1}
    async with AsyncExitStack() as again:
        await asyncio.gather(waiting[1], return_exceptions=True)
        await taken(turns, again, "ada")
