"""llama.cpp through the xllamacpp wheel: text and embeddings on any processor.

Each model is one llama.cpp server object inside this process; its slots batch continuously. Calls block and
run in threads of their own; a callback that returns True stops the computation at the next token.
A job that lost its worker goes on from what was sent: the text is given back as the beginning of the
assistant's message, which llama.cpp continues.

Adapters are LoRAs in GGUF, loaded beside the model; a request that names one gets it laid over the weights.

Options of the model: `n_ctx` (tokens of a slot), `n_threads` (half the cores), `n_gpu_layers` (-1: all),
`max_tokens` (of an answer where the request gives none, 2048), `mmproj` (the file of a projector beside the
model's: it sees pictures then). Embeddings are pooled as the file says.
"""

import asyncio
import re
import threading
from collections.abc import Callable
from typing import Literal

from stoker.schemas.job_events import EmbeddingOutput, FailureKind, TextOutput, ValueOutput
from stoker.schemas.jobs import ChatInput, CompletionInput, EmbeddingInput, RerankInput, TokensInput
from stoker.schemas.workers import CapabilityCard, EngineCapability
from stoker.services.worker.engines.base import (
    Cancellation,
    Emitter,
    EngineError,
    ModelFiles,
    Request,
    RunOutput,
    Stopped,
    context_exceeded,
)
from stoker.services.worker.engines.text.checking import checked
from stoker.services.worker.engines.text.generation import (
    Answer,
    Generation,
    chat_body,
    chat_prompt,
    completion_body,
)
from stoker.services.worker.engines.text.llamacpp_server import LlamaServer

TOO_LONG = re.compile(r"\((\d+) tokens\) is (?:too large|larger)")
"""What llama.cpp says of a text that does not fit."""

Handle = Callable[[Answer, Callable[[Answer], bool | None]], None]


class LlamaCppEngine:
    """See the file's opening."""

    def __init__(self, capability: EngineCapability) -> None:
        self.capability = capability
        self._models: dict[str, LlamaServer] = {}
        self._embedders: dict[str, LlamaServer] = {}
        self._embedder_lock = threading.Lock()

    def load(self, files: ModelFiles) -> None:
        self._models[files.model] = LlamaServer(files, files.slots or self.capability.slots)

    def unload(self, model: str) -> None:
        for servers in (self._models, self._embedders):
            if (loaded := servers.pop(model, None)) is not None:
                loaded.close()

    def memory_bytes(self, model: str) -> int:
        return self._models[model].memory_bytes()

    def card(self, model: str) -> CapabilityCard:
        return self._models[model].card()

    async def run(self, model: str, request: Request, emit: Emitter, cancelled: Cancellation) -> RunOutput:
        loaded = self._models[model]
        match request.input:
            case ChatInput():

                async def chat(request: Request, emit: Emitter) -> TextOutput:
                    assert isinstance(request.input, ChatInput)
                    body = chat_body(request.input, request, knows_tools="tools" in loaded.template)
                    return await self._generate(loaded, "chat", body, request, emit, cancelled)

                return await checked(request, emit, chat)
            case CompletionInput():
                body = completion_body(request.input, request)
                return await self._generate(loaded, "completion", body, request, emit, cancelled)
            case EmbeddingInput():
                inputs = request.input.inputs
                return await asyncio.to_thread(self._embed, model, inputs)
            case TokensInput():
                return await asyncio.to_thread(_tokens, loaded, request.input)
            case RerankInput():
                return await asyncio.to_thread(_rerank, loaded, request.input)
            case _:
                raise EngineError("llama.cpp makes text, embeddings, ranks and tokens only", "validation")

    async def _generate(
        self,
        loaded: LlamaServer,
        kind: Literal["chat", "completion"],
        body: Answer,
        request: Request,
        emit: Emitter,
        cancelled: Cancellation,
    ) -> TextOutput:
        server = loaded.server
        handle = server.handle_chat_completions if kind == "chat" else server.handle_completions
        body = {"max_tokens": loaded.answer_tokens} | body | _chosen(loaded, request)
        return await asyncio.to_thread(_generate, handle, body, request, emit, cancelled)

    def _embedder(self, model: str) -> LlamaServer:
        """A model whose file says how texts are pooled embeds them where it is; another has a server for it."""
        loaded = self._models[model]
        if loaded.is_embedding:
            return loaded
        with self._embedder_lock:
            if model not in self._embedders:
                self._embedders[model] = LlamaServer(loaded.files, 1, is_embedder=True)
            return self._embedders[model]

    def _embed(self, model: str, inputs: list[str] | list[list[int]]) -> EmbeddingOutput:
        embedder = self._embedder(model)
        embed = embedder.server.handle_embeddings
        try:
            answer = _checked(embed({"input": inputs}))
        except EngineError as error:
            found = TOO_LONG.search(str(error))
            if found is None:
                error.field = error.field or "input"
                raise
            remedy, field = "shorten it, or raise the model's option n_ctx", _too_long(embed, inputs)
            limit = embedder.context_tokens
            raise context_exceeded(int(found[1]), limit, remedy, field) from error
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"llama.cpp: {error}", "validation") from error
        vectors = tuple(tuple(row["embedding"]) for row in answer["data"])
        return EmbeddingOutput(vectors, answer["usage"]["prompt_tokens"])


