"""Ollama's API: requests as chats or texts, answers as lines of JSON that add up to the whole."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas import wire
from stoker.schemas.job_events import Completed, TextOutput, Timings
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.ollama import OllamaChatRequest, OllamaGenerateRequest
from stoker.schemas.openai import ChatCompletionRequest, CompletionRequest, Usage
from stoker.services.gateway.edge.problems import RequestError, answer_body
from stoker.services.gateway.text.ollama_text import (
    Lines,
    LineWriter,
    calls_of,
    chat_of,
    generation_of,
    is_zero,
    model_name,
    moment,
    unread_options,
)
from tests.unit.text.made import call, deltas_of, outputs, written

JOB = Job("j1", "m", CompletionInput("x"), "g", 12.0)


def chat(*messages: Any, **fields: Any) -> ChatCompletionRequest:
    body = {"model": "m", "messages": messages or ({"role": "user", "content": "hi"},), **fields}
    return chat_of(msgspec.convert(body, OllamaChatRequest))


def generation(**fields: Any) -> ChatCompletionRequest | CompletionRequest:
    return generation_of(msgspec.convert({"model": "m", "prompt": "hi", **fields}, OllamaGenerateRequest))


def completed(output: TextOutput) -> Completed:
    return Completed(
        job="j1", model="m", created_at=12.0, finished_at=14.0, output=output, timings=Timings(0.1, 0.5, 1.0)
    )


def lines_of(stream: bytes) -> list[Any]:
    assert stream.endswith(b"\n") and b"\n\n" not in stream
    return [json.loads(line) for line in stream.splitlines()]


# Requests -----------------------------------------------------------------------------------------


def test_names_lose_the_tag_that_clients_add() -> None:
    assert model_name("m:latest") == "m" and model_name("m:7b") == "m:7b"


@pytest.mark.parametrize("keep_alive", [0, 0.0, "0", "0s", "0m", "0h0m0.0s", "-0"])
def test_no_time_at_all_is_said_in_many_ways(keep_alive: str | float) -> None:
    assert is_zero(keep_alive)


@pytest.mark.parametrize("keep_alive", [None, 1, -1, 0.5, "5m", "0h5m", "-1", "", "10s", "0.5s", "soon"])
def test_other_times_are_times(keep_alive: str | float | None) -> None:
    assert not is_zero(keep_alive)


def test_options_are_the_fields_of_a_chat() -> None:
    options = {"temperature": 0.1, "num_predict": 7, "seed": 3, "stop": ["x"], "top_k": 5, "num_ctx": 9}
    made = chat(options=options)
    assert (made.temperature, made.max_tokens, made.seed, made.stop, made.top_k) == (0.1, 7, 3, ("x",), 5)
    asked = msgspec.convert({"model": "m", "options": options}, OllamaChatRequest)
    assert unread_options(asked) == ("options.num_ctx",)


@pytest.mark.parametrize("limit", [-1, -2])
def test_no_limit_is_no_limit(limit: int) -> None:
    assert chat(options={"num_predict": limit}).max_tokens == -1


def test_a_schema_is_a_format() -> None:
    assert chat(format="json").response_format == {"type": "json_object"}
    assert chat(format={"type": "object"}).response_format == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}},
    }
    assert chat(format="").response_format is None
    with pytest.raises(RequestError) as refused:
        chat(format="yaml")
    assert refused.value.field == "format"


def test_thinking_and_chances_are_asked_for() -> None:
    assert chat(think=False).chat_template_kwargs == {"enable_thinking": False}
    assert chat(think="high").chat_template_kwargs == {"reasoning_effort": "high"}
    made = chat(logprobs=True, top_logprobs=2)
    assert (made.logprobs, made.top_logprobs) == (True, 2)


def test_calls_are_named_and_results_name_them() -> None:
    calls = [{"function": {"name": name, "arguments": {"n": 1}}} for name in ("add", "remove")]
    made = chat(
        {"role": "user", "content": "do"},
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "content": "gone", "tool_name": "remove"},
        {"role": "tool", "content": "2", "tool_name": "add"},
    )
    _, assistant, first, second = made.messages
    names = {one["id"]: one["function"]["name"] for one in assistant.tool_calls or ()}
    assert [names[str(one.tool_call_id)] for one in (first, second)] == ["remove", "add"]
    assert (assistant.tool_calls or ())[0]["function"]["arguments"] == '{"n":1}'


def test_pictures_are_parts() -> None:
    [message] = chat({"role": "user", "content": "what", "images": ["AA"]}).messages
    assert not isinstance(message.content, str) and message.content is not None
    assert message.content[1].image_url.url == "data:image/png;base64,AA"  # type: ignore[union-attr]


def test_a_prompt_is_a_chat_unless_it_is_raw_or_has_a_suffix() -> None:
    made = generation(system="be brief")
    assert isinstance(made, ChatCompletionRequest)
    assert [(one.role, one.content) for one in made.messages] == [("system", "be brief"), ("user", "hi")]
    raw = generation(raw=True, logprobs=True)
    assert isinstance(raw, CompletionRequest) and (raw.prompt, raw.logprobs) == ("hi", 0)
    filled = generation(suffix="end")
    assert isinstance(filled, CompletionRequest) and filled.suffix == "end"


@pytest.mark.parametrize("field", ["template", "context"])
def test_what_is_not_supported_is_refused(field: str) -> None:
    with pytest.raises(RequestError) as refused:
        generation(**{field: "x" if field == "template" else [1]})
    assert refused.value.field == field


# Answers ------------------------------------------------------------------------------------------


@given(st.data(), outputs(with_chances=True), st.booleans())
def test_lines_add_up_to_the_whole(data: st.DataObject, output: TextOutput, is_chat: bool) -> None:
    stream = written(LineWriter(JOB, "m", is_chat=is_chat), output, data.draw(deltas_of(output)))
    *parts, last = lines_of(stream)
    whole = json.loads(wire.encode(Lines(JOB, "m", is_chat=is_chat).whole(completed(output), output)))
    assert all(part["done"] is False for part in parts) and last["done"] is True is whole["done"]

    def said(line: Any, field: str) -> str:
        inner = line["message"] if is_chat else line
        return str(inner.get({"content": "content" if is_chat else "response"}.get(field, field)) or "")

    for field in ("content", "thinking"):
        assert "".join(said(part, field) for part in [*parts, last]) == said(whole, field)
    told = [one for part in parts for one in part.get("logprobs", ())]
    assert told == whole.get("logprobs", [])
    if is_chat:
        calls = [one for part in parts for one in part["message"].get("tool_calls", ())]
        assert calls == whole["message"].get("tool_calls", [])
    figures = ("done_reason", "prompt_eval_count", "eval_count")
    assert [last[name] for name in figures] == [whole[name] for name in figures]


def test_durations_are_nanoseconds() -> None:
    output = TextOutput("hi", "stop", Usage(7, 5, 12))
    line = Lines(JOB, "m", is_chat=True).whole(completed(output), output)
    assert (line.load_duration, line.eval_duration) == (500_000_000, 1_000_000_000)


def test_a_call_that_was_cut_off_has_no_arguments() -> None:
    output = TextOutput("", "length", Usage(1, 1, 2), (call(0, "add", '{"n'),))
    assert calls_of(output)[0]["function"]["arguments"] == {}


def test_times_are_iso() -> None:
    assert moment(0.0) == "1970-01-01T00:00:00Z"


def test_errors_are_ollamas() -> None:
    body, _ = answer_body(RequestError(404, "no such model"), "ollama")
    assert json.loads(wire.encode(body)) == {"error": "no such model"}
    writer = LineWriter(JOB, "m", is_chat=True)
    assert lines_of(writer.error(RequestError(500, "broken"))) == [{"error": "broken"}]


def test_while_it_waits_a_stream_says_an_empty_part() -> None:
    [line] = lines_of(LineWriter(JOB, "m", is_chat=True).waiting(b": queued\n"))
    assert line["message"]["content"] == "" and line["done"] is False
