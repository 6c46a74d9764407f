"""From a decoded request for text to what an engine is asked to do: validation, defaults, precedence. Pure.

Precedence as in requests.py.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from stoker.schemas.catalog import Model
from stoker.schemas.fields import CHAT, COMPLETIONS
from stoker.schemas.jobs import (
    ChatInput,
    CompletionInput,
    EmbeddingInput,
    JobInput,
    Sampling,
)
from stoker.schemas.openai import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    template_of_effort,
)
from stoker.services.gateway.edge.fields import check_engines
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.request_rules import OFF, converted, need, within
from stoker.services.gateway.jobs.text_rules import check_format, check_pictures, check_tools

MAX_TOKENS = 1_000_000
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_TEXTS = 2048
MAX_DIMENSIONS = 1_000_000
MAX_ALTERNATIVES = 20
MAX_TOKEN_DIGITS = 9


OF_A_REQUEST = ("model", "stream", "stream_options", "n")
"""What belongs to a request and not to the input of a job, which is one answer."""


def _sampling(asked: Any, defaults: Mapping[str, Any]) -> Sampling:
    within(asked.temperature, 0, 10, "temperature")
    within(asked.top_p, 0, 1, "top_p")
    within(asked.min_p, 0, 1, "min_p")
    within(asked.top_k, OFF, MAX_TOKENS, "top_k")
    within(asked.presence_penalty, -2, 2, "presence_penalty")
    within(asked.frequency_penalty, -2, 2, "frequency_penalty")
    within(asked.repeat_penalty, 0, 10, "repeat_penalty")
    within(asked.repetition_penalty, 0, 10, "repetition_penalty")
    _check_tokens(asked.logit_bias)
    given: dict[str, Any] = {}
    for field in Sampling.__struct_fields__:
        value = getattr(asked, field)
        if field == "repeat_penalty" and value is None:
            value = asked.repetition_penalty
        given[field] = defaults.get(field) if value is None else value
    return Sampling(**given)


def _check_tokens(biases: Mapping[str, float] | None) -> None:
    """Raises RequestError 400 for what is no token's number."""
    for token in biases or ():
        if not (token.isascii() and token.isdecimal() and len(token) <= MAX_TOKEN_DIGITS):
            message = f"logit_bias has biases by the numbers of tokens, and {token[:40]!r} is none"
            raise RequestError(400, message, field="logit_bias", code="invalid_value")


