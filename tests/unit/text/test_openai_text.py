"""Chats and completions in OpenAI's form: a stream says what the whole answer says."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from stoker.schemas import wire
from stoker.schemas.job_events import CallPart, Delta, TextOutput
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.openai import ChatCompletionRequest, ChatMessage, CompletionRequest, StreamOptions, Usage
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.text.openai_text import (
    ChatWriter,
    CompletionWriter,
    chat_answer,
    completion_answer,
    echoed,
    summed,
)
from stoker.services.gateway.text.writing import CallsGiven, completion_logprobs
from tests.unit.text.made import call, deltas_of, events_of, outputs, written

JOB = Job("j1", "m", CompletionInput("x"), "g", 12.0)
MESSAGES = (ChatMessage("user", "hi"),)


def chat(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest(model="m", messages=MESSAGES, **fields)


def chunks(stream: bytes) -> list[ChatCompletionChunk]:
    found = [data for _, data in events_of(stream)]
    assert found.pop() == "[DONE]"
    return [ChatCompletionChunk.model_validate(one) for one in found]


@given(st.data(), outputs(with_chances=True))
def test_a_streamed_chat_is_the_whole_one(data: st.DataObject, output: TextOutput) -> None:
    asked = chat(logprobs=True, stream=True, stream_options=StreamOptions(include_usage=True))
    found = chunks(written(ChatWriter(JOB, asked), output, data.draw(deltas_of(output))))
    whole = ChatCompletion.model_validate(
        wire.decode(dict[str, Any], wire.encode(chat_answer(JOB, asked, [output])))
    )
    message = whole.choices[0].message
    *parts, last = found
    content, reasoning, calls, logprobs = "", "", {}, []
    for chunk in parts:
        assert chunk.usage is None
        [choice] = chunk.choices
        content += choice.delta.content or ""
        reasoning += getattr(choice.delta, "reasoning_content", "") or ""
        logprobs += (choice.logprobs.content or []) if choice.logprobs else []
        for fragment in choice.delta.tool_calls or ():
            known = calls.setdefault(fragment.index, {"id": fragment.id, "name": "", "arguments": ""})
            assert fragment.function is not None
            known["name"] += fragment.function.name or ""
            known["arguments"] += fragment.function.arguments or ""
    assert (content, reasoning) == (message.content or "", getattr(message, "reasoning_content", ""))
    assert [calls[index] for index in sorted(calls)] == [
        {"id": one.id, "name": one.function.name, "arguments": one.function.arguments}
        for one in message.tool_calls or ()
    ]
    assert logprobs == (whole.choices[0].logprobs.content if whole.choices[0].logprobs else None)
    assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.usage == whole.usage and last.choices == []


@given(st.data(), outputs(with_chances=True), st.booleans())
def test_a_streamed_completion_is_the_whole_one(data: st.DataObject, output: TextOutput, echo: bool) -> None:
    asked = CompletionRequest(model="m", prompt="before", echo=echo, logprobs=1, stream=True)
    deltas = [one for one in data.draw(deltas_of(output)) if not one.calls]
    found = [one for _, one in events_of(written(CompletionWriter(JOB, asked), output, deltas))]
    assert found.pop() == "[DONE]"
    read = [Completion.construct(**one) for one in found]  # a chunk in the middle has no reason, as with OpenAI
    whole = completion_answer(JOB, asked, [output])
    text = "".join(one.choices[0].text for one in read)
    assert text == ("before" if echo else "") + output.reasoning + output.text
    assert whole.choices[0].text == text
    tokens = [
        token for one in read if one.choices[0].logprobs for token in one.choices[0].logprobs.tokens or ()
    ]
    assert tokens == [one.token for one in output.logprobs]


def test_several_answers_have_their_numbers_and_one_usage() -> None:
    made = [TextOutput(text, "stop", Usage(5, n, 5 + n)) for n, text in ((1, "a"), (2, "b"))]
    asked = chat(n=2)
    answer = chat_answer(JOB, asked, made)
    assert [(one.index, one.message["content"]) for one in answer.choices] == [(0, "a"), (1, "b")]
    assert answer.usage == Usage(5, 3, 8)
    writer = ChatWriter(JOB, asked)
    stream = writer.opening(1) + writer.delta(1, Delta(at=0, text="b")) + writer.ending(1, made[1])
    assert {data["choices"][0]["index"] for _, data in events_of(stream)} == {1}


def test_tokens_of_several_prompts_are_counted_once_each() -> None:
    made = [TextOutput("", "stop", Usage(prompt, 1, prompt + 1)) for prompt in (5, 5, 9, 9)]
    assert summed(made, 2) == Usage(14, 4, 18)


def test_prompts_are_echoed_with_their_answers() -> None:
    asked = CompletionRequest(model="m", prompt=("one", "two"), echo=True, n=2)
    assert echoed(asked) == ["one", "two"]
    made = [TextOutput(text, "stop", Usage(1, 1, 2)) for text in "abcd"]
    assert [one.text for one in completion_answer(JOB, asked, made).choices] == ["onea", "oneb", "twoc", "twod"]


def test_an_answer_without_text_but_with_calls_has_no_content() -> None:
    made = TextOutput("", "tool_calls", Usage(1, 1, 2), (call(0, "add", "{}"),))
    message = chat_answer(JOB, chat(), [made]).choices[0].message
    assert message["content"] is None and message["tool_calls"][0]["function"]["name"] == "add"


def test_text_offsets_count_characters() -> None:
    found = completion_logprobs([], 3)
    assert found == {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


# Parts of calls -----------------------------------------------------------------------------------


def part(arguments: str, at: int, index: int = 0) -> CallPart:
    return CallPart(index, "c", "add", arguments, at)


def test_a_part_that_comes_twice_is_given_once() -> None:
    given_ = CallsGiven()
    assert given_.fragment(part('{"n"', 0)) is not None
    assert given_.fragment(part('{"n"', 0)) is None
    more = given_.fragment(part('{"n": 1', 0))
    assert more == {"index": 0, "function": {"arguments": ": 1"}}


def test_what_comes_after_a_gap_waits_for_the_end() -> None:
    given_ = CallsGiven()
    given_.fragment(part("{", 0))
    assert given_.fragment(part("1}", 5)) is None
    assert given_.rest([call(0, "add", '{"n":1}')]) == [{"index": 0, "function": {"arguments": '"n":1}'}}]


def test_a_call_that_turns_out_to_be_another_is_an_error() -> None:
    given_ = CallsGiven()
    given_.fragment(part('{"n": 1', 0))
    with pytest.raises(RequestError) as refused:
        given_.rest([call(0, "add", '{"n": 2}')])
    assert refused.value.code == "text_diverged"
