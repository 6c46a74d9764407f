"""llama.cpp through the xllamacpp wheel: text and embeddings on any processor.

Each model is one llama.cpp server object inside this process; its slots batch continuously. Calls block and
run in threads of their own; a callback that returns True stops the computation at the next token.
A job that lost its worker goes on from what was sent: the text is given back as the beginning of the
assistant's message, which llama.cpp continues.

Adapters are LoRAs in GGUF, loaded beside the model; a request that names one gets it laid over the weights.

Options of the model: `n_ctx` (per slot; what the file says, 8192 at most), `n_threads` (half the cores),
`n_gpu_layers` (-1: all), `max_tokens` (of an answer where the request gives none, 2048). Embeddings are pooled
as the file says.
"""

import asyncio
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import xllamacpp

from schemas.job_events import EmbeddingOutput, FailureKind, TextOutput
from schemas.jobs import ChatInput, CompletionInput, EmbeddingInput
from schemas.workers import EngineCapability
from services.worker.engines.base import (
    Cancellation,
    Emitter,
    EngineError,
    ModelFiles,
    Request,
    RunOutput,
    Stopped,
    context_exceeded,
)
from services.worker.engines.text.generation import Answer, Generation, chat_body, completion_body
from services.worker.engines.text.gguf_header import BadGguf, Scalar, read_header

MOST_CONTEXT_TOKENS = 8192
"""Of a slot, where the option `n_ctx` says nothing."""
DEFAULT_ANSWER_TOKENS = 2048
"""Of an answer where neither request nor option says; a small model may repeat itself for ever."""
MAX_THREADS = 64
TOO_LONG = re.compile(r"\((\d+) tokens\) is (?:too large|larger)")
"""What llama.cpp says of a text that does not fit."""

Handle = Callable[[Answer, Callable[[Answer], bool | None]], None]


class LlamaCppEngine:
    """See the file's opening."""

    def __init__(self, capability: EngineCapability) -> None:
        self.capability = capability
        self._servers: dict[str, Any] = {}
        self._embedders: dict[str, Any] = {}
        self._files: dict[str, ModelFiles] = {}
        self._headers: dict[str, dict[str, Scalar]] = {}
        self._threads = ThreadPoolExecutor(MAX_THREADS, "llamacpp")
        self._embedder_lock = threading.Lock()

    def load(self, files: ModelFiles) -> None:
        self._headers[files.model] = _header(files)
        self._files[files.model] = files
        self._servers[files.model] = self._serve(files, is_embedding=False)

    def _serve(self, files: ModelFiles, *, is_embedding: bool) -> Any:
        options = files.options
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(files.path)
        parameters.n_parallel = self.capability.slots
        context = self._context_tokens(files)
        parameters.n_ctx = context * self.capability.slots
        parameters.cpuparams.n_threads = int(options.get("n_threads", max((os.cpu_count() or 2) // 2, 1)))
        parameters.n_gpu_layers = int(options.get("n_gpu_layers", -1))
        parameters.verbosity = 0
        parameters.warmup = False
        parameters.fit_params = False
        parameters.embedding = is_embedding
        if files.adapters:
            parameters.lora_adapters = [_lora(adapter.url) for adapter in files.adapters]
            parameters.lora_init_without_apply = True  # a request says which
        if is_embedding:
            parameters.n_batch = parameters.n_ubatch = context  # a text has to fit in one
            if self._number(files.model, "pooling_type") is None:
                parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        try:
            server = xllamacpp.Server(parameters)
            _settle(server, is_embedding=is_embedding)
            return server
        except (RuntimeError, ValueError) as error:
            raise EngineError(
                f"llama.cpp cannot load {files.path.name}: {error}; the file may be truncated or of a "
                "kind that this llama.cpp does not know",
                "load_failed",
            ) from error

    def _number(self, model: str, key: str) -> int | None:
        """A number of the file's own architecture in its header."""
        header = self._headers[model]
        value = header.get(f"{header.get('general.architecture')}.{key}")
        return value if isinstance(value, int) else None

    def _context_tokens(self, files: ModelFiles) -> int:
        """Tokens of prompt and answer together."""
        asked = files.options.get("n_ctx")
        if asked is not None:
            return int(asked)
        return min(self._number(files.model, "context_length") or MOST_CONTEXT_TOKENS, MOST_CONTEXT_TOKENS)

    def unload(self, model: str) -> None:
        self._headers.pop(model, None)
        self._servers.pop(model, None)
        self._embedders.pop(model, None)
        self._files.pop(model, None)

    def memory_bytes(self, model: str) -> int:
        return int(self._files[model].path.stat().st_size * 1.2)

    async def run(self, model: str, request: Request, emit: Emitter, cancelled: Cancellation) -> RunOutput:
        loop = asyncio.get_running_loop()
        match request.input:
            case ChatInput():
                handle = self._servers[model].handle_chat_completions
                knows_tools = "tools" in str(self._headers[model].get("tokenizer.chat_template", ""))
                body = chat_body(request.input, request, knows_tools=knows_tools)
                body |= self._chosen(model, request)
            case CompletionInput():
                handle = self._servers[model].handle_completions
                body = completion_body(request.input, request) | self._chosen(model, request)
            case EmbeddingInput():
                inputs = request.input.inputs
                return await loop.run_in_executor(self._threads, self._embed, model, inputs)
            case _:
                raise EngineError("llama.cpp makes text and embeddings only", "validation")
        limit = int(self._files[model].options.get("max_tokens", DEFAULT_ANSWER_TOKENS))
        body = {"max_tokens": limit} | body
        return await loop.run_in_executor(self._threads, _generate, handle, body, request, emit, cancelled)

    def _chosen(self, model: str, request: Request) -> Answer:
        """The adapter that a request asks for, as the server's request has it."""
        adapters = self._files[model].adapters
        chosen = [
            {"id": index, "scale": adapter.strength}
            for index, adapter in enumerate(adapters)
            if adapter.name == request.adapter
        ]
        return {"lora": chosen} if adapters else {}

    def _embed(self, model: str, inputs: list[str] | list[list[int]]) -> EmbeddingOutput:
        with self._embedder_lock:
            if model not in self._embedders:
                self._embedders[model] = self._serve(self._files[model], is_embedding=True)
        embed = self._embedders[model].handle_embeddings
        try:
            answer = _checked(embed({"input": inputs}))
        except EngineError as error:
            found = TOO_LONG.search(str(error))
            if found is None:
                raise
            remedy, field = "shorten it, or raise the model's option n_ctx", _too_long(embed, inputs)
            limit = self._context_tokens(self._files[model])
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


def _settle(server: Any, *, is_embedding: bool) -> None:
    """One token through a new server: one that is freed before its thread has begun to serve hangs for ever."""
    if is_embedding:
        server.handle_embeddings({"input": ["a"]})
    else:
        server.handle_completions({"prompt": "a", "n_predict": 1}, lambda _: False)


def _lora(path: str) -> Any:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path = path
    adapter.scale = 0.0  # off, unless a request says otherwise
    return adapter


def _header(files: ModelFiles) -> dict[str, Scalar]:
    try:
        return read_header(files.path)
    except OSError as error:
        raise EngineError(f"{files.path}: {error.strerror}", "load_failed") from error
    except BadGguf as error:
        raise EngineError(f"{files.path.name}: {error}; the file may be truncated", "load_failed") from error


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
