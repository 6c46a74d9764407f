"""Tasks: each has an owner, errors go up, cancelling is a normal end, waits have limits with names."""

import asyncio
from functools import partial

import pytest

from stoker.services.process.tasks import LimitExceeded, OwnerClosed, TaskOwner, cleanup, limit, together, until


async def forever() -> None:
    await asyncio.Event().wait()


async def wrong() -> None:
    raise KeyError("x")


async def test_leaving_the_block_ends_its_tasks_and_waits_for_them() -> None:
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await forever()
        finally:
            async with cleanup(name, 1.0):
                await asyncio.sleep(0)
            ended.append(name)

    async with TaskOwner("test") as tasks:
        tasks.start(work, "a")
        tasks.start(work, "b")
        await asyncio.sleep(0)
        assert tasks.is_open
    assert sorted(ended) == ["a", "b"]
    assert not tasks.is_open


async def test_an_error_of_a_task_ends_the_others_and_is_raised_as_it_is() -> None:
    ended = asyncio.Event()

    async def other() -> None:
        try:
            await forever()
        finally:
            ended.set()

    with pytest.raises(KeyError, match="x"):
        async with TaskOwner("test") as tasks:
            tasks.start(other)
            tasks.start(wrong)
            await forever()
    assert ended.is_set()


async def test_an_error_of_contained_work_ends_that_work_alone() -> None:
    done = asyncio.Event()

    async def other() -> None:
        await asyncio.sleep(0.01)
        done.set()

    async with TaskOwner("test") as tasks:
        tasks.start_contained(wrong)
        tasks.start(other)
        await asyncio.wait_for(done.wait(), 5)
    assert done.is_set()


async def test_nothing_can_be_started_outside_the_block() -> None:
    tasks = TaskOwner("test")
    with pytest.raises(OwnerClosed, match="test"):
        tasks.start(forever)
    async with tasks:
        with pytest.raises(OwnerClosed, match="twice"):
            await tasks.__aenter__()
    with pytest.raises(OwnerClosed):
        tasks.start(forever)


async def test_a_callback_may_start_work() -> None:
    done = asyncio.Event()

    async def work(event: asyncio.Event) -> None:
        event.set()

    async with TaskOwner("test") as tasks:
        asyncio.get_running_loop().call_soon(tasks.start, work, done)
        await asyncio.wait_for(done.wait(), 5)
    assert done.is_set()


async def test_a_task_that_loses_its_cancellation_is_cancelled_again() -> None:
    lost = 0

    async def deaf_at_first() -> None:
        nonlocal lost
        while True:
            try:
                await forever()
            except asyncio.CancelledError:
                lost += 1
                if lost == 2:
                    raise

    stopping = asyncio.Event()
    asyncio.get_running_loop().call_soon(stopping.set)
    async with asyncio.timeout(5):
        await until(stopping, deaf_at_first)
    assert lost == 2


async def test_until_ends_when_one_returns_or_it_is_told_to_stop() -> None:
    async def brief() -> None:
        await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await until(asyncio.Event(), brief, forever)
    stopping = asyncio.Event()
    stopping.set()
    async with asyncio.timeout(5):
        await until(stopping, forever)
    assert stopping.is_set()


async def test_until_raises_an_error_as_it_is() -> None:
    with pytest.raises(KeyError, match="x"):
        await until(asyncio.Event(), wrong, forever)


async def test_a_limit_says_what_took_too_long() -> None:
    with pytest.raises(LimitExceeded, match=r"the answer took longer than 0\.01 s"), limit("the answer", 0.01):
        await forever()
    with limit("nothing", 1.0):
        pass


async def test_cleaning_up_goes_on_when_cancelled_and_is_given_up_after_its_limit() -> None:
    steps: list[str] = []

    async def work() -> None:
        try:
            await forever()
        finally:
            async with cleanup("the rest", 0.05):
                await asyncio.sleep(0.01)
                steps.append("done")
                await forever()
            steps.append("left")

    async with TaskOwner("test") as tasks:
        tasks.start(work)
        await asyncio.sleep(0)
    assert steps == ["done", "left"]


@pytest.mark.parametrize("turns", range(6))
async def test_an_owner_that_is_cancelled_at_any_await_leaves_no_task(turns: int) -> None:
    before = asyncio.all_tasks()

    async def owner() -> None:
        async with TaskOwner("test") as tasks:
            tasks.start(forever)
            await asyncio.sleep(0)
            tasks.start_contained(forever)
            await forever()

    task = asyncio.create_task(owner())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before


async def test_work_done_together_is_waited_for_and_the_first_error_ends_the_rest() -> None:
    done: list[int] = []

    async def work(number: int) -> None:
        await asyncio.sleep(0)
        done.append(number)

    await together(partial(work, number) for number in range(3))
    assert sorted(done) == [0, 1, 2]
    await together([])
    with pytest.raises(KeyError, match="x"):
        await together([forever, wrong])
