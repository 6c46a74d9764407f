"""The edge's pure parts: forms, decoding, problems. Whatever comes in, what goes out is an answer with a field."""

from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas import wire
from stoker.schemas.openai import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    ImageGenerationRequest,
)
from stoker.services.gateway.edge.decoding import decode
from stoker.services.gateway.edge.forms import MAX_PARTS, read_form
from stoker.services.gateway.edge.problems import TITLES, RequestError, answer_body
from stoker.services.gateway.jobs.requests import JobRequest
from stoker.services.gateway.routes.jobs import MAX_WAIT_S, prefer_wait_s
from stoker.services.gateway.routes.modes import GenerateRequest

KINDS = (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    ImageGenerationRequest,
    JobRequest,
    GenerateRequest,
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
BOUNDARY = "----x"


@pytest.mark.parametrize("kind", KINDS)
@given(body=st.one_of(st.binary(max_size=60), JSON.map(msgspec.json.encode)))
def test_whatever_a_body_is_it_is_decoded_or_refused_with_400(kind: type, body: bytes) -> None:
    try:
        decode(kind, body)
    except RequestError as error:
        assert error.status == 400
        assert error.code in ("invalid_json", "invalid_value")
        assert error.message


class Picky(msgspec.Struct, forbid_unknown_fields=True):
    inner: "Inner"
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


class Inner(msgspec.Struct):
    names: list[str]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "inner"),
        (b'{"inner": 1}', "inner"),
        (b'{"inner": {"names": ["a", 1]}}', "inner.names[1]"),
        (b'{"inner": {}}', "inner"),
        (b'{"inner": {"names": []}, "count": 0}', "count"),
    ],
)
def test_the_field_that_is_wrong_is_named(body: bytes, field: str) -> None:
    with pytest.raises(RequestError) as refused:
        decode(Picky, body)
    assert refused.value.field is not None
    assert refused.value.field.startswith(field.partition(".")[0])


def multipart(*parts: tuple[str, str | None, bytes]) -> bytes:
    body = b""
    for name, filename, content in parts:
        file = f'; filename="{filename}"' if filename is not None else ""
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        body += content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


TYPE = f"multipart/form-data; boundary={BOUNDARY}"
NAMES = st.text("abcdefgh_", min_size=1, max_size=8)


@given(
    fields=st.dictionaries(
        NAMES, st.text(st.characters(codec="utf-8", exclude_characters="\r\n-"), max_size=20)
    ),
    files=st.dictionaries(NAMES, st.binary(max_size=200).filter(lambda content: b"--" not in content)),
)
def test_a_form_comes_back_as_it_was_sent(fields: dict[str, str], files: dict[str, bytes]) -> None:
    parts = [(name, None, text.encode()) for name, text in fields.items()]
    parts += [(name, "f.png", content) for name, content in files.items()]
    if not parts or len(parts) > MAX_PARTS:
        return
    form = read_form(TYPE, multipart(*parts))
    assert form.fields == fields
    assert form.files == files


@given(content_type=st.one_of(st.just(TYPE), st.text(max_size=30)), body=st.binary(max_size=200))
def test_what_is_no_form_is_refused_with_400(content_type: str, body: bytes) -> None:
    try:
        read_form(content_type, body)
    except RequestError as error:
        assert (error.status, error.code) == (400, "invalid_form")


def test_too_many_parts_and_empty_files_are_refused() -> None:
    with pytest.raises(RequestError, match="the form cannot be read"):
        read_form(TYPE, multipart(*((f"f{number}", None, b"x") for number in range(MAX_PARTS + 1))))
    form = read_form(TYPE, multipart(("image[]", "a.png", b""), ("n", None, b"two")))
    with pytest.raises(RequestError, match="image is empty") as refused:
        form.file("image")
    assert refused.value.field == "image"

    with pytest.raises(RequestError, match="audio is empty: send a song"):
        form.file("audio", "a song")

    class Fields(msgspec.Struct):
        n: int

    with pytest.raises(RequestError) as wrong:
        form.as_struct(Fields)
    assert (wrong.value.status, wrong.value.field) == (400, "n")


def test_a_field_that_is_given_more_than_once_is_a_list_where_one_is_wanted() -> None:
    parts = [("kinds[]", None, b"a"), ("kinds[]", None, b"b"), ("n", None, b"1"), ("n", None, b"2")]
    form = read_form(TYPE, multipart(*parts))
    assert form.fields == {"kinds": "b", "n": "2"}

    class Fields(msgspec.Struct):
        n: int
        kinds: tuple[str, ...] = ()
        others: tuple[str, ...] = ()

    assert form.as_struct(Fields) == Fields(2, ("a", "b"), ())

    class Few(msgspec.Struct):
        kinds: tuple[int, ...]

    with pytest.raises(RequestError) as wrong:
        form.as_struct(Few)
    assert wrong.value.field == "kinds[0]"


def test_what_is_missing_is_called_by_its_name() -> None:
    with pytest.raises(RequestError, match="send multipart/form-data with the song as a file"):
        read_form("application/json", b"{}", "song")
    twice = multipart(("file", "a.wav", b"x"), ("file", "b.wav", b"y"))
    with pytest.raises(RequestError, match="file is given more than once: it takes one song"):
        read_form(TYPE, twice, "song")


@given(
    status=st.sampled_from(sorted(TITLES)),
    message=st.text(max_size=40),
    field=st.one_of(st.none(), st.text(max_size=10)),
    code=st.one_of(st.none(), st.text("abc_", min_size=1, max_size=10)),
)
def test_an_error_says_the_same_in_both_dialects(
    status: int, message: str, field: str | None, code: str | None
) -> None:
    error = RequestError(status, message, field=field, code=code)
    problem: Any = msgspec.json.decode(wire.encode(answer_body(error, dialect="problem")[0]))
    openai: Any = msgspec.json.decode(wire.encode(answer_body(error, dialect="openai")[0]))["error"]
    assert problem["detail"] == openai["message"] == message
    assert problem.get("field") == openai.get("param") == field
    assert problem["status"] == status
    assert problem["type"] == (f"urn:stoker:{code}" if code else "about:blank")
    kinds = {429: "rate_limit_error"}
    expected = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    assert openai["type"] == expected


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 0.0),
        ("wait=5", 5.0),
        ("respond-async, wait=10", 10.0),
        ("WAIT=7", 7.0),
        ("wait=1000000", MAX_WAIT_S),
        ("wait=-1", 0.0),
        ("wait=soon", 0.0),
        ("wait=²", 0.0),
        ("await=5", 0.0),
    ],
)
def test_how_long_a_client_prefers_to_wait(header: str, seconds: float) -> None:
    assert prefer_wait_s(header) == seconds