def _too_long(embed: Callable[[Answer], Answer], inputs: list[str] | list[list[int]]) -> str:
    """Which of several texts is too long, as a field of the request."""
    for index, one in enumerate(inputs if len(inputs) > 1 else []):
        try:
            _checked(embed({"input": [one]}))
        except EngineError:
            return f"input[{index}]"
    return "input"


def _chosen(loaded: LlamaServer, request: Request) -> Answer:
    """The adapter that a request asks for, as the server's request has it."""
    adapters = loaded.files.adapters
    chosen = [
        {"id": index, "scale": adapter.strength}
        for index, adapter in enumerate(adapters)
        if adapter.name == request.adapter
    ]
    return {"lora": chosen} if adapters else {}


def _tokens(loaded: LlamaServer, asked: TokensInput) -> ValueOutput:
    """Tokens with their texts, or the text of tokens."""
    if asked.tokens:
        return ValueOutput({"text": loaded.ask("POST", "/detokenize", {"tokens": asked.tokens})["content"]})
    text, has_special = asked.text or "", asked.has_special
    if asked.messages:
        body = chat_prompt(asked.messages, asked.tools, asked.template)
        text, has_special = loaded.ask("POST", "/apply-template", body)["prompt"], True
    body = {"content": text, "add_special": has_special, "parse_special": True, "with_pieces": True}
    found = loaded.ask("POST", "/tokenize", body)["tokens"]
    pieces = [one["piece"] if isinstance(one["piece"], str) else "\ufffd" for one in found]
    limit = loaded.context_tokens
    return ValueOutput({"tokens": [one["id"] for one in found], "pieces": pieces, "context_tokens": limit})


def _rerank(loaded: LlamaServer, asked: RerankInput) -> ValueOutput:
    """A score for each document, in their order."""
    if loaded.pooling != "rank":
        message = f"{loaded.files.path.name} is no model that ranks: its file names no pooling of that kind"
        raise EngineError(message, "validation", field="model")
    body = {"query": asked.query, "documents": list(asked.documents)}
    try:
        answer = _checked(loaded.server.handle_rerank(body))
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"llama.cpp: {error}", "validation") from error
    scores = {row["index"]: row["relevance_score"] for row in answer["results"]}
    in_order = [scores[index] for index in range(len(asked.documents))]
    return ValueOutput({"scores": in_order, "prompt_tokens": answer["usage"]["prompt_tokens"]})


def _checked(answer: Answer) -> Answer:
    """The answer, unless it is an error object."""
    if "error" in answer or "code" in answer:
        error = answer.get("error", answer)
        if error.get("type") == "exceed_context_size_error":
            remedy = "shorten it, or raise the model's option n_ctx"
            raise context_exceeded(int(error.get("n_prompt_tokens", 0)), int(error.get("n_ctx", 0)), remedy)
        kind: FailureKind = "validation" if error.get("type") == "invalid_request_error" else "fatal"
        raise EngineError(f"llama.cpp: {error.get('message', error)}", kind)
    return answer


def _generate(
    handle: Handle, body: Answer, request: Request, emit: Emitter, cancelled: Cancellation
) -> TextOutput:
    """Run one generation in this thread."""
    generation = Generation(request, emit)
    problem: list[EngineError] = []

    def take(answer: Answer) -> bool:
        if cancelled.is_set():
            return True
        try:
            _checked(answer)
        except EngineError as error:
            problem.append(error)
            return True
        for choice in answer.get("choices", ()):
            generation.add_delta(choice, answer.get("timings", {}).get("predicted_n", 0))
        if (counts := answer.get("usage")) is not None:
            cached = (counts.get("prompt_tokens_details") or {}).get("cached_tokens")
            generation.count(counts["prompt_tokens"], counts["completion_tokens"], cached)
        return False

    try:
        handle(body | {"timings_per_token": True}, take)
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"llama.cpp: {error}", "validation") from error
    if problem:
        raise problem[0]
    if cancelled.is_set():
        raise Stopped
    return generation.output()


def create(capability: EngineCapability) -> LlamaCppEngine:
    return LlamaCppEngine(capability)
