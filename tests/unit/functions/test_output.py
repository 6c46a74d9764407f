"""Output is bounded whatever is printed, and a log made of parts is the log of the whole."""

import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.functions.capture import CallOutput, Capture
from stoker.functions.output import HEAD_BYTES, TAIL_BYTES, OutputLog, OutputPart

CHUNKS = st.lists(
    st.tuples(st.integers(0, 3 * TAIL_BYTES), st.booleans(), st.integers(1, 50)), max_size=12
)  # size, whether what is there is taken first, bytes of a line


def made(size: int, width: int, seed: int) -> bytes:
    line = bytes([65 + seed % 26]) * (width - 1) + b"\n"
    return (line * (size // width + 1))[:size]


@given(CHUNKS)
def test_a_log_of_parts_is_the_log_of_the_whole(chunks: list[tuple[int, bool, int]]) -> None:
    first, whole, text = OutputLog(), OutputLog(), b""
    for seed, (size, is_taken, width) in enumerate(chunks):
        data = made(size, width, seed)
        text += data
        first.add(data)
        if is_taken:
            whole.add_part(first.take())
    whole.add_part(first.take())
    part = whole.part()
    assert len(part.head) <= HEAD_BYTES and len(part.tail) <= TAIL_BYTES
    assert len(part.head) + part.dropped_bytes + len(part.tail) == len(text)
    assert text.startswith(part.head) and text.endswith(part.tail)
    assert text.count(b"\n") == part.head.count(b"\n") + part.dropped_lines + part.tail.count(b"\n")
    if len(text) <= HEAD_BYTES + TAIL_BYTES and not any(is_taken for _, is_taken, _ in chunks):
        assert part.head + part.tail == text
    assert not OutputPart() and bool(part) == bool(text)


@pytest.fixture
def streams() -> Iterator[None]:
    kept = sys.stdout, sys.stderr
    yield
    sys.stdout, sys.stderr = kept


def test_what_belongs_to_which_call_is_told_by_the_context(
    streams: None, capfd: pytest.CaptureFixture[str]
) -> None:
    current = ""
    with pytest.MonkeyPatch.context() as patch:
        own = io.TextIOWrapper(io.BytesIO(), "utf-8")
        patch.setattr(sys, "__stdout__", own)
        patch.setattr(sys, "__stderr__", own)
        capture = Capture(lambda: current)
        early = sys.stdout  # who keeps a stream from before
        print("at import")
        capture.begin("a")
        print("by a")
        print("by a, on an early stream", file=early)
        capture.begin("b")
        current = "b"
        print("by b")
        current = "a"
        print("by a again", file=sys.stderr)
        current = ""
        print("by nobody")
        assert set(capture.taken()) == {"a", "b"}
        assert not capture.end("a")
        print("by b alone")
        sys.stdout.close()
        assert capture.end("b").head == b"by b alone\n"
        own.flush()
        assert isinstance(own.buffer, io.BytesIO)
        assert own.buffer.getvalue() == b"at import\nby nobody\n"


def test_bytes_and_half_characters_can_be_printed() -> None:
    output = CallOutput()
    output.stream.write("a \udcff\n")
    output.stream.flush()
    output.stream.buffer.write(b"\xff\n")
    assert output.take().head == b"a \\udcff\n\xff\n"
    assert output.stream.fileno() == 1
    output.stream.close()
    assert not output.take()


@pytest.mark.slow
def test_a_million_lines_cost_less_than_twice_what_they_cost_into_a_file(tmp_path: Path) -> None:
    def seconds(stream: io.TextIOWrapper) -> float:
        began = time.process_time()
        for number in range(1_000_000):
            print("line", number, file=stream)
        stream.flush()
        return time.process_time() - began

    def into_a_file() -> float:
        with (tmp_path / "file").open("w") as file:
            return seconds(file)

    assert min(seconds(CallOutput().stream) for _ in range(3)) < 2 * min(into_a_file() for _ in range(3))
