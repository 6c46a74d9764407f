"""What a runner says: in order for each job, joined where it is text, and at once where it comes alone."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stoker.services.worker.runner.in_process import InProcessOutbox
from stoker.services.worker.runner.messages import Message, Step, Text
from stoker.services.worker.runner.outbox import GAP_S
from tests.waiting import eventually

JOBS = st.sampled_from("abc")
TEXTS = st.builds(Text, JOBS, st.text("xyz", min_size=1, max_size=3), st.just(1), st.booleans())
MESSAGES = TEXTS | st.builds(Step, JOBS, st.integers(1, 9), st.just(9))


async def sent(messages: list[Message], gaps: list[int]) -> list[Any]:
    """What is handed on of messages that are put with this many turns of the loop between them."""
    heard: list[Any] = []
    outbox = InProcessOutbox(heard.append, asyncio.get_running_loop())
    for message, turns in zip(messages, gaps, strict=True):
        outbox.put(message)
        for _ in range(turns):
            await asyncio.sleep(0)
    await asyncio.sleep(2 * GAP_S)
    return heard


def by_job(messages: list[Any]) -> dict[str, list[Any]]:
    """What each job has said, text that follows text joined."""
    found: dict[str, list[Any]] = {}
    for message in messages:
        of_job = found.setdefault(message.job, [])
        last = of_job[-1] if of_job else None
        if isinstance(message, Text) and isinstance(last, Text) and last.is_reasoning == message.is_reasoning:
            of_job[-1] = last.with_more(message)
        else:
            of_job.append(message)
    return found


@given(st.lists(st.tuples(MESSAGES, st.integers(0, 2)), max_size=30))
def test_each_job_is_heard_as_it_spoke(said: list[tuple[Message, int]]) -> None:
    messages, gaps = [one for one, _ in said], [turns for _, turns in said]
    heard = asyncio.run(sent(messages, gaps))
    assert by_job(heard) == by_job(messages)


async def test_text_that_comes_alone_leaves_in_the_next_turn_and_more_of_it_waits() -> None:
    heard: list[Any] = []
    outbox = InProcessOutbox(heard.append, asyncio.get_running_loop())
    outbox.put(Text("a", "one", 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [one.text for one in heard] == ["one"]
    outbox.put(Text("a", "two", 1))
    outbox.put(Text("b", "other", 1))
    outbox.put(Text("a", "three", 1))
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(heard) == 1, "it waits for company"
    await asyncio.sleep(2 * GAP_S)
    assert [one.text for one in heard[1:]] == ["twothree", "other"]


async def test_what_is_no_text_waits_for_nothing_and_takes_the_text_before_it_along() -> None:
    heard: list[Any] = []
    outbox = InProcessOutbox(heard.append, asyncio.get_running_loop())
    outbox.put(Text("a", "one", 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    outbox.put(Text("a", "two", 1))
    outbox.put(Step("b", 1, 9))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert heard[1:] == [Text("a", "two", 1), Step("b", 1, 9)]


async def test_where_readers_cannot_take_more_pieces_text_waits_as_long_as_they_say() -> None:
    heard: list[Any] = []
    outbox = InProcessOutbox(heard.append, asyncio.get_running_loop())
    outbox.pace(0.15)
    outbox.put(Text("a", "t0 ", 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    for number in range(1, 10):
        outbox.put(Text("a", f"t{number} ", 1))
        await asyncio.sleep(0.002)
    await eventually(lambda: len(heard) > 1)
    assert asyncio.get_running_loop().time() - began >= 0.14
    assert (heard[1].text, heard[1].tokens) == ("".join(f"t{number} " for number in range(1, 10)), 9)
    outbox.pace(0.0)
    outbox.put(Text("a", "t10 ", 1))
    await asyncio.sleep(2 * GAP_S)
    assert len(heard) == 3
