"""Lines for a reader that may take its time: whoever writes does not wait, and no line is cut or lost in silence."""

import io
import os
import re
import time

import pytest

from stoker.services.process.printing import MOST_WAITING_CHARS, Printer

LINE = "x" * 99 + "\n"


def read_all(reader: int) -> str:
    found = b""
    while piece := os.read(reader, 1_000_000):
        found += piece
    return found.decode()


def test_what_has_no_descriptor_is_written_at_once() -> None:
    file = io.StringIO()
    Printer(file).write("one\n")
    assert file.getvalue() == "one\n"


@pytest.mark.parametrize("is_blocking", [True, False])
def test_nobody_waits_for_the_reader_and_each_line_is_there_or_counted(*, is_blocking: bool) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, is_blocking)
    file = os.fdopen(writer, "w")
    printer = Printer(file)
    count = 4 * MOST_WAITING_CHARS // len(LINE)
    began = time.monotonic()
    for _ in range(count):
        printer.write(LINE)
    printer.close(0.01)
    assert time.monotonic() - began < 5
    found = ""
    while found.count("\n") < MOST_WAITING_CHARS // len(LINE):
        found += os.read(reader, 1_000_000).decode()
    printer.write("after\n")
    while "after" not in found:
        found += os.read(reader, 1_000_000).decode()
    file.close()
    found += read_all(reader)
    os.close(reader)
    gaps = re.findall(r"… ([\d,]+) lines are left out here", found)  # two, where the writer began late
    assert 1 <= len(gaps) <= 2
    assert found.count(LINE) + sum(int(lines.replace(",", "")) for lines in gaps) == count
    assert found.endswith("after\n")


def test_where_nobody_reads_any_more_what_is_said_is_lost() -> None:
    reader, writer = os.pipe()
    file = os.fdopen(writer, "w")
    printer = Printer(file)
    os.close(reader)
    for _ in range(3):
        printer.write(LINE)
    printer.close()
    assert printer._thread is not None and not printer._thread.is_alive()
    file.close()
