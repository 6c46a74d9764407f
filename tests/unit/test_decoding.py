"""Bodies: null is "not given" where a field need not be, and what is compressed is read as far as it may be."""

import gzip
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.openai import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    ImageGenerationRequest,
)
from stoker.services.gateway.edge.decoding import Reader, decode, inflated, unread
from stoker.services.gateway.edge.problems import RequestError

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
    ],
    ids=["another encoding", "too large", "cut off", "much too large"],  # gzip's bytes have the time in them
)
def test_what_cannot_be_inflated_or_is_too_large_then_is_refused(
    sent: bytes, encoding: str, status: int
) -> None:
    with pytest.raises(RequestError) as refused:
        inflated(sent, encoding, 10_000)
    assert refused.value.status == status


def test_fields_that_nobody_reads_are_noted_and_those_that_are_null_are_not() -> None:
    body = NEEDED[ChatCompletionRequest] | {"best_of": 3, "user": "u", "stream": None, "typical_p": None}
    asked, unheard = Reader(ChatCompletionRequest).read(msgspec.json.encode(body))
    assert (asked.user, unheard) == ("u", {"best_of": 3})
    assert Reader(ChatCompletionRequest).read(msgspec.json.encode(NEEDED[ChatCompletionRequest]))[1] == {}
    assert unread(CompletionRequest, {"model": "m", "prompt": "x", "quality": "hd"}) == {"quality": "hd"}


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
