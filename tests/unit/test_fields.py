"""The table of fields is a law: every field that is read stands in it, and every engine keeps what it says."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from stoker.schemas.anthropic import MessagesRequest
from stoker.schemas.catalog import Model, Spec
from stoker.schemas.fields import APIS, CHAT, COMPLETIONS, SAMPLING, TEXT_ENGINES, Rule
from stoker.schemas.jobs import ChatInput, CompletionInput
from stoker.schemas.ollama import OllamaChatRequest, OllamaGenerateRequest
from stoker.schemas.openai import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    EmbeddingRequest,
    ImageGenerationRequest,
)
from stoker.schemas.responses import ResponsesRequest
from stoker.services.gateway.edge.fields import lost
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.request_rules import converted
from stoker.services.gateway.jobs.text_requests import chat_input, completion_inputs
from stoker.services.worker.engines.base import ModelFiles, Request
from stoker.services.worker.engines.text.generation import chat_body, completion_body
from stoker.services.worker.engines.text.ollama import _chat_body, _completion_body
from stoker.services.worker.engines.text.vllm import _own_names

REQUESTS: dict[str, type] = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/messages": MessagesRequest,
    "/api/chat": OllamaChatRequest,
    "/api/generate": OllamaGenerateRequest,
    "/v1/images/generations": ImageGenerationRequest,
}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
FORM = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
VALUES: dict[str, Any] = {
    "temperature": 0.25, "top_p": 0.5, "top_k": 7, "min_p": 0.125, "presence_penalty": 1.5,
    "frequency_penalty": -1.5, "repeat_penalty": 1.25, "repetition_penalty": 1.25, "logit_bias": {"5": -1.0}, "seed": 77,
    "stop": ["END"], "max_tokens": 9, "max_completion_tokens": 9, "n_predict": 9, "response_format": FORM,
    "tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": False, "logprobs": True, "top_logprobs": 3,
    "chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low", "suffix": "end",
    "messages": [{"role": "user", "content": "hello"}], "prompt": "hello",
}  # fmt: skip
"""A value of each field that an engine is told, and that no engine has by default."""
CALLED = {
    "max_completion_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "repetition_penalty": "repeat_penalty",
}
"""Other names, and the field that they stand for."""
FILES = ModelFiles("m", Path("m"), {})


def model(engine: str) -> Model:
    return Model("m", ("TextGeneration",), (Spec(name="s", engine=engine, url="x"),))


def body_of(engine: str, asked: ChatInput | CompletionInput, seed: int) -> dict[str, Any]:
    """What an engine's own server, or library, is asked."""
    request = Request("j", asked, seed)
    if isinstance(asked, ChatInput):
        if engine == "ollama":
            return _chat_body(asked, request, FILES)
        made = chat_body(asked, request)
    else:
        if engine == "ollama":
            return _completion_body(asked, request, FILES)
        made = completion_body(asked, request)
    return _own_names(made) if engine == "vllm" else made


def at(body: dict[str, Any], path: str) -> Any:
    for name in path.split("."):
        body = body[name]
    return body


@pytest.mark.parametrize("api", APIS)
def test_every_field_that_is_read_stands_in_the_table_and_no_other_is_said_to_be(api: str) -> None:
    read = {field.encode_name for field in msgspec.structs.fields(REQUESTS[api])}
    rules = APIS[api]
    assert read - rules.keys() == set()
    assert {name for name, rule in rules.items() if rule.fate == "honoured"} - read == set()
    assert [name for name, rule in rules.items() if rule.fate != "honoured" and not rule.note] == []


@pytest.mark.parametrize("engine", TEXT_ENGINES)
@pytest.mark.parametrize(
    ("api", "field"),
    [
        (api, field)
        for api, rules in (("chat", CHAT), ("completion", COMPLETIONS))
        for field, rule in rules.items()
        if field in VALUES and rule.fate == "honoured"
    ],
)
def test_an_engine_is_told_every_field_that_is_honoured_or_the_request_is_refused(
    engine: str, api: str, field: str
) -> None:
    rules = CHAT if api == "chat" else COMPLETIONS
    rule: Rule = rules[field]
    given: dict[str, Any] = {"messages": VALUES["messages"]} if api == "chat" else {"prompt": "hello"}
    value = 3 if api == "completion" and field == "logprobs" else VALUES[field]
    given |= {"model": "m", field: value}
    if field in ("tool_choice", "parallel_tool_calls"):
        given["tools"] = [TOOL]
    if field == "top_logprobs":
        given["logprobs"] = True

    def read() -> tuple[ChatInput | CompletionInput, int]:
        if api == "chat":
            asked = converted(given, ChatCompletionRequest)
            return chat_input(asked, model(engine)), asked.seed or 0
        text = converted(given, CompletionRequest)
        return completion_inputs(text, model(engine))[0], text.seed or 0

    if rule.only and engine not in rule.only:
        with pytest.raises(RequestError) as refused:
            read()
        assert (refused.value.status, refused.value.field) == (400, field)
        return
    asked, seed = read()
    body = body_of(engine, asked, seed)
    theirs = (
        rule.names.get(engine) or rules[CALLED.get(field, field)].names.get(engine) or CALLED.get(field, field)
    )
    if engine == "ollama" and theirs == "options.":
        theirs = f"options.{field}"
    if engine == "ollama" and field in ("tool_choice", "prompt", "messages"):
        assert field != "prompt" or body["prompt"] == "hello"
        return
    found = at(body, theirs)
    expected = {
        ("llamacpp", "reasoning_effort"): {"reasoning_effort": "low"},
        ("vllm", "reasoning_effort"): {"reasoning_effort": "low"},
        ("ollama", "reasoning_effort"): "low",
        ("ollama", "chat_template_kwargs"): False,
        ("ollama", "response_format"): {"type": "object"},
    }.get((engine, field), VALUES[field] if field != "logprobs" else found)
    assert found == expected and found is not None


def test_sampling_is_the_same_in_both_apis() -> None:
    assert all(CHAT[name] is rule and COMPLETIONS[name] is rule for name, rule in SAMPLING.items())


@pytest.mark.parametrize("api", APIS)
def test_what_is_refused_is_refused_unless_it_asks_for_nothing(api: str) -> None:
    rules = APIS[api]
    read = {field.encode_name for field in msgspec.structs.fields(REQUESTS[api])}
    for name, rule in rules.items():
        if rule.fate == "refused" and name not in read:
            with pytest.raises(RequestError) as refused:
                lost({name: "something"}, rules)
            assert refused.value.field == name and rule.note in refused.value.message
            for value in rule.harmless:
                assert lost({name: value}, rules) == []  # nothing is lost


def test_what_is_ignored_or_unknown_is_told() -> None:
    assert lost({"verbosity": "low", "brand_new": 1}, CHAT) == ["verbosity", "brand_new"]
    assert lost({}, CHAT) == []


def test_another_name_of_a_field_is_the_field() -> None:
    asked = converted({"model": "m", "prompt": "x", "n_predict": 3, "max_tokens": 5}, CompletionRequest)
    assert completion_inputs(asked, model("llamacpp"))[0].max_tokens == 5
    chat = ChatCompletionRequest(model="m", messages=(ChatMessage("user", "x"),), repetition_penalty=1.5)
    assert chat_input(chat, model("vllm")).sampling.repeat_penalty == 1.5
