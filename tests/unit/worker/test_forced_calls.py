"""Calls that a request demands: what constrains the answer, and what of an answer is a call that was allowed."""

from typing import Any

import pytest

from stoker.functions.output import OutputPart
from stoker.schemas.jobs import ChatInput
from stoker.schemas.openai import ChatMessage
from stoker.services.process.json_schemas import JsonSchema
from stoker.services.worker.engines.base import Request
from stoker.services.worker.engines.text.forced_calls import ForcedCalls, Unmet, call_id
from stoker.services.worker.engines.text.generation import Generation, chat_body

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = tuple(
    {"type": "function", "function": {"name": name, **more}}
    for name, more in (("get_weather", {"parameters": WEATHER}), ("get_time", {}))
)


def asked(choice: Any, tools: tuple[dict[str, Any], ...] = TOOLS) -> ChatInput:
    return ChatInput((ChatMessage("user", "Weather?"),), tools=tools, tool_choice=choice)


def forced(choice: Any = "required") -> ForcedCalls:
    found = ForcedCalls.of(asked(choice))
    assert found is not None
    return found


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_where_the_model_may_answer_as_it_likes_nothing_is_demanded(choice: str | None) -> None:
    assert ForcedCalls.of(asked(choice)) is None


def test_the_schema_allows_the_calls_of_the_tools_and_nothing_else() -> None:
    schema = forced().response_format()["json_schema"]["schema"]
    checked = JsonSchema(schema)
    assert checked.misfit({"name": "get_weather", "arguments": {"city": "Paris"}}) is None
    assert checked.misfit({"name": "get_time", "arguments": {}}) is None
    for wrong in (
        {"name": "nope", "arguments": {}},
        {"name": "get_weather", "arguments": {}},
        {"name": "get_time"},
        {"name": "get_time", "arguments": {}, "more": 1},
    ):
        assert checked.misfit(wrong) is not None


def test_a_named_function_is_the_only_one() -> None:
    found = forced({"type": "function", "function": {"name": "get_time"}})
    assert list(found.parameters) == ["get_time"]


def test_a_call_is_given_out_as_openai_has_it() -> None:
    [call] = forced().calls('{"name": "get_weather", "arguments": {"city": "Paris"}}', "j")
    assert call == {
        "id": "plibWXpuC",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
    }


@pytest.mark.parametrize(
    "text",
    [
        "It is sunny.",
        '{"name": "get_wea',
        '{"name": "other", "arguments": {}}',
        '{"name": "get_weather", "arguments": {"city": 3}}',
        "[]",
    ],
)
def test_what_is_no_call_that_was_allowed_is_told_apart(text: str) -> None:
    with pytest.raises(Unmet):
        forced().calls(text, "j")


def test_a_call_is_named_the_same_in_every_attempt() -> None:
    assert call_id("j", 0) == call_id("j", 0) != call_id("j", 1)
    assert all(len(call_id("j", index)) == 9 and call_id("j", index).isalnum() for index in range(50))


class Heard:
    def __init__(self) -> None:
        self.texts: list[tuple[str, bool]] = []

    def text(self, text: str, tokens: int = 1, *, is_reasoning: bool = False, logprobs: Any = ()) -> None:
        self.texts.append((text, is_reasoning))

    def calls(self, parts: Any, tokens: int) -> None: ...

    def step(self, step: int, steps: int) -> None: ...

    def preview(self, index: int, step: int, width: int, height: int, png: bytes) -> None: ...

    def printed(self, output: OutputPart) -> None: ...


def test_the_body_is_constrained_and_the_tools_are_told() -> None:
    body = chat_body(asked("required"), Request("j", asked("required"), 1))
    assert body["response_format"]["type"] == "json_schema"
    assert (body["tool_choice"], len(body["tools"])) == ("none", 2)
    assert "response_format" not in chat_body(asked("auto"), Request("j", asked("auto"), 1))


def test_a_template_that_knows_no_tools_is_told_of_them_by_the_system() -> None:
    given = asked("required")
    [system, user] = chat_body(given, Request("j", given, 1), knows_tools=False)["messages"]
    assert system["role"] == "system" and "get_weather" in system["content"]
    assert user == {"role": "user", "content": "Weather?"}
    more = ChatInput((ChatMessage("system", "Be brief."), *given.messages), tools=TOOLS, tool_choice="required")
    [system, _] = chat_body(more, Request("j", more, 1), knows_tools=False)["messages"]
    assert system["content"].startswith("Be brief.\n\n")


def test_arguments_that_are_empty_in_the_history_are_no_arguments() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "get_time", "arguments": ""}}
    said = (ChatMessage("assistant", tool_calls=(call,)), ChatMessage("tool", "noon", tool_call_id="c"))
    given = ChatInput((ChatMessage("user", "time?"), *said))
    [_, message, _] = chat_body(given, Request("j", given, 1))["messages"]
    assert message["tool_calls"][0]["function"]["arguments"] == "{}"


def test_once_the_answer_has_begun_all_is_answer() -> None:
    heard = Heard()
    plain = ChatInput((ChatMessage("user", "x"),))
    generation = Generation(Request("j", plain, 1), heard)
    generation.add_delta({"delta": {"reasoning_content": "hm"}}, 1)
    generation.add_delta({"delta": {"content": "yes"}}, 2)
    generation.add_delta({"delta": {"reasoning": "more"}, "finish_reason": "stop"}, 3)
    output = generation.output()
    assert (output.reasoning, output.text) == ("hm", "yesmore")
    assert heard.texts == [("hm", True), ("yes", False), ("more", False)]


@pytest.mark.parametrize(
    ("name", "arguments"), [("other", "{}"), ("get_weather", '{"city": 3}'), ("get_time", "{")]
)
def test_a_call_in_the_engines_own_way_is_checked_too(name: str, arguments: str) -> None:
    forced().check(({"function": {"name": "get_time", "arguments": ""}},))
    with pytest.raises(Unmet):
        forced().check(({"function": {"name": name, "arguments": arguments}},))
