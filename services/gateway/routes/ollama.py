"""Ollama's own API, so that tools which are written for it need only another address.

What changes an Ollama's models (pull, create, copy, push, delete) is refused: the catalog says what there is.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stoker.schemas.catalog import NO_GPU, Model, weights_key
from stoker.schemas.fields import OLLAMA_CHAT, OLLAMA_GENERATE
from stoker.schemas.job_events import EmbeddingOutput
from stoker.schemas.ollama import (
    OllamaChatRequest,
    OllamaDetails,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaLine,
    OllamaProcesses,
    OllamaRunning,
    OllamaShown,
    OllamaShowRequest,
    OllamaTag,
    OllamaTags,
    OllamaVector,
    OllamaVectors,
    OllamaVersion,
)
from stoker.schemas.openai import ChatCompletionRequest, CompletionRequest, EmbeddingRequest
from stoker.schemas.workers import CapabilityCard
from stoker.services.bus.discovery import VERSION
from stoker.services.gateway.edge.access import check_model, may, may_use
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.routing import Route, get, post_body, route
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.own_jobs import finished, job_headers
from stoker.services.gateway.jobs.request_rules import in_their_words, split_adapter
from stoker.services.gateway.jobs.text_requests import chat_input, completion_inputs, embedding_input
from stoker.services.gateway.jobs.unloading import unload, unload_once_idle
from stoker.services.gateway.routes.embeddings import shortened
from stoker.services.gateway.text.ollama_text import (
    NAMES,
    NANOSECONDS,
    NDJSON,
    Asked,
    Lines,
    LineWriter,
    chat_of,
    generation_of,
    is_zero,
    model_name,
    moment,
    unread_options,
)
from stoker.services.gateway.text.runs import answers_headers, stream, text_jobs, text_of, whole

TEXT_FEATURES = ("TextGeneration", "TextEmbedding")
KEPT_S = 300.0
"""A model stays until its memory is needed, for which Ollama's answer has no word: it says so much."""


@post_body(
    "/api/chat",
    summary="Chat (Ollama)",
    asks=OllamaChatRequest,
    fields=OLLAMA_CHAT,
    answers=OllamaLine,
    dialect="ollama",
)
async def ollama_chat(gateway: Gateway, exchange: Exchange, asked: OllamaChatRequest) -> None:
    if not asked.messages:  # so clients bring a model into memory, and out of it
        await _load(gateway, exchange, asked, is_chat=True)
        return
    with in_their_words(NAMES):
        await _answer(gateway, exchange, asked, chat_of(asked), is_chat=True)


@post_body(
    "/api/generate",
    summary="Continue a text (Ollama)",
    asks=OllamaGenerateRequest,
    fields=OLLAMA_GENERATE,
    answers=OllamaLine,
    dialect="ollama",
)
async def ollama_generate(gateway: Gateway, exchange: Exchange, asked: OllamaGenerateRequest) -> None:
    if not asked.prompt and not asked.suffix:
        await _load(gateway, exchange, asked, is_chat=False)
        return
    with in_their_words(NAMES):
        await _answer(gateway, exchange, asked, generation_of(asked), is_chat=False)


async def _answer(
    gateway: Gateway,
    exchange: Exchange,
    asked: Asked,
    wanted: ChatCompletionRequest | CompletionRequest,
    *,
    is_chat: bool,
) -> None:
    exchange.ignore(unread_options(asked))
    model, adapter = split_adapter(wanted.model, gateway.models)
    with _unloading_after(gateway, exchange, asked, model):
        await _answer_by(gateway, exchange, asked, wanted, model, adapter, is_chat=is_chat)


@contextmanager
def _unloading_after(gateway: Gateway, exchange: Exchange, asked: Any, model: Model) -> Iterator[None]:
    """A request that says so has its model unloaded once that is idle."""
    unloads = _unloads(exchange, asked)
    try:
        yield
    finally:
        if unloads:
            gateway.tasks.start_contained(unload_once_idle, gateway, model)


async def _answer_by(
    gateway: Gateway,
    exchange: Exchange,
    asked: Asked,
    wanted: ChatCompletionRequest | CompletionRequest,
    model: Model,
    adapter: str,
    *,
    is_chat: bool,
) -> None:
    if isinstance(wanted, ChatCompletionRequest):
        inputs: list[Any] = [chat_input(wanted, model)]
    else:
        inputs = list(completion_inputs(wanted, model))
    jobs = text_jobs(gateway, model, adapter, inputs, seed=wanted.seed, wants_events=asked.stream)
    if asked.stream:
        writer = LineWriter(jobs[0], asked.model, is_chat=is_chat)
        await stream(gateway, exchange, jobs, writer, {"content-type": NDJSON})
        return
    [completed] = await whole(gateway, exchange, jobs)
    line = Lines(jobs[0], asked.model, is_chat=is_chat).whole(completed, text_of(completed))
    await exchange.answer(line, headers=answers_headers(jobs, completed))


