"""A text put together from chunks of OpenAI's dialect, however they are cut."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.functions.output import OutputPart
from stoker.schemas.job_events import CallPart, TokenChance
from stoker.schemas.jobs import ChatInput, CompletionInput, Sampling
from stoker.schemas.openai import ChatMessage, Usage
from stoker.services.worker.engines.base import EngineError, Request
from stoker.services.worker.engines.text.forced_calls import call_id
from stoker.services.worker.engines.text.generation import (
    Generation,
    ToolCalls,
    chat_body,
    chat_prompt,
    completion_body,
    left_tokens,
)

CALLS = st.lists(st.tuples(st.sampled_from(["add", "remove"]), st.text(max_size=20)), min_size=1, max_size=3)


class Heard:
    """An emitter that remembers."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, int, bool]] = []
        self.chances: list[TokenChance] = []
        self.parts: list[CallPart] = []

    def text(
        self, text: str, tokens: int = 1, *, is_reasoning: bool = False, logprobs: tuple[TokenChance, ...] = ()
    ) -> None:
        self.texts.append((text, tokens, is_reasoning))
        self.chances += logprobs

    def calls(self, parts: tuple[CallPart, ...], tokens: int) -> None:
        self.parts += parts

    def step(self, step: int, steps: int) -> None: ...

    def preview(self, index: int, step: int, width: int, height: int, png: bytes) -> None: ...

    def printed(self, output: OutputPart) -> None: ...


def chat(**fields: Any) -> ChatInput:
    return ChatInput((ChatMessage("user", "x"),), **fields)


def chance(token: str, *others: str) -> dict[str, Any]:
    top = [{"token": one, "logprob": -2.0 - index} for index, one in enumerate(others)]
    return {"token": token, "logprob": -1.0, "bytes": list(token.encode()), "top_logprobs": top}


def generation(asked: Any = None, **request: Any) -> tuple[Generation, Heard]:
    heard = Heard()
    return Generation(Request("j", asked or chat(), 1, **request), heard), heard


# Calls of tools -----------------------------------------------------------------------------------


@given(st.data(), CALLS)
def test_calls_are_the_same_however_they_are_cut(data: st.DataObject, calls: list[tuple[str, str]]) -> None:
    made = ToolCalls("j")
    parts: list[CallPart] = []
    for index, (name, arguments) in enumerate(calls):
        parts += made.add([{"index": index, "id": "x", "function": {"name": name, "arguments": ""}}])
        at = 0
        while at < len(arguments):
            end = data.draw(st.integers(at + 1, len(arguments)))
            parts += made.add([{"index": index, "function": {"arguments": arguments[at:end]}}])
            at = end
    whole = made.whole()
    assert [(one["function"]["name"], one["function"]["arguments"]) for one in whole] == calls
    assert [one["id"] for one in whole] == [call_id("j", index) for index in range(len(calls))]
    for index, (name, arguments) in enumerate(calls):
        mine = [part for part in parts if part.index == index]
        assert "".join(part.arguments for part in mine) == arguments
        assert all(part.name == name and part.id == call_id("j", index) for part in mine)
        ends = [part.at + len(part.arguments) for part in mine]
        assert [part.at for part in mine] == [0, *ends[:-1]]


