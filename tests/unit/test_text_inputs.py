"""From requests for text to inputs of jobs: prompts of every form, inputs of POST /v1/jobs, several names."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.catalog import Model, Spec
from stoker.schemas.jobs import ChatInput, CompletionInput
from stoker.schemas.openai import ChatCompletionRequest, CompletionRequest
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.request_rules import converted
from stoker.services.gateway.jobs.text_requests import (
    MAX_ALTERNATIVES,
    chat_input,
    completion_inputs,
    text_input,
)

MODEL = Model("m", ("TextGeneration",), (Spec(name="s", engine="llamacpp", url="x"),))
MESSAGES = [{"role": "user", "content": "hi"}]
WORDS = st.text(min_size=1, max_size=10)
TOKENS = st.lists(st.integers(0, 9999), min_size=1, max_size=5)


def inputs(prompt: Any, **fields: Any) -> list[CompletionInput]:
    return completion_inputs(converted({"model": "m", "prompt": prompt, **fields}, CompletionRequest), MODEL)


def refused(make: Any) -> RequestError:
    with pytest.raises(RequestError) as found:
        make()
    assert found.value.status == 400
    return found.value


@given(WORDS | TOKENS | st.lists(WORDS | TOKENS, min_size=1, max_size=4))
def test_every_form_of_a_prompt_becomes_as_many_inputs(prompt: Any) -> None:
    found = inputs(prompt)
    if isinstance(prompt, str):
        expected: list[Any] = [prompt]
    elif all(isinstance(one, int) for one in prompt):
        expected = [prompt]
    else:
        expected = prompt
    assert [list(one.tokens) if one.tokens else one.prompt for one in found] == expected


@pytest.mark.parametrize("prompt", [[], [1, "x"], [[1], 2], ["a", ""]])
def test_what_is_no_prompt_is_refused(prompt: Any) -> None:
    assert refused(lambda: inputs(prompt)).field == "prompt"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"echo": True, "suffix": "x"}, "suffix"),
        ({"suffix": "x"}, "suffix"),
        ({"logit_bias": {"Hello": -100}}, "logit_bias"),
        ({"logit_bias": {"5": 1, "-1": 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 30: 1}}, "logit_bias"),
        ({"logprobs": MAX_ALTERNATIVES + 1}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"n_predict": 0}, "max_tokens"),
        ({"repetition_penalty": 11}, "repetition_penalty"),
    ],
)
def test_what_a_completion_cannot_be_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    assert refused(lambda: inputs("x", **fields)).field in (field, "echo")


@pytest.mark.parametrize(
    ("asked", "given_"), [({}, None), ({"logprobs": False}, None), ({"logprobs": True}, 0)]
)
def test_chances_of_a_chat(asked: dict[str, Any], given_: int | None) -> None:
    request = converted({"model": "m", "messages": MESSAGES, **asked}, ChatCompletionRequest)
    assert chat_input(request, MODEL).logprobs == given_


def test_a_name_of_an_engine_counts_where_the_own_name_is_not_given() -> None:
    assert inputs("x", n_predict=4)[0].max_tokens == 4
    assert inputs("x", n_predict=-1)[0].max_tokens is None
    assert inputs("x", repetition_penalty=1.5)[0].sampling.repeat_penalty == 1.5
    assert inputs("x", repetition_penalty=1.5, repeat_penalty=1.25)[0].sampling.repeat_penalty == 1.25


# Inputs of jobs -----------------------------------------------------------------------------------


def test_the_input_of_a_job_may_say_all_that_a_request_may() -> None:
    asked, seed = text_input(
        {"messages": MESSAGES, "logprobs": True, "top_logprobs": 2, "reasoning_effort": "none", "seed": 4},
        MODEL,
    )
    assert isinstance(asked, ChatInput) and (asked.logprobs, seed) == (2, 4)
    assert asked.template == {"enable_thinking": False}
    text, _ = text_input({"prompt": "x", "logprobs": 3, "temperature": None}, MODEL)
    assert isinstance(text, CompletionInput) and text.logprobs == 3


@pytest.mark.parametrize(
    ("given_", "field"),
    [
        ({}, "input"),
        ({"messages": MESSAGES, "prompt": "x"}, "input"),
        ({"messages": MESSAGES, "stream": True}, "input.stream"),
        ({"messages": MESSAGES, "n": 2}, "input.n"),
        ({"messages": MESSAGES, "model": "other"}, "input.model"),
        ({"messages": MESSAGES, "guided_json": {}}, "input.guided_json"),
        ({"prompt": ["a", "b"]}, "input.prompt"),
        ({"prompt": "a", "messages_": 1}, "input.messages_"),
    ],
)
def test_what_is_no_input_of_a_job_is_refused_by_name(given_: dict[str, Any], field: str) -> None:
    assert refused(lambda: text_input(given_, MODEL)).field == field


def test_what_a_job_says_wrongly_is_named_below_its_input() -> None:
    assert refused(lambda: text_input({"messages": "hi"}, MODEL)).field == "input.messages"