async def _load(gateway: Gateway, exchange: Exchange, asked: Asked, *, is_chat: bool) -> None:
    """Answer a request that asks for nothing but that its model is brought into memory, or out of it."""
    is_out = is_zero(asked.keep_alive)
    await _bring(gateway, exchange, asked)
    fields: dict[str, Any] = {"message": {"role": "assistant", "content": ""}} if is_chat else {"response": ""}
    reason = "unload" if is_out else "load"
    await exchange.answer(OllamaLine(asked.model, moment(time.time()), done=True, done_reason=reason, **fields))


async def _bring(gateway: Gateway, exchange: Exchange, asked: Any) -> None:
    """Bring a model into memory, where it is not; or out of it, which is what `ollama stop` asks for."""
    model, _ = split_adapter(model_name(asked.model), gateway.models)
    check_model(model.name)
    if _unloads(exchange, asked):
        await unload(gateway, model)
    elif not is_zero(asked.keep_alive) and not gateway.fleet.is_hot(model.name):
        gateway.loading.start(model)


def _unloads(exchange: Exchange, asked: Any) -> bool:
    """Whether the model is to leave memory. What is not done is told in the answer's headers: other times, as
    a model stays until its memory is needed; unloading for everybody, by a key that may only use models.
    """
    unloads = is_zero(asked.keep_alive) and may("operate")
    if asked.keep_alive is not None and not unloads:
        exchange.ignore(("keep_alive",))
    return unloads


@post_body(
    "/api/embed",
    summary="Embed texts (Ollama)",
    asks=OllamaEmbedRequest,
    answers=OllamaVectors,
    dialect="ollama",
)
async def ollama_embed(gateway: Gateway, exchange: Exchange, asked: OllamaEmbedRequest) -> None:
    if not asked.input:  # so clients bring a model into memory, and out of it
        await _bring(gateway, exchange, asked)
        await exchange.answer(OllamaVectors(asked.model, (), 0, 0, 0))
        return
    if asked.truncate:
        exchange.ignore(["truncate"])
    wanted = EmbeddingRequest(model=model_name(asked.model), input=asked.input, dimensions=asked.dimensions)
    output, took_s, load_s, headers = await _embedded(gateway, exchange, asked, wanted)
    vectors = tuple(shortened(vector, asked.dimensions) for vector in output.vectors)
    took, load = int(took_s * NANOSECONDS), int(load_s * NANOSECONDS)
    await exchange.answer(
        OllamaVectors(asked.model, vectors, took, load, output.prompt_tokens), headers=headers
    )


@post_body(
    "/api/embeddings",
    summary="Embed a text (Ollama)",
    asks=OllamaEmbeddingsRequest,
    answers=OllamaVector,
    dialect="ollama",
)
async def ollama_embeddings(gateway: Gateway, exchange: Exchange, asked: OllamaEmbeddingsRequest) -> None:
    if not asked.prompt:
        await _bring(gateway, exchange, asked)
        await exchange.answer(OllamaVector(()))
        return
    wanted = EmbeddingRequest(model=model_name(asked.model), input=asked.prompt)
    output, _, _, headers = await _embedded(gateway, exchange, asked, wanted)
    await exchange.answer(OllamaVector(output.vectors[0]), headers=headers)


async def _embedded(
    gateway: Gateway,
    exchange: Exchange,
    asked: OllamaEmbedRequest | OllamaEmbeddingsRequest,
    wanted: EmbeddingRequest,
) -> tuple[EmbeddingOutput, float, float, dict[str, str]]:
    """The vectors, seconds from acceptance to the end, seconds of loading, and headers."""
    model, adapter = split_adapter(wanted.model, gateway.models)
    exchange.ignore(f"options.{name}" for name in asked.options)
    with _unloading_after(gateway, exchange, asked, model):
        job = gateway.submission.make_job(model, adapter, embedding_input(wanted, model))
        completed, _ = await finished(gateway, exchange, job)
    assert isinstance(completed.output, EmbeddingOutput)
    took_s = completed.finished_at - completed.created_at
    return completed.output, took_s, completed.timings.load_s, job_headers(job, completed)


# What there is ------------------------------------------------------------------------------------


def _text_models(gateway: Gateway) -> dict[str, Model]:
    """Those that the key may use, by the names under which they may be asked for."""
    return {
        name: model
        for model in sorted(gateway.models.values(), key=lambda one: one.name)
        if set(TEXT_FEATURES) & set(model.features) and may_use(model.name)
        for name in (model.name, *(f"{model.name}_{adapter}" for adapter in model.adapter_names()))
    }


