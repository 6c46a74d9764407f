"""What of a file is asked for, and what a client knows already."""

import pytest

from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.ranges import Span, asked_span, is_known

ETAG = '"file-1"'


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=2-5", 2, 6),
        ("bytes=2-", 2, 10),
        ("bytes=-3", 7, 10),
        ("bytes=-99", 0, 10),
        ("bytes=8-99", 8, 10),
        ("Bytes=0-9", 0, 10),
        ("bytes= 1 - 2 ", 1, 3),
    ],
)
def test_a_range_is_a_part(asked: str, start: int, end: int) -> None:
    span, is_part = asked_span(asked, "", 10, ETAG)
    assert (span, is_part) == (Span(start, end, 10), True)
    assert span.header() == f"bytes {start}-{end - 1}/10"


@pytest.mark.parametrize(
    "asked", ["", "bytes=", "bytes=-", "bytes=5-2", "lines=1-2", "bytes=1-2,4-5", "bytes=x-1"]
)
def test_what_is_no_single_range_is_the_whole(asked: str) -> None:
    span, is_part = asked_span(asked, "", 10, ETAG)
    assert (span, is_part) == (Span(0, 10, 10), False)


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-12", "bytes=-0", "bytes=999999999999-"])
def test_a_range_behind_the_end_is_refused_with_the_size(asked: str) -> None:
    with pytest.raises(RequestError, match="has 10 bytes") as refused:
        asked_span(asked, "", 10, ETAG)
    assert (refused.value.status, refused.value.field) == (416, "Range")
    assert refused.value.headers == {"content-range": "bytes */10"}


def test_a_range_of_another_file_is_the_whole_of_this_one() -> None:
    assert asked_span("bytes=1-2", ETAG, 10, ETAG)[1]
    for other in ('"file-2"', 'W/"file-1"', "Mon, 30 Nov 2026 00:00:00 GMT"):
        assert asked_span("bytes=1-2", other, 10, ETAG) == (Span(0, 10, 10), False)
        assert asked_span("bytes=20-", other, 10, ETAG) == (Span(0, 10, 10), False)


def test_a_client_says_what_it_knows() -> None:
    for known in (ETAG, "*", f'"x", {ETAG}', f"W/{ETAG}"):
        assert is_known(known, ETAG)
    for other in ("", '"x"', "file-1"):
        assert not is_known(other, ETAG)