def test_parts_are_told_as_they_come_and_the_whole_at_the_end() -> None:
    made, heard = generation(chat(tools=({"type": "function", "function": {"name": "add"}},)))
    made.add_delta({"delta": {"content": "let me see"}}, 3)
    made.add_delta({"delta": {"tool_calls": [{"index": 0, "function": {"name": "add", "arguments": "{"}}]}}, 5)
    made.add_delta({"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}}, 6)
    made.finish("tool_calls")
    assert [part.arguments for part in heard.parts] == ["{", "}"]
    output = made.output()
    assert (output.text, output.finish_reason) == ("let me see", "tool_calls")
    assert json.loads(output.tool_calls[0]["function"]["arguments"]) == {}


# Chances ------------------------------------------------------------------------------------------


def test_chances_have_their_place_and_so_many_alternatives_as_were_asked_for() -> None:
    made, heard = generation(chat(logprobs=1))
    made.add_delta({"delta": {"content": "one"}, "logprobs": {"content": [chance("one", "b", "a")]}}, 1)
    made.add_delta({"delta": {"content": " two"}, "logprobs": {"content": [chance(" two", "c")]}}, 2)
    assert [(one.token, one.at, [other.token for other in one.top]) for one in heard.chances] == [
        ("one", 0, ["b"]),
        (" two", 3, ["c"]),
    ]
    assert made.output().logprobs == tuple(heard.chances)


def test_the_likeliest_alternatives_are_kept_whatever_their_order() -> None:
    made, heard = generation(chat(logprobs=1))
    told = chance("x") | {"top_logprobs": [{"token": "x", "logprob": -9.0}, {"token": "y", "logprob": -0.5}]}
    made.add_delta({"delta": {"content": "x"}, "logprobs": {"content": [told]}}, 1)
    assert [one.token for one in heard.chances[0].top] == ["y"]


def test_parts_of_a_character_come_with_the_text_that_they_make() -> None:
    made, heard = generation(chat(logprobs=0))
    made.add_delta({"delta": {"content": ""}, "logprobs": {"content": [chance("\ufffd")]}}, 1)
    assert heard.chances == []
    made.add_delta({"delta": {"content": "é"}, "logprobs": {"content": [chance("\ufffd")]}}, 2)
    assert len(heard.chances) == 2
    made.add_delta({"delta": {}, "logprobs": {"content": [chance("\ufffd")]}, "finish_reason": "length"}, 3)
    assert len(made.output().logprobs) == 3  # nothing that was made is lost


def test_the_form_of_completions_is_read_too() -> None:
    made, heard = generation(CompletionInput("x", logprobs=2))
    told = {
        "tokens": ["a", "b"],
        "token_logprobs": [None, -0.5],
        "top_logprobs": [None, {"b": -0.5, "c": -3.0}],
    }
    made.add_delta({"text": "ab", "logprobs": told}, 2)
    assert [(one.token, one.logprob, len(one.top)) for one in heard.chances] == [("a", 0.0, 0), ("b", -0.5, 2)]
    assert heard.chances[0].bytes == (97,)


def test_thoughts_have_their_chances_before_those_of_the_answer() -> None:
    made, _ = generation(chat(logprobs=0))
    made.add_delta({"delta": {"reasoning_content": "hm"}, "logprobs": {"content": [chance("hm")]}}, 1)
    made.add_delta({"delta": {"content": "yes"}, "logprobs": {"content": [chance("yes")]}}, 2)
    output = made.output()
    assert [(one.token, one.at) for one in output.logprobs] == [("hm", 0), ("yes", 2)]


# Counting, going on -------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [None, 0, 3, 99])
def test_what_was_sent_already_is_a_part_of_the_answer_and_not_of_the_prompt(cached: int | None) -> None:
    made, _ = generation(chat(max_tokens=20), sent_text="before ", sent_tokens=2)
    made.add("after")
    made.count(12, 5, cached)
    output = made.output()
    assert output.text == "before after"
    assert (output.usage.prompt_tokens, output.usage.completion_tokens) == (10, 7)
    if cached is not None:
        assert output.usage.prompt_tokens_details.cached_tokens == min(cached, 10)  # type: ignore[union-attr]


def test_an_answer_that_was_full_already_takes_no_more() -> None:
    made, heard = generation(chat(max_tokens=2), sent_text="a b", sent_tokens=2)
    made.add("c")
    made.add_calls([{"index": 0, "function": {"name": "add", "arguments": "{}"}}], 1)
    made.count(9, 1)
    output = made.output()
    assert (output.text, output.finish_reason, heard.texts, heard.parts) == ("a b", "length", [], [])
    assert output.usage == Usage(7, 2, 9)
    assert left_tokens(2, Request("j", chat(), 1, sent_tokens=2)) == 1


# Bodies -------------------------------------------------------------------------------------------


def test_a_chat_goes_on_after_what_was_sent() -> None:
    body = chat_body(chat(max_tokens=9), Request("j", chat(max_tokens=9), 5, sent_text="so far", sent_tokens=3))
    assert body["messages"][-1] == {"role": "assistant", "content": "so far"}
    assert (body["max_tokens"], body["seed"], body["stream"]) == (6, 5, True)


@pytest.mark.parametrize(("asked", "given"), [(0, 1), (1, 1), (5, 5)])
def test_chances_are_asked_of_engines_with_one_alternative_at_least(asked: int, given: int) -> None:
    body = chat_body(chat(logprobs=asked), Request("j", chat(logprobs=asked), 1))
    assert (body["logprobs"], body["top_logprobs"]) == (True, given)
    text = CompletionInput("x", logprobs=asked)
    assert completion_body(text, Request("j", text, 1))["logprobs"] == given


def test_a_prompt_may_be_tokens_and_has_no_suffix() -> None:
    tokens = CompletionInput("", tokens=(1, 2))
    assert completion_body(tokens, Request("j", tokens, 1))["prompt"] == [1, 2]
    suffix = CompletionInput("x", suffix="y")
    with pytest.raises(EngineError) as refused:
        completion_body(suffix, Request("j", suffix, 1))
    assert (refused.value.kind, refused.value.field) == ("validation", "suffix")


def test_what_a_prompt_is_made_of() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": ""}}
    body = chat_prompt((ChatMessage("assistant", tool_calls=(call,)),), ({"type": "function"},), {"a": 1})
    assert body["messages"][0]["tool_calls"][0]["function"]["arguments"] == "{}"
    assert (body["tools"], body["chat_template_kwargs"]) == ([{"type": "function"}], {"a": 1})
    assert chat_prompt((ChatMessage("user", "x"),), (), {}).keys() == {"messages"}


def test_nothing_is_said_of_sampling_that_nobody_asked_for() -> None:
    body = chat_body(chat(sampling=Sampling(temperature=0.0)), Request("j", chat(), 1))
    assert body["temperature"] == 0.0 and "top_p" not in body and "logprobs" not in body
