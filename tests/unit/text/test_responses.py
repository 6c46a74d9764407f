"""The Responses API: requests as chats, answers as items, and events that add up to the answer."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from stoker.schemas import wire
from stoker.schemas.job_events import Delta, TextOutput
from stoker.schemas.openai import ChatMessage, Usage
from stoker.schemas.responses import Reasoning, ResponsesRequest, TextForm
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.text.responses_input import chat_of, conversation, items_of
from stoker.services.gateway.text.responses_output import (
    ResponseWriter,
    answer_message,
    answer_of,
    completed_answer,
    failure_of,
)
from tests.unit.text.made import call, deltas_of, events_of, outputs, written

EVENTS: Any = TypeAdapter(ResponseStreamEvent)
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}


def asked(given_: Any = "hi", **fields: Any) -> ResponsesRequest:
    return ResponsesRequest(model="m", input=given_, **fields)


def plain(answer: Any) -> Any:
    return json.loads(wire.encode(answer))


# Requests -----------------------------------------------------------------------------------------


def test_a_text_is_what_the_user_says_after_the_instructions() -> None:
    chat = chat_of(asked("hi", instructions="be brief", max_output_tokens=5, seed=3), ())
    assert [(one.role, one.content) for one in chat.messages] == [("system", "be brief"), ("user", "hi")]
    assert (chat.max_completion_tokens, chat.seed) == (5, 3)


def test_the_conversation_before_comes_first_and_instructions_are_not_kept() -> None:
    before = (ChatMessage("user", "one"), ChatMessage("assistant", "two"))
    request = asked("three", instructions="now")
    assert [one.content for one in chat_of(request, before).messages] == ["now", "one", "two", "three"]
    assert [one.content for one in conversation(request, before)] == ["one", "two", "three"]


def test_items_become_messages_and_calls_belong_to_what_was_said_before() -> None:
    items = (
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "id": "r", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "let me see"}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"n": 1}'},
        {"type": "function_call", "call_id": "c2", "name": "add", "arguments": ""},
        {"type": "function_call_output", "call_id": "c1", "output": "2"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "3"}]},
    )
    user, assistant, first, second = chat_of(asked(items), ()).messages
    assert user.content == "ab" and assistant.content == "let me see"
    assert [one["id"] for one in assistant.tool_calls or ()] == ["c1", "c2"]
    assert (assistant.tool_calls or ())[1]["function"]["arguments"] == "{}"
    assert [(one.tool_call_id, one.content) for one in (first, second)] == [("c1", "2"), ("c2", "3")]


def test_a_call_without_words_before_it_is_a_message_of_its_own() -> None:
    items = ({"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"},)
    [message] = chat_of(asked(items), ()).messages
    assert message.role == "assistant" and message.content is None


def test_a_picture_is_a_part() -> None:
    items = ({"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA"}]},)
    [message] = chat_of(asked(items), ()).messages
    assert not isinstance(message.content, str) and message.content is not None
    assert message.content[0].image_url.url == "data:image/png;base64,AA"  # type: ignore[union-attr]


def test_tools_formats_and_effort_are_those_of_a_chat() -> None:
    form = TextForm({"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True})
    request = asked(
        tools=(TOOL,), tool_choice={"type": "function", "name": "add"}, text=form, reasoning=Reasoning("low")
    )
    chat = chat_of(request, ())
    assert chat.tools[0]["function"] == {"name": "add", "parameters": {"type": "object"}, "strict": True}
    assert chat.tool_choice == {"type": "function", "function": {"name": "add"}}
    assert chat.response_format == {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
    }
    assert chat.reasoning_effort == "low"


def test_log_probabilities_may_be_included() -> None:
    assert chat_of(asked(include=("message.output_text.logprobs",)), ()).logprobs is True
    assert chat_of(asked(top_logprobs=3), ()).top_logprobs == 3
    assert chat_of(asked(), ()).logprobs is None


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (asked(tools=({"type": "web_search"},)), "tools[0]"),
        (asked(({"type": "item_reference", "id": "x"},)), "input[0]"),
        (asked(({"role": "user", "content": [{"type": "input_file"}]},)), "input[0].content"),
        (asked(({"role": "user", "content": 7},)), "input[0].content"),
        (asked(conversation="c"), "conversation"),
        (asked(background=True, store=False), "background"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_field(request_: ResponsesRequest, field: str) -> None:
    with pytest.raises(RequestError) as refused:
        chat_of(request_, ())
    assert (refused.value.status, refused.value.field) == (400, field)


def test_what_was_given_can_be_listed() -> None:
    assert items_of(asked("hi"))[0]["content"][0]["text"] == "hi"
    assert items_of(asked(({"role": "user", "content": "x"},))) == ({"role": "user", "content": "x"},)


# Answers ------------------------------------------------------------------------------------------


@given(outputs(with_chances=True))
def test_an_answer_is_one_of_openais(output: TextOutput) -> None:
    answer = Response.model_validate(plain(completed_answer(asked(), "j", 1.0, output)))
    assert answer.status == ("incomplete" if output.finish_reason == "length" else "completed")
    assert answer.output_text == output.text
    assert answer.usage is not None and answer.usage.input_tokens_details.cached_tokens == 3
    assert [one.name for one in answer.output if one.type == "function_call"] == [
        one["function"]["name"] for one in output.tool_calls
    ]


@given(st.data(), outputs(with_chances=True))
def test_events_add_up_to_the_answer(data: st.DataObject, output: TextOutput) -> None:
    stream = written(ResponseWriter(asked(), "j", 1.0), output, data.draw(deltas_of(output)))
    events = [EVENTS.validate_python(one) for _, one in events_of(stream)]
    assert [one.sequence_number for one in events] == list(range(len(events)))
    assert [name for name, _ in events_of(stream)] == [one.type for one in events]
    final = events[-1].response
    assert final.status == ("incomplete" if output.finish_reason == "length" else "completed")
    done = [one.item for one in events if one.type == "response.output_item.done"]
    given_ = "".join(one.delta for one in events if one.type == "response.output_text.delta")
    assert given_ == output.text
    thought = "".join(one.delta for one in events if one.type == "response.reasoning_text.delta")
    assert thought == output.reasoning
    assert [(one.type, one.id) for one in done] == [(one.type, one.id) for one in final.output]
    for one, other in zip(done, final.output, strict=True):
        assert one.model_dump(exclude={"status"}) == other.model_dump(exclude={"status"})
    opened = [one.output_index for one in events if one.type == "response.output_item.added"]
    assert opened == list(range(len(done)))


def of_the_background(output: TextOutput, deltas: list[Delta], after: int = -1) -> list[tuple[str, Any]]:
    writer = ResponseWriter(asked(background=True), "j", 1.0, after=after)
    stream = writer.queued() + written(writer, output, deltas)
    return events_of(stream) if stream else []


def texts(events: list[tuple[str, Any]]) -> dict[str, str]:
    """What all deltas of a kind say together."""
    found: dict[str, str] = {}
    for name, event in events:
        if name.endswith(".delta"):
            found[name] = found.get(name, "") + event["delta"]
    return found


def chances(events: list[tuple[str, Any]]) -> list[Any]:
    return [one for name, event in events if name == "response.output_text.delta" for one in event["logprobs"]]


@given(st.data(), outputs(with_chances=True))
def test_a_response_of_the_background_goes_on_after_any_event_however_its_text_is_cut(
    data: st.DataObject, output: TextOutput
) -> None:
    whole = of_the_background(output, data.draw(deltas_of(output)))
    assert [name for name, _ in whole[:3]] == ["response.created", "response.queued", "response.in_progress"]
    numbers = [event["sequence_number"] for _, event in whole]
    assert numbers == sorted(set(numbers))
    cut = data.draw(st.integers(0, len(whole) - 1))
    rest = of_the_background(output, data.draw(deltas_of(output)), after=numbers[cut])
    assert all(event["sequence_number"] > numbers[cut] for _, event in rest)
    had, more, all_of_it = texts(whole[: cut + 1]), texts(rest), texts(whole)
    assert {name: had.get(name, "") + more.get(name, "") for name in all_of_it} == all_of_it
    others = [one for one in whole if not one[0].endswith(".delta")]
    assert others == [one for one in whole[: cut + 1] + rest if not one[0].endswith(".delta")]
    assert chances(whole[: cut + 1] + rest) == chances(whole)


def test_an_error_ends_a_stream_as_a_failed_response() -> None:
    writer = ResponseWriter(asked(), "j", 1.0)
    writer.opening(0)
    [(name, event)] = events_of(writer.error(RequestError(503, "no worker", code="impossible")))
    assert name == "response.failed" and event["response"]["error"]["message"] == "no worker (impossible)"
    assert event["sequence_number"] == 2


def test_codes_of_errors_are_openais() -> None:
    assert failure_of("queue_full", "full")["code"] == "rate_limit_exceeded"
    assert failure_of(None, "broken") == {"code": "server_error", "message": "broken"}


def test_an_answer_goes_on_as_what_the_assistant_said() -> None:
    output = TextOutput("", "tool_calls", Usage(1, 1, 2), (call(0, "add", "{}"),))
    assert answer_message(output) == ChatMessage("assistant", None, tool_calls=output.tool_calls)


def test_a_response_that_is_not_done_shows_what_was_asked() -> None:
    shown = Response.model_validate(plain(answer_of(asked(metadata={"a": "b"}), "j", 5.0, "queued")))
    assert shown.id == "resp_j" and shown.metadata == {"a": "b"} and shown.output == []
