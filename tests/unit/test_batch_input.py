"""Input files of batches: every line is looked at, and what is wrong is told with its line and a code."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.services.gateway.batches import input_lines
from stoker.services.gateway.batches.input_lines import BOM, MAX_ERRORS, MAX_ID_CHARS, MAX_LINES, read_lines

ENDPOINT = "/v1/chat/completions"
BODY = {"model": "m", "messages": []}


def line(custom_id: object = "a", **fields: object) -> bytes:
    given = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": BODY} | fields
    return json.dumps({name: value for name, value in given.items() if value is not None}).encode()


def codes(content: bytes) -> list[tuple[str, int | None, str | None]]:
    return [(error.code, error.line, error.param) for error in read_lines(content, ENDPOINT)[1]]


@given(st.lists(st.text(min_size=1, max_size=20), unique=True, min_size=1, max_size=30), st.data())
def test_every_line_is_found_as_it_was_written(ids: list[str], data: st.DataObject) -> None:
    endings = st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n  \n"])
    content = b"".join(
        line(custom_id, body=BODY | {"n": number}) + data.draw(endings) for number, custom_id in enumerate(ids)
    )
    if data.draw(st.booleans()):
        content = content.rstrip()  # the last line need not end
    if data.draw(st.booleans()):
        content = BOM + content
    found, errors = read_lines(content, ENDPOINT)
    assert errors == ()
    assert [found.request(index).custom_id for index in range(len(found))] == ids
    bodies: list[Any] = [json.loads(bytes(found.request(index).body)) for index in range(len(found))]
    assert bodies == [BODY | {"n": number} for number in range(len(ids))]


@given(st.binary(max_size=300))
def test_whatever_is_sent_is_read_or_refused_with_a_reason(content: bytes) -> None:
    found, errors = read_lines(content, ENDPOINT)
    assert errors or len(found)
    for error in errors:
        assert error.code and error.message
        assert error.line is None or 1 <= error.line <= content.count(b"\n") + 1


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5))
def test_whatever_json_a_line_is_it_is_a_request_or_an_error(value: Any) -> None:
    for content in (json.dumps(value).encode(), line(body=value), line(custom_id=value), line(url=value)):
        _, errors = read_lines(content, ENDPOINT)
        is_right = content == line() or (isinstance(value, str) and value and content == line(custom_id=value))
        assert bool(errors) != bool(is_right)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ("empty_file", None, None)),
        (b"\n \n\r\n", ("empty_file", None, None)),
        (b"{", ("invalid_json_line", 1, None)),
        (b"\xff\xfe", ("invalid_json_line", 1, None)),
        (b"[" * 5000, ("invalid_json_line", 1, None)),
        (b"[]", ("invalid_json_line", 1, None)),
        (b"null", ("invalid_json_line", 1, None)),
        (line(None), ("missing_required_parameter", 1, "custom_id")),
        (line(7), ("invalid_type", 1, "custom_id")),
        (line(""), ("invalid_custom_id", 1, "custom_id")),
        (line("x" * (MAX_ID_CHARS + 1)), ("invalid_custom_id", 1, "custom_id")),
        (line(method=None), ("missing_required_parameter", 1, "method")),
        (line(method="GET"), ("invalid_method", 1, "method")),
        (line(url=None), ("missing_required_parameter", 1, "url")),
        (line(url="/v1/embeddings"), ("mismatched_url", 1, "url")),
        (line(body=None), ("missing_required_parameter", 1, "body")),
        (line(body="x"), ("invalid_type", 1, "body")),
        (line(body={}), ("missing_required_parameter", 1, "body.model")),
        (line(body={"model": 3}), ("invalid_type", 1, "body.model")),
        (b"\n\n" + line() + b"\n\n" + line(), ("duplicate_custom_id", 5, "custom_id")),
    ],
)
def test_each_mistake_has_its_code_its_line_and_its_field(
    content: bytes, expected: tuple[str, int | None, str | None]
) -> None:
    assert codes(content) == [expected]


def test_a_duplicate_names_the_first_line_of_its_id() -> None:
    [error] = read_lines(line("a") + b"\n" + line("b") + b"\n" + line("a"), ENDPOINT)[1]
    assert "line 1" in error.message


def test_all_mistakes_are_told_up_to_a_number() -> None:
    mixed = b"\n".join([line("a"), b"{", line("a"), line("b", method="PUT"), line("c")])
    assert [(code, at) for code, at, _ in codes(mixed)] == [
        ("invalid_json_line", 2),
        ("duplicate_custom_id", 3),
        ("invalid_method", 4),
    ]
    assert len(codes(b"{\n" * (MAX_ERRORS + 50))) == MAX_ERRORS


def test_more_lines_than_a_batch_may_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_lines, "MAX_LINES", 5)
    whole = b"\n".join(line(str(number)) for number in range(5))
    assert codes(whole) == []
    assert codes(whole + b"\n" + line("more")) == [("too_many_lines", None, None)]
    assert codes(b"\n" * 11) == [("too_many_lines", None, None)]  # it is not even looked through


def test_the_largest_number_of_lines_is_read() -> None:
    content = b"\n".join(line(f"request-{number}") for number in range(MAX_LINES))
    found, errors = read_lines(content, ENDPOINT)
    assert (len(found), errors) == (MAX_LINES, ())
    assert found.request(MAX_LINES - 1).custom_id == f"request-{MAX_LINES - 1}"
