"""Bodies: null is "not given" where a field need not be, and what is compressed is read as far as it may be."""

import gzip
import time
import zlib
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.a1111 import Txt2ImgRequest
from stoker.schemas.openai import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    EmbeddingRequest,
    ImageGenerationRequest,
)
from stoker.services.gateway.edge.decoding import (
    MAX_MEMBERS,
    Inflating,
    Reader,
    decode,
    from_texts,
    inflated,
    unread,
)
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.routes.jobs import JobsFilter

TXT2IMG = Reader(Txt2ImgRequest, coerces=True)
NEEDED: dict[type, dict[str, Any]] = {
    ChatCompletionRequest: {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    CompletionRequest: {"model": "m", "prompt": "x"},
    EmbeddingRequest: {"model": "m", "input": "x"},
    ImageGenerationRequest: {"model": "m", "prompt": "x"},
}


@pytest.mark.parametrize("kind", NEEDED)
def test_null_means_not_given_for_every_field_that_need_not_be(kind: type) -> None:
    needed = NEEDED[kind]
    optional = [one.encode_name for one in msgspec.structs.fields(kind) if one.encode_name not in needed]
    assert len(optional) >= 3
    nulls = msgspec.json.encode({**needed, **dict.fromkeys(optional)})
    assert decode(kind, nulls) == decode(kind, msgspec.json.encode(needed))


SENT: list[Any] = [
    "20",
    " 20 ",
    "20.0",
    "7.5",
    20.0,
    7.5,
    20,
    0,
    1,
    2,
    True,
    False,
    "true",
    "Off",
    "yes",
    "n",
    "x",
    "",
]


@pytest.mark.parametrize("value", SENT)
@pytest.mark.parametrize(
    "field", ["steps", "cfg_scale", "enable_hr", "tiling", "send_images", "hr_scale", "prompt"]
)
def test_what_a1111_coerces_is_coerced_as_pydantic_does(field: str, value: Any) -> None:
    found = {one.name: one.type for one in msgspec.structs.fields(Txt2ImgRequest)}
    model = pydantic.create_model(
        "Asked", __config__={"coerce_numbers_to_str": True}, **{field: (found[field], ...)}
    )
    body = msgspec.json.encode({field: value})
    try:
        wanted = getattr(model(**{field: value}), field)
    except pydantic.ValidationError:
        with pytest.raises(RequestError) as refused:
            TXT2IMG.read(body)
        assert refused.value.field == field
    else:
        made = getattr(TXT2IMG.read(body)[0], field)
        assert (made, type(made)) == (wanted, type(wanted))


def test_null_is_kept_where_it_says_something_and_refused_where_something_must_be_said() -> None:
    body = NEEDED[ChatCompletionRequest]
    asked = decode(
        ChatCompletionRequest,
        msgspec.json.encode(
            {
                **body,
                "stream": None,
                "messages": [{"role": "assistant", "content": None, "tool_calls": None}],
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"default": None}}}],
                "stream_options": {"include_usage": None},
            }
        ),
    )
    assert asked.tools[0]["function"]["parameters"] == {"default": None}
    assert asked.messages[0].content is None
    assert asked.stream_options is not None and not asked.stream_options.include_usage
    with pytest.raises(RequestError) as refused:
        decode(ChatCompletionRequest, msgspec.json.encode({**body, "model": None, "stream": None}))
    assert refused.value.field in ("model", "stream")


@given(st.binary(max_size=2000), st.sampled_from(["gzip", "deflate", "", "identity", "x-gzip"]))
def test_what_was_compressed_is_as_it_was(body: bytes, encoding: str) -> None:
    sent = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}.get(encoding, bytes)(body)
    assert inflated(sent, encoding, 5000) == body


@given(st.lists(st.binary(max_size=40_000), min_size=1, max_size=4), st.integers(1, 50_000))
def test_all_members_of_gzip_are_read_however_they_come(members: list[bytes], length: int) -> None:
    sent = b"".join(map(gzip.compress, members))
    reader = Inflating("gzip")
    got = b""
    for start in range(0, len(sent), length):
        is_whole = start + length >= len(sent)
        got += b"".join(reader.more(sent[start : start + length], is_whole=is_whole, at_once=1000))
    assert got == b"".join(members)