def _details(model: Model, card: CapabilityCard) -> OllamaDetails:
    form = "gguf" if model.specs[0].engine == "llamacpp" else ""
    families = (card.family,) if card.family else ()
    size = f"{card.parameters / 1e9:.1f}B" if card.parameters >= 1e9 else f"{card.parameters / 1e6:.1f}M"
    return OllamaDetails("", form, card.family, families, size if card.parameters else "", card.quantisation)


def _digest(model: Model) -> str:
    """Which weights they are."""
    return hashlib.sha256(weights_key(model.name, model.specs[0]).encode()).hexdigest()


@get("/api/tags", summary="List models (Ollama)", answers=OllamaTags, dialect="ollama")
async def ollama_tags(gateway: Gateway, exchange: Exchange) -> None:
    tags = tuple(
        OllamaTag(
            name,
            name,
            moment(model.created_at),
            (card := gateway.fleet.card(model.name)).weights_bytes,
            _digest(model),
            _details(model, card),
        )
        for name, model in _text_models(gateway).items()
    )
    await exchange.answer(OllamaTags(tags))


@get("/api/ps", summary="Models in memory (Ollama)", answers=OllamaProcesses, dialect="ollama")
async def ollama_ps(gateway: Gateway, exchange: Exchange) -> None:
    models = _text_models(gateway)
    running: dict[str, OllamaRunning] = {}
    for beat in gateway.fleet.live_workers():
        for resident in beat.models:
            model = models.get(resident.model)
            if resident.tier != "hot" or model is None:
                continue
            card = gateway.fleet.card(model.name)
            in_device = 0 if beat.device.startswith(NO_GPU) else resident.memory_bytes
            running[model.name] = OllamaRunning(
                model.name,
                model.name,
                resident.memory_bytes,
                _digest(model),
                _details(model, card),
                moment(time.time() + KEPT_S),
                in_device,
                card.context_tokens,
            )
    await exchange.answer(OllamaProcesses(tuple(running.values())))


@post_body(
    "/api/show", summary="One model (Ollama)", asks=OllamaShowRequest, answers=OllamaShown, dialect="ollama"
)
async def ollama_show(gateway: Gateway, exchange: Exchange, asked: OllamaShowRequest) -> None:
    name = model_name(asked.model or asked.name)
    model, _ = split_adapter(name, gateway.models)
    check_model(model.name)
    card = gateway.fleet.card(model.name)
    family = card.family or "unknown"
    facts: dict[str, Any] = {"general.architecture": family}
    if card.parameters:
        facts["general.parameter_count"] = card.parameters
    if card.context_tokens:
        facts[f"{family}.context_length"] = card.context_tokens
    options = "\n".join(f"{option} {value}" for option, value in sorted(model.defaults.items()))
    await exchange.answer(
        OllamaShown(
            f"FROM {model.name}",
            options,
            "",
            _details(model, card),
            facts,
            _capabilities(model, card),
            moment(model.created_at),
        )
    )


def _capabilities(model: Model, card: CapabilityCard) -> tuple[str, ...]:
    """What the model can do, in Ollama's words."""
    words = [
        word
        for feature, word in (("TextGeneration", "completion"), ("TextEmbedding", "embedding"))
        if feature in model.features
    ]
    words += [
        word
        for ability, word in (("tools", "tools"), ("thinking", "thinking"), ("pictures", "vision"))
        if ability in card.abilities
    ]
    return tuple(words)


@get("/api/version", summary="The version (Ollama)", answers=OllamaVersion, dialect="ollama")
async def ollama_version(gateway: Gateway, exchange: Exchange) -> None:
    await exchange.answer(OllamaVersion(VERSION))


def _refused(method: str, path: str) -> Route:
    async def refuse(gateway: Gateway, exchange: Exchange) -> None:
        message = "models come from the catalog here (`stoker serve`, or models: in the configuration)"
        raise RequestError(501, message, code="not_supported")

    refuse.__name__ = f"ollama_{path.rpartition('/')[2]}"
    summary = f"{path} changes an Ollama's models: refused"
    return route(method, path, summary=summary, status=501, dialect="ollama")(refuse)


ROUTES = [
    ollama_chat,
    ollama_generate,
    ollama_embed,
    ollama_embeddings,
    ollama_tags,
    ollama_ps,
    ollama_show,
    ollama_version,
    *(_refused("POST", f"/api/{verb}") for verb in ("pull", "push", "create", "copy")),
    _refused("DELETE", "/api/delete"),
]
