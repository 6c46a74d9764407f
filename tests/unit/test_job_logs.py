"""A job's log as text: from any place on, with what was left out said where it was."""

import pytest

from stoker.schemas.job_events import JobLog
from stoker.services.gateway.jobs.job_logs import EMPTY, size_of, text_after

WHOLE = JobLog(b"one\ntwo\n")
CUT = JobLog(b"one\n", 3, 100, b"five\n")
SAID = b"\n[stoker] 3 lines (100 bytes) were left out here: a log keeps the first 4 and the last 5 bytes\n"


@pytest.mark.parametrize(
    ("log", "place", "text"),
    [
        (EMPTY, 0, b""),
        (EMPTY, 7, b""),
        (WHOLE, 0, b"one\ntwo\n"),
        (WHOLE, 4, b"two\n"),
        (WHOLE, 8, b""),
        (CUT, 0, b"one\n" + SAID + b"five\n"),
        (CUT, 4, SAID + b"five\n"),
        (CUT, 50, SAID + b"five\n"),
        (CUT, 104, b"five\n"),
        (CUT, 106, b"ve\n"),
        (CUT, 109, b""),
        (CUT, 200, b""),
    ],
)
def test_the_text_after_a_place(log: JobLog, place: int, text: bytes) -> None:
    assert text_after(log, place) == text


def test_places_count_what_was_left_out() -> None:
    assert [size_of(log) for log in (EMPTY, WHOLE, CUT)] == [0, 8, 109]