def test_members_without_end_are_refused_in_time() -> None:
    sent = gzip.compress(b"") * (MAX_MEMBERS + 1)
    began = time.process_time()
    with pytest.raises(RequestError, match="more than 100000 members"):
        inflated(sent, "gzip", 10_000)
    assert time.process_time() - began < 5


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_what_was_not_compressed_is_refused_with_its_header(body: bytes, encoding: str) -> None:
    try:
        inflated(body, encoding, 5000)
    except RequestError as error:
        assert (error.status, error.field) == (400, "Content-Encoding")


@pytest.mark.parametrize(
    ("sent", "encoding", "status"),
    [
        (b"x", "br", 415),
        (gzip.compress(b"x" * 10_001), "gzip", 413),
        (gzip.compress(b"x" * 100)[:-4], "gzip", 400),
        (gzip.compress(bytes(200 * 1024 * 1024)), "gzip", 413),
        (gzip.compress(b"x") + b"more", "gzip", 400),
        (gzip.compress(b"x") + gzip.compress(b"y" * 100)[:-4], "gzip", 400),
        (zlib.compress(b"x") + zlib.compress(b"y"), "deflate", 400),
        (gzip.compress(b"x" * 9_000) * 2, "gzip", 413),
    ],
    ids=[
        "another encoding",
        "too large",
        "cut off",
        "much too large",
        "more behind it",
        "second member cut off",
        "more behind it, deflate",
        "too large together",
    ],  # gzip's bytes have the time in them
)
def test_what_cannot_be_inflated_or_is_too_large_then_is_refused(
    sent: bytes, encoding: str, status: int
) -> None:
    with pytest.raises(RequestError) as refused:
        inflated(sent, encoding, 10_000)
    assert refused.value.status == status


@pytest.mark.parametrize("given", ["nan", "NaN", "inf", "-inf"])
def test_a_number_in_a_query_or_a_form_is_a_number(given: str) -> None:
    with pytest.raises(RequestError) as refused:
        from_texts({"since": given}, JobsFilter)
    assert (refused.value.status, refused.value.field) == (400, "since")
    assert from_texts({"since": "1.5"}, JobsFilter).since == 1.5


def test_fields_that_nobody_reads_are_noted_and_those_that_are_null_are_not() -> None:
    body = NEEDED[ChatCompletionRequest] | {"best_of": 3, "user": "u", "stream": None, "typical_p": None}
    asked, unheard = Reader(ChatCompletionRequest).read(msgspec.json.encode(body))
    assert (asked.user, unheard) == ("u", {"best_of": 3})
    assert Reader(ChatCompletionRequest).read(msgspec.json.encode(NEEDED[ChatCompletionRequest]))[1] == {}
    assert unread(CompletionRequest, {"model": "m", "prompt": "x", "quality": "hd"}) == {"quality": "hd"}


def test_what_messages_have_besides_is_noted_under_their_name_and_costs_no_field() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x", "name": "n"}], "stream_options": {}}
    read = Reader(ChatCompletionRequest).read
    plain, nothing = read(msgspec.json.encode(body))
    assert (msgspec.json.encode(plain.messages[0]), nothing) == (
        msgspec.json.encode(ChatMessage("user", "x", "n")),
        {},
    )
    body["messages"] = [
        {"role": "assistant", "content": "x", "prefix": value, "audio": None} for value in (False, True, False)
    ]
    assert read(msgspec.json.encode(body | {"stream_options": {"b": 2}}))[1] == {
        "messages.prefix": True, "stream_options.b": 2,
    }  # fmt: skip
    assert read(msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "x"}]}))[1] == {}


@pytest.mark.parametrize("more", [b'"x":"\xcc\x22"', b'"\x89":1', b'"x":' + b"[" * 5000 + b"]" * 5000])
def test_what_nobody_reads_has_to_be_json_too(more: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        Reader(CompletionRequest).read(b'{"model":"m","prompt":"x",' + more + b"}")
    assert (refused.value.status, refused.value.code) == (400, "invalid_json")


@pytest.mark.parametrize("kind", NEEDED)
def test_what_is_decoded_is_the_same_whether_fields_are_noted_or_not(kind: type) -> None:
    body = msgspec.json.encode(NEEDED[kind])
    noted, _ = Reader(kind).read(body)
    plain = decode(kind, body)
    assert isinstance(noted, kind)
    assert msgspec.to_builtins(noted) == msgspec.to_builtins(plain)
    with pytest.raises(RequestError):
        Reader(kind).read(b"[]")
