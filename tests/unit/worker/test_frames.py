"""What agent and runner say to each other: however the bytes are cut, the same messages come out, within a bound."""

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.functions.frames import Frames, frame
from stoker.schemas.job_events import ValueOutput
from stoker.schemas.jobs import CompletionInput
from stoker.services.worker.runner.messages import (
    Cancel,
    FilesDone,
    FromRunner,
    Loaded,
    Ready,
    Run,
    RunCancelled,
    RunFailed,
    RunTogether,
    Step,
    Text,
    ToRunner,
    Unload,
    messages,
)
from stoker.services.worker.runner.outbox import _frame

TEXTS = st.builds(Text, st.text(max_size=5), st.text(max_size=40), st.integers(0, 9))
SAID = st.one_of(
    TEXTS,
    st.builds(Step, st.text(max_size=5), st.integers(0, 99), st.integers(0, 99)),
    st.builds(Loaded, st.text(max_size=5), st.integers(0, 10**12), st.floats(0, 100), st.booleans()),
    st.just(Ready()),
)
RUN = Run("j/1.1", "m", CompletionInput("hello"), 7)


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    """The stream in pieces of these sizes, the rest as one."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(stream[at : at + size])
        at += size
    return [*pieces, stream[at:]]


@given(st.lists(SAID, max_size=8), st.lists(st.integers(0, 30), max_size=20))
def test_messages_come_out_as_they_went_in_however_they_are_cut(said: list[Any], sizes: list[int]) -> None:
    frames, heard = Frames(FromRunner, 10_000), list[Any]()
    for piece in cut(b"".join(frame(message) for message in said), sizes):
        heard += frames.feed(piece)
    assert heard == said


def test_a_message_comes_out_with_its_last_byte_and_not_before() -> None:
    frames = Frames(FromRunner, 10_000)
    stream = frame(Text("j", "hello", 2))
    for byte in stream[:-1]:
        assert frames.feed(bytes([byte])) == []
    assert frames.feed(stream[-1:]) == [Text("j", "hello", 2)]
    assert frames.feed(b"") == []


def test_a_frame_may_be_as_large_as_the_limit_and_no_larger() -> None:
    stream = frame(Text("j", "hello", 2))
    body = len(stream) - 4
    assert len(Frames(FromRunner, body).feed(stream)) == 1
    with pytest.raises(msgspec.DecodeError, match=f"a frame of {body} bytes"):
        Frames(FromRunner, body - 1).feed(stream[:4])


@pytest.mark.parametrize("garbage", [b"\x01\x00\x00\x00\xc1", frame(Cancel("j")), b"\x02\x00\x00\x00{}"])
def test_what_is_no_message_of_this_side_is_an_error(garbage: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        Frames(FromRunner, 10_000).feed(garbage)


@pytest.mark.parametrize("message", [RUN, RunTogether((RUN, RUN)), Cancel("j"), Unload("m", park=True)])
def test_orders_to_the_runner_keep_every_field(message: Any) -> None:
    assert Frames(ToRunner, 10_000).feed(frame(message)) == [message]


async def test_a_stream_gives_its_messages_and_ends_with_the_connection() -> None:
    said = [Ready(), Text("j", "x" * 300_000, 1), RunCancelled("j")]
    reader = asyncio.StreamReader()
    for message in said:
        reader.feed_data(frame(message))
    reader.feed_data(frame(Ready())[:-1])  # the runner dies in the middle of a word
    reader.feed_eof()
    assert [message async for message in messages(reader, FromRunner)] == said


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, {"a": [10**40]}, "\udcff"])
def test_a_result_that_no_message_can_hold_is_the_end_of_its_run(value: Any) -> None:
    (said,) = Frames(FromRunner, 10_000).feed(_frame(FilesDone("j", ValueOutput(value), (), 0.1)))
    assert isinstance(said, RunFailed)
    assert (said.job, said.kind) == ("j", "fatal")
    assert said.reason.startswith("what it gave cannot be sent: ")
