"""Texts as the tokens of a model, and back: vLLM's two routes, under /v1 too."""

from typing import Any

import msgspec

from stoker.schemas.job_events import ValueOutput
from stoker.schemas.jobs import Job, TokensInput
from stoker.schemas.openai import ChatMessage
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.routing import post_body
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.own_jobs import finished, job_headers
from stoker.services.gateway.jobs.request_rules import split_adapter
from stoker.services.records.blobs import with_value


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One of prompt and messages; `content` is what llama.cpp's clients call a prompt."""

    model: str
    prompt: str | None = None
    content: str | None = None
    messages: tuple[ChatMessage, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    chat_template_kwargs: dict[str, Any] = {}
    add_special_tokens: bool = True
    return_token_strs: bool = False


class Tokens(msgspec.Struct, frozen=True, omit_defaults=True):
    """max_model_len: tokens of the model's context."""

    count: int
    max_model_len: int
    tokens: tuple[int, ...]
    token_strs: tuple[str, ...] | None = None


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    tokens: tuple[int, ...]


class Detokenized(msgspec.Struct, frozen=True):
    prompt: str


async def run_value(gateway: Gateway, exchange: Exchange, job: Job) -> tuple[Any, dict[str, str]]:
    """The value that a job makes, and the headers of its answer. Raises RequestError, ClientGone."""
    completed, _ = await finished(gateway, exchange, job)
    event = await with_value(gateway.bus, completed)
    output = event.output if hasattr(event, "output") else None
    assert isinstance(output, ValueOutput)
    return output.value, job_headers(job, completed)


@post_body("/v1/tokenize", "/tokenize", summary="Tokens of a text", asks=TokenizeRequest, answers=Tokens)
async def tokenize(gateway: Gateway, exchange: Exchange, asked: TokenizeRequest) -> None:
    model, adapter = split_adapter(asked.model, gateway.models)
    _check_text(model.name, model.features)
    text = asked.prompt if asked.prompt is not None else asked.content
    if (text is None) == (not asked.messages):
        raise RequestError(400, "give either a prompt or messages", field="prompt", code="invalid_value")
    wanted = TokensInput(
        text, asked.messages, asked.tools, asked.chat_template_kwargs, has_special=asked.add_special_tokens
    )
    job = gateway.submission.make_job(model, adapter, wanted)
    value, headers = await run_value(gateway, exchange, job)
    strings = tuple(value["pieces"]) if asked.return_token_strs else None
    tokens = tuple(value["tokens"])
    await exchange.answer(Tokens(len(tokens), value["context_tokens"], tokens, strings), headers=headers)


@post_body(
    "/v1/detokenize", "/detokenize", summary="The text of tokens", asks=DetokenizeRequest, answers=Detokenized
)
async def detokenize(gateway: Gateway, exchange: Exchange, asked: DetokenizeRequest) -> None:
    model, adapter = split_adapter(asked.model, gateway.models)
    _check_text(model.name, model.features)
    if not asked.tokens:
        await exchange.answer(Detokenized(""))
        return
    job = gateway.submission.make_job(model, adapter, TokensInput(tokens=asked.tokens))
    value, headers = await run_value(gateway, exchange, job)
    await exchange.answer(Detokenized(value["text"]), headers=headers)


def _check_text(name: str, features: tuple[str, ...]) -> None:
    if not {"TextGeneration", "TextEmbedding", "Reranking"} & set(features):
        raise RequestError(400, f"{name!r} has no tokens", field="model", code="wrong_feature")


ROUTES = [tokenize, detokenize]
