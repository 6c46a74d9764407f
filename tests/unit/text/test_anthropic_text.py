"""Anthropic's Messages: requests as chats, answers as blocks, and events that add up to the answer."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas import wire
from stoker.schemas.anthropic import AnthropicErrorAnswer, CountTokensRequest, MessagesRequest
from stoker.schemas.job_events import TextOutput
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.openai import Usage
from stoker.services.gateway.edge.problems import RequestError, answer_body
from stoker.services.gateway.text.anthropic_text import MessageWriter, answer_of, chat_of, messages_of, tools_of
from tests.unit.text.made import call, deltas_of, events_of, outputs, written

JOB = Job("j1", "m", CompletionInput("x"), "g", 12.0)
TOOL = {"name": "add", "description": "adds", "input_schema": {"type": "object"}}


def asked(*messages: Any, **fields: Any) -> MessagesRequest:
    body = {
        "model": "m",
        "max_tokens": 9,
        "messages": messages or ({"role": "user", "content": "hi"},),
        **fields,
    }
    return msgspec.convert(body, MessagesRequest)


def answered(output: TextOutput) -> Any:
    return json.loads(wire.encode(answer_of(JOB, asked(), output)))


# Requests -----------------------------------------------------------------------------------------


def test_the_system_speaks_first() -> None:
    found = messages_of(asked(system=[{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}]))
    assert [(one.role, one.content) for one in found] == [("system", "be\n\nbrief"), ("user", "hi")]
    assert messages_of(asked(system="short"))[0].content == "short"


def test_results_of_tools_come_before_what_the_user_says() -> None:
    turns = (
        {"role": "user", "content": "add"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "let me"},
                {"type": "tool_use", "id": "t1", "name": "add", "input": {"n": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "2"}]},
                {"type": "text", "text": "and now?"},
            ],
        },
    )
    _, assistant, result, user = messages_of(asked(*turns))
    assert assistant.content == "let me"
    assert (assistant.tool_calls or ())[0]["function"] == {"name": "add", "arguments": '{"n":1}'}
    assert (result.role, result.tool_call_id, result.content) == ("tool", "t1", "2")
    assert (user.role, user.content) == ("user", "and now?")


def test_pictures_are_parts() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AA"}
    [message] = messages_of(asked({"role": "user", "content": [{"type": "image", "source": source}]}))
    assert not isinstance(message.content, str) and message.content is not None
    assert message.content[0].image_url.url == "data:image/png;base64,AA"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "add"}, {"type": "function", "function": {"name": "add"}}),
    ],
)
def test_the_choice_of_a_tool_is_openais(choice: dict[str, Any], expected: Any) -> None:
    chat = chat_of(asked(tools=[TOOL], tool_choice=choice))
    assert chat.tool_choice == expected
    assert chat.tools[0]["function"] == {"name": "add", "parameters": {"type": "object"}, "description": "adds"}


def test_one_call_at_a_time_may_be_asked_for() -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert chat_of(asked(tools=[TOOL], tool_choice=choice)).parallel_tool_calls is False
    assert chat_of(asked(tools=[TOOL])).parallel_tool_calls is None


def test_sampling_limits_and_thinking_are_passed_on() -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "stop_sequences": ["x"]}
    chat = chat_of(asked(thinking={"type": "disabled"}, **fields))
    assert (chat.max_tokens, chat.temperature, chat.top_p, chat.top_k, chat.stop) == (9, 0.5, 0.9, 3, ("x",))
    assert chat.chat_template_kwargs == {"enable_thinking": False}
    enabled = {"type": "enabled", "budget_tokens": 1024}
    assert chat_of(asked(thinking=enabled)).chat_template_kwargs == {"enable_thinking": True}


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (asked(tools=[{"type": "web_search_20250305", "name": "web_search"}]), "tools[0]"),
        (msgspec.convert({"model": "m", "max_tokens": 1, "messages": []}, MessagesRequest), "messages"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_field(request_: MessagesRequest, field: str) -> None:
    with pytest.raises(RequestError) as refused:
        chat_of(request_)
    assert (refused.value.status, refused.value.field) == (400, field)


def test_a_result_with_a_picture_is_refused() -> None:
    source = {"type": "url", "url": "http://x/y.png"}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": source}]}
    with pytest.raises(RequestError) as refused:
        chat_of(asked({"role": "user", "content": [result]}))
    assert refused.value.field == "messages[0].content[0]"


def test_what_is_counted_has_the_same_parts() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": [TOOL]}
    counted = msgspec.convert(body, CountTokensRequest)
    assert messages_of(counted) == messages_of(asked()) and len(tools_of(counted)) == 1


# Answers ------------------------------------------------------------------------------------------


def test_an_answer_says_why_it_ended_and_what_was_cached() -> None:
    output = TextOutput("hi", "length", Usage(7, 5, 12))
    answer = answered(output)
    assert (answer["stop_reason"], answer["usage"]["input_tokens"]) == ("max_tokens", 7)
    assert answer["id"] == "msg_j1" and answer["type"] == "message" and answer["role"] == "assistant"


def test_a_call_that_was_cut_off_has_no_input() -> None:
    output = TextOutput("", "length", Usage(1, 1, 2), (call(0, "add", '{"n'),))
    assert answered(output)["content"] == [{"type": "tool_use", "id": "call00000", "name": "add", "input": {}}]


@given(st.data(), outputs())
def test_events_add_up_to_the_answer(data: st.DataObject, output: TextOutput) -> None:
    stream = written(MessageWriter(JOB, asked()), output, data.draw(deltas_of(output)))
    events = events_of(stream)
    assert all(name == event["type"] for name, event in events)
    blocks: list[dict[str, Any]] = []
    open_index = None
    for name, event in events:
        match name:
            case "content_block_start":
                assert open_index is None and event["index"] == len(blocks)
                open_index = event["index"]
                blocks.append(dict(event["content_block"]))
            case "content_block_delta":
                assert event["index"] == open_index
                delta = event["delta"]
                field = {
                    "text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature",
                    "input_json_delta": "partial_json",
                }[delta["type"]]  # fmt: skip
                blocks[-1][field] = blocks[-1].get(field, "") + delta[field]
            case "content_block_stop":
                assert event["index"] == open_index
                open_index = None
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block.pop("partial_json", "{}"))
    answer = answered(output)
    assert blocks == answer["content"]
    assert (events[0][0], events[-1][0]) == ("message_start", "message_stop")
    [last] = [event for name, event in events if name == "message_delta"]
    assert last["delta"]["stop_reason"] == answer["stop_reason"] and last["usage"] == answer["usage"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (404, "not_found_error"), (429, "rate_limit_error"),
     (500, "api_error"), (503, "overloaded_error")],
)  # fmt: skip
def test_errors_are_anthropics(status: int, kind: str) -> None:
    body, _ = answer_body(RequestError(status, "no", field="model"), "anthropic")
    assert isinstance(body, AnthropicErrorAnswer)
    assert json.loads(wire.encode(body)) == {"error": {"type": kind, "message": "model: no"}, "type": "error"}


def test_an_error_in_the_middle_is_an_event() -> None:
    writer = MessageWriter(JOB, asked())
    [(name, event)] = events_of(writer.error(RequestError(500, "broken")))
    assert name == "error" and event["error"]["type"] == "api_error"
