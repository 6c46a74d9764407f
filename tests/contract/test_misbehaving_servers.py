"""Servers of others that say what they should not: each job has a clear end, and no other job feels it."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from stoker.schemas.job_events import TextOutput
from stoker.schemas.jobs import EmbeddingInput, RerankInput
from stoker.services.worker.engines.base import Engine, EngineError, ModelFiles
from stoker.services.worker.engines.registry import create
from stoker.services.worker.engines.text.generation import MOST_CALL_CHARS, MOST_CHARS
from stoker.services.worker.engines.text.http_stream import MAX_LINE_BYTES, MAX_REFUSAL_BYTES
from stoker.services.worker.models.weights.resolve import resolve
from tests.contract.test_text_servers import chat, run
from tests.fixtures.raw_server import SSE, RawServer, as_json, event, raw_server, word

FINISHED = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
COUNTED = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
DONE = event(b"[DONE]")
END = FINISHED + COUNTED + DONE


@pytest.fixture
def server() -> Iterator[RawServer]:
    with raw_server() as (found, url):
        found.url = url
        yield found


def openai(server: RawServer, **options: Any) -> Engine:
    engine = create("openai")
    path = resolve(f"{server.url}/v1", lambda _: None)
    engine.load(ModelFiles("m", path, {"model": "big", "retries": 0, **options}))
    return engine


async def streamed(server: RawServer, *pieces: bytes, **options: Any) -> TextOutput:
    server.answers = [(SSE, *pieces)]
    found = await run(openai(server, **options), chat("x"), wants_events=True)
    assert isinstance(found, TextOutput)
    return found


# Whole or not -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [
        (word("one "), word("two ")),
        (),
        (event({"choices": []}),),
        (b"event: error\ndata: {}\n\n",),
        (b"<html>",),
    ],
)
async def test_a_stream_that_ends_before_its_end_is_no_answer(
    server: RawServer, pieces: tuple[bytes, ...]
) -> None:
    with pytest.raises(EngineError, match="ended before it was whole") as refused:
        await streamed(server, *pieces)
    assert refused.value.kind == ("fatal" if len(pieces) == 2 else "retryable"), (
        "what was sent cannot be unsaid"
    )


@pytest.mark.parametrize("end", [FINISHED, FINISHED + DONE, DONE, END])
async def test_a_stream_is_whole_by_its_finish_reason_or_its_last_line(server: RawServer, end: bytes) -> None:
    assert (await streamed(server, word("one "), end)).text == "one "


async def test_behind_the_last_line_nothing_is_waited_for_nor_read(server: RawServer) -> None:
    server.stays_open = True
    began = time.monotonic()
    assert (await streamed(server, word("one "), END, word("more"))).text == "one "
    assert time.monotonic() - began < 5


async def test_an_answer_without_a_choice_is_none(server: RawServer) -> None:
    for said in ({"choices": []}, {}, [], b"null", b"<html>hello</html>", b""):
        server.answers = [(as_json(said),)]
        with pytest.raises(EngineError) as refused:
            await run(openai(server), chat("x"))
        assert refused.value.kind == "retryable"


# Of other types ---------------------------------------------------------------------------------------

WRONG: list[tuple[Any, str]] = [
    (b"{not json", "JSON is malformed"),
    ([1], "Expected `object`, got `array`"),
    (b"null", "Expected `object`, got `null`"),
    (b'{"a":' + b"[" * 100_000, "nested too deep"),
    (b'{"choices":[{"delta":{"content":"\xff"}}]}', "invalid"),
    ({"choices": "abc"}, r"\$.choices"),
    ({"choices": [{"delta": {"content": 5}}]}, r"Expected `str | null`, got `int` - at `\$.choices.*content`"),
    ({"choices": [{"delta": {"content": ["x"]}}]}, "content"),
    ({"choices": [{"delta": {"reasoning_content": 5}}]}, "reasoning_content"),
    ({"choices": [{"delta": {}, "finish_reason": {"a": 1}}]}, "finish_reason"),
    ({"choices": [{"delta": {"tool_calls": [{"index": -1}]}}]}, "index"),
    ({"choices": [{"delta": {"tool_calls": [{"index": 2**70}]}}]}, "index"),
    ({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": {}}}]}}]}, "arguments"),
    ({"choices": [{"delta": {"content": "x"}, "logprobs": {"content": [{"token": "x"}]}}]}, "logprob"),
    ({"choices": [{"text": "x", "logprobs": {"tokens": ["x"], "token_logprobs": []}}]}, "token_logprobs"),
    ({"choices": [], "usage": {"prompt_tokens": "3"}}, "prompt_tokens"),
    ({"choices": [], "usage": {"prompt_tokens": -3}}, "prompt_tokens"),
    ({"choices": [], "usage": {"completion_tokens": 1.5}}, "completion_tokens"),
    ({"choices": [], "usage": {"completion_tokens": 2**70}}, "completion_tokens"),
    ({"choices": [], "usage": [1]}, "usage"),
]


@pytest.mark.parametrize(("said", "names"), WRONG)
async def test_a_chunk_of_another_form_is_said_with_its_field(server: RawServer, said: Any, names: str) -> None:
    with pytest.raises(EngineError, match=f"its answer is not as its API has it: .*{names}") as refused:
        await streamed(server, event(said), word("one "), END)
    assert refused.value.kind == "retryable", "nothing was sent: another worker may try"
    with pytest.raises(EngineError, match="the answer broke off") as refused:
        await streamed(server, word("one "), event(said), END)
    assert refused.value.kind == "fatal"


@pytest.mark.parametrize(
    "said",
    [
        {"data": None},
        {"data": [{"index": 0, "embedding": None}]},
        {"data": [{"index": 0, "embedding": ["a"]}]},
        {"data": [{"index": 0, "embedding": "AAAA"}]},
        {"data": [{"index": 0, "embedding": [1.0]}]},
        {"data": [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]}]},
        {"data": [{"index": 0, "embedding": [1.0]}, {"index": 2, "embedding": [2.0]}]},
    ],
)
async def test_embeddings_of_another_form_or_number_are_no_answer(server: RawServer, said: Any) -> None:
    server.answers = [(as_json(said),)]
    with pytest.raises(EngineError, match="its answer is not as its API has it") as refused:
        await run(openai(server), EmbeddingInput(("a", "b")))
    assert refused.value.kind == "retryable"


async def test_embeddings_come_in_the_order_of_their_texts(server: RawServer) -> None:
    rows = [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1]}]
    server.answers = [(as_json({"data": rows}),)]
    assert (await run(openai(server), EmbeddingInput(("a", "b")))).vectors == ((1.0,), (2.0,))


async def test_a_rank_for_each_document_or_none(server: RawServer) -> None:
    for results in ([{"index": 0, "relevance_score": 1.0}], [{"index": 7}], None):
        server.answers = [(as_json({"results": results}),)]
        with pytest.raises(EngineError, match="its answer is not as its API has it"):
            await run(openai(server), RerankInput("q", ("a", "b")))


async def test_ollama_too(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", server.url.removeprefix("http://"))
    server.answers = [(as_json({"done": True}),)]
    engine = create("ollama")
    engine.load(ModelFiles("m", resolve("ollama://x", lambda _: None), {}))
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
    said = b'{"message": {"content": "one "}, "done": false}\n'
    for rest, names in (
        (b"", "ended before it was whole"),
        (b"{not json\n", "malformed"),
        (b"[1]\n", "Expected `object`"),
        (b'{"message": {"content": 5}}\n', "content"),
        (b'{"done": true, "eval_count": -1}\n', "eval_count"),
        (b'{"done": true, "done_reason": 5}\n', "done_reason"),
        (b'{"message": {"tool_calls": [{"function": {"name": 7}}]}}\n', "name"),
    ):
        server.answers = [(head, said, rest)]
        with pytest.raises(EngineError, match=names) as refused:
            await run(engine, chat("x"), wants_events=True)
        assert refused.value.kind == "retryable"
    server.answers = [(head, said, b'{"done": true, "done_reason": "stop", "eval_count": 1}\n')]
    assert (await run(engine, chat("x"))).text == "one "


# How streams are written ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        b"\xef\xbb\xbf" + word("one ") + END,
        (word("one ") + END).replace(b"\n", b"\r\n"),
        (word("one ") + END).replace(b"\n\n", b"\n"),
        b"data:   " + word("one ").removeprefix(b"data: ") + FINISHED + b"data: [DONE] \n\n",
        b": \xff\xfe\nevent: x\nid\nretry: 1\n\n" + word("one ") + END,
        word("one ") + END.rstrip(b"\n"),
    ],
)
async def test_events_are_read_as_the_standard_says(server: RawServer, written: bytes) -> None:
    assert (await streamed(server, written)).text == "one "
    pieces = [written[index : index + 1] for index in range(len(written))]
    assert (await streamed(server, *pieces)).text == "one "


async def test_characters_that_are_cut_and_lines_that_are_none_are_whole(server: RawServer) -> None:
    text = "héllo 😀 a\u2028b\x85c\x0bd\x00e"
    written = word(text) + END
    assert (await streamed(server, *(written[index : index + 1] for index in range(len(written))))).text == text


async def test_of_several_choices_the_first_is_the_answer(server: RawServer) -> None:
    both = event(
        {"choices": [{"index": 1, "delta": {"content": "B"}}, {"index": 0, "delta": {"content": "a"}}]}
    )
    assert (await streamed(server, both, END)).text == "a"


# Too much, and elsewhere ------------------------------------------------------------------------------


async def test_a_line_without_an_end_is_given_up_in_time_that_grows_with_it(server: RawServer) -> None:
    """It was put together anew with each piece, which held up everything else of the worker."""
    server.answers = [(SSE, b"data: ", *[b"a" * 65536] * (MAX_LINE_BYTES // 65536 + 1))]
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - began)

    watching = asyncio.create_task(watch())
    with pytest.raises(EngineError, match="a line of its answer is over 16,777,216 bytes long"):
        await run(openai(server), chat("x"), wants_events=True)
    watching.cancel()
    assert longest < 1.0


async def test_an_answer_without_an_end_is_given_up_before_it_fills_the_memory(server: RawServer) -> None:
    piece = word("x" * 100_000)
    with pytest.raises(EngineError, match=f"over {MOST_CHARS:,} characters") as refused:
        await streamed(server, *[piece] * (MOST_CHARS // 100_000 + 2))
    assert refused.value.kind == "fatal"
    call = {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "x" * 100_000}}]}}]}
    with pytest.raises(EngineError, match=f"over {MOST_CALL_CHARS:,} characters"):
        await streamed(server, *[event(call)] * (MOST_CALL_CHARS // 100_000 + 2))


async def test_of_an_error_without_an_end_the_beginning_is_read(server: RawServer) -> None:
    head = b"HTTP/1.1 500 X\r\nconnection: close\r\n\r\n"
    server.answers = [(head, *[b"e" * MAX_REFUSAL_BYTES] * 2)]
    server.stays_open = True
    began = time.monotonic()
    with pytest.raises(EngineError, match="e" * 400):
        await run(openai(server), chat("x"))
    assert time.monotonic() - began < 5


async def test_where_a_server_redirects_to_no_prompt_is_sent(server: RawServer) -> None:
    elsewhere = f"{server.url}/elsewhere".encode()
    server.answers = [(b"HTTP/1.1 307 X\r\nlocation: %s\r\ncontent-length: 0\r\n\r\n" % elsewhere,)]
    with pytest.raises(EngineError, match=r"redirects to http://127.*/elsewhere: say that address as the url"):
        await run(openai(server), chat("x"))
    assert len(server.asked) == 1


@pytest.mark.parametrize("code", [429, 503, "rate_limit_exceeded", -3, None])
async def test_an_error_in_the_stream_is_for_another_try_where_nothing_was_sent(
    server: RawServer, code: Any
) -> None:
    busy = event({"error": {"message": "busy", "code": code}})
    server.answers = [(SSE, busy), (SSE, word("one "), END)]
    assert (await run(openai(server, retries=1), chat("x"), wants_events=True)).text == "one "
    with pytest.raises(EngineError, match="busy") as refused:
        await streamed(server, word("one "), busy)
    assert refused.value.kind == "fatal", "not the client's fault"


@pytest.mark.parametrize("code", [400, None])
async def test_what_is_wrong_with_the_request_is_said_in_the_stream_too(server: RawServer, code: Any) -> None:
    long = "This model's maximum context length is 10 tokens"
    server.answers = [(SSE, event({"error": {"message": long, "code": code}})), (SSE, word("one "), END)]
    with pytest.raises(EngineError, match="maximum context") as refused:
        await run(openai(server, retries=1), chat("x"), wants_events=True)
    assert (refused.value.kind, refused.value.code) == ("validation", "context_length_exceeded")
