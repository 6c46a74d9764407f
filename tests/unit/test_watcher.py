"""A reader of a job's events: text that simply goes on is passed on where it comes in, the rest by its task."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.job_events import Delta, Progress
from stoker.services.gateway.watching.resume import Cursor
from stoker.services.gateway.watching.watcher import Watcher

STEPS = ("text", "text", "text", "progress", "turn", "turn", "stop reading", "read", "next attempt")


class Client:
    """Takes text from both sides: its task's, and where it comes in."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.reads.set()
        self.got = ""
        self.passed = 0
        self.watcher = Watcher("job", Cursor(), self._pass_on)

    def _pass_on(self, delta: Delta) -> bool:
        if self.reads.is_set():
            self.got += delta.text
            self.passed += 1
        return self.reads.is_set()

    async def run(self) -> None:
        while True:
            item = await self.watcher.next(5.0)
            assert item is not None
            taken = self.watcher.cursor.take(item[0])
            await self.reads.wait()
            if isinstance(taken, Delta):
                self.got += taken.text


async def played(steps: list[str]) -> tuple[Client, str]:
    """The client after these steps and whatever it still had to read; and the text that was made."""
    client, made, attempt = Client(), "", 1
    reading = asyncio.create_task(client.run())
    watcher, seq = client.watcher, 0
    for step in steps:
        match step:
            case "text":
                seq += 1
                piece = f"<{attempt}.{seq}>"
                watcher.put(
                    Delta(term=1, attempt=attempt, seq=seq, at=len(made), text=piece, tokens=1), b"", 20
                )
                made += piece
            case "progress":
                seq += 1
                watcher.put(Progress(term=1, attempt=attempt, seq=seq, step=seq, steps=99), b"", 20)
            case "turn":
                await asyncio.sleep(0)
            case "stop reading":
                client.reads.clear()
            case "read":
                client.reads.set()
            case _:
                attempt, seq = attempt + 1, 0
    client.reads.set()
    for _ in range(2 * len(steps) + 2):
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    return client, made


@given(st.lists(st.sampled_from(STEPS), max_size=60))
def test_text_comes_once_and_in_order_whichever_way_it_takes(steps: list[str]) -> None:
    client, made = asyncio.run(played(steps))
    assert client.got == made


def test_text_that_goes_on_wakes_no_task() -> None:
    client, made = asyncio.run(played(["turn", "text", "turn", "turn", "text", "text", "text"]))
    assert client.got == made
    assert client.passed == 3, "all but the first, which begins an attempt"


def test_text_waits_for_what_came_before_it() -> None:
    client, made = asyncio.run(played(["turn", "text", "turn", "turn", "progress", "text", "text"]))
    assert client.got == made
    assert client.passed == 0


def test_text_waits_for_what_its_task_is_still_writing() -> None:
    steps = ["turn", "text", "turn", "turn", "stop reading", "text", "turn", "turn", "read", "text", "turn"]
    client, made = asyncio.run(played(steps))
    assert client.got == made