def _stops(stop: str | tuple[str, ...] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else stop or ()
    if len(stops) > MAX_STOPS or any(not 0 < len(one) <= MAX_STOP_CHARS for one in stops):
        raise RequestError(
            400,
            f"stop takes up to {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters",
            field="stop",
            code="invalid_value",
        )
    return stops


def _max_tokens(value: int | None, defaults: Mapping[str, Any]) -> int | None:
    if value == OFF:
        return None
    within(value, 1, MAX_TOKENS, "max_tokens")
    return defaults.get("max_tokens") if value is None else value


def chat_input(asked: ChatCompletionRequest, model: Model) -> ChatInput:
    need(model, "TextGeneration")
    if not asked.messages:
        raise RequestError(400, "messages must not be empty", field="messages", code="invalid_value")
    if asked.top_logprobs is not None and not asked.logprobs:
        message = "top_logprobs needs logprobs: true"
        raise RequestError(400, message, field="top_logprobs", code="invalid_value")
    check_engines(asked, CHAT, frozenset(spec.engine for spec in model.specs))
    check_pictures(asked.messages)
    check_tools(asked.tools, asked.tool_choice)
    check_format(asked.response_format)
    limit = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    return ChatInput(
        messages=asked.messages,
        max_tokens=_max_tokens(limit, model.defaults),
        stop=_stops(asked.stop),
        sampling=_sampling(asked, model.defaults),
        response_format=asked.response_format,
        tools=asked.tools,
        tool_choice=asked.tool_choice,
        template=_template(asked),
        effort=asked.reasoning_effort or "",
        parallel_tool_calls=asked.parallel_tool_calls,
        logprobs=_alternatives(asked.top_logprobs or 0, "top_logprobs") if asked.logprobs else None,
    )


def _template(asked: ChatCompletionRequest) -> dict[str, Any]:
    """What the chat template is given: what a request says for it, else what its effort stands for."""
    return template_of_effort(asked.reasoning_effort or "") | asked.chat_template_kwargs


def _alternatives(given: int | None, field: str) -> int | None:
    within(given, 0, MAX_ALTERNATIVES, field)
    return given


def completion_inputs(asked: CompletionRequest, model: Model) -> list[CompletionInput]:
    """One for each prompt. Raises RequestError 400."""
    need(model, "TextGeneration")
    if asked.suffix and asked.echo:
        raise RequestError(400, "echo and suffix exclude each other", field="echo", code="unsupported_value")
    if asked.echo and asked.logprobs is not None:
        message = "logprobs of the prompt are not supported: leave out echo or logprobs"
        raise RequestError(400, message, field="logprobs", code="unsupported_value")
    check_engines(asked, COMPLETIONS, frozenset(spec.engine for spec in model.specs))
    one = CompletionInput(
        prompt="",
        max_tokens=_max_tokens(
            asked.max_tokens if asked.max_tokens is not None else asked.n_predict, model.defaults
        ),
        stop=_stops(asked.stop),
        sampling=_sampling(asked, model.defaults),
        logprobs=_alternatives(asked.logprobs, "logprobs"),
        suffix=asked.suffix or "",
    )
    prompts: list[str | tuple[int, ...]] = []
    if isinstance(asked.prompt, str):
        prompts = [asked.prompt]
    elif numbers := tuple(part for part in asked.prompt if isinstance(part, int)):
        prompts = [numbers] if len(numbers) == len(asked.prompt) else []
    else:
        prompts = [part for part in asked.prompt if not isinstance(part, int)]
    if not prompts or not all(prompts[1:]):
        message = "prompt takes a text, several texts, or as many lists of tokens"
        raise RequestError(400, message, field="prompt", code="invalid_value")
    return [
        msgspec.structs.replace(one, prompt=prompt)
        if isinstance(prompt, str)
        else msgspec.structs.replace(one, tokens=prompt)
        for prompt in prompts
    ]


def embedding_input(asked: EmbeddingRequest, model: Model) -> EmbeddingInput:
    need(model, "TextEmbedding")
    within(asked.dimensions, 1, MAX_DIMENSIONS, "dimensions")
    given = (asked.input,) if isinstance(asked.input, str) else asked.input
    texts = tuple(one for one in given if isinstance(one, str))
    tokens = tuple(one for one in given if isinstance(one, tuple))
    numbers = tuple(one for one in given if isinstance(one, int))
    if numbers and len(numbers) == len(given):  # one text, as its tokens
        given = tokens = (numbers,)
    if not 0 < len(given) <= MAX_TEXTS or not all(given) or len(given) not in (len(texts), len(tokens)):
        raise RequestError(
            400,
            f"input takes 1 to {MAX_TEXTS} texts that are not empty, or as many lists of tokens",
            field="input",
            code="invalid_value",
        )
    return EmbeddingInput(texts, tokens)


def text_input(asked: dict[str, Any], model: Model) -> tuple[JobInput, int | None]:
    """Of `input` of a job that makes text, and the seed that it asks for. Raises RequestError 400."""
    given = {name: value for name, value in asked.items() if value is not None}
    if ("messages" in given) == ("prompt" in given):
        raise RequestError(400, "input takes either messages or a prompt", field="input", code="invalid_value")
    kind: type[ChatCompletionRequest] | type[CompletionRequest] = ChatCompletionRequest
    if "prompt" in given:
        kind = CompletionRequest
    known = {field.encode_name for field in msgspec.structs.fields(kind)} - set(OF_A_REQUEST)
    if unknown := sorted(given.keys() - known):
        message = f"input of a text takes {', '.join(sorted(known))}; not {unknown[0]}"
        raise RequestError(400, message, field=f"input.{unknown[0]}", code="invalid_value")
    read = converted({"model": model.name, **given}, kind)
    if isinstance(read, ChatCompletionRequest):
        return chat_input(read, model), read.seed
    inputs = completion_inputs(read, model)
    if len(inputs) != 1:
        raise RequestError(400, "a job is one answer to one prompt", field="input.prompt", code="invalid_value")
    return inputs[0], read.seed
