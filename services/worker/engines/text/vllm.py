"""vLLM: `vllm serve` with the spec's args and env verbatim, spoken to over its own HTTP API.

The `vllm` command may live in another environment: STOKER_VLLM names it, else it is looked for beside this
Python and on the PATH. Closing a request's connection makes vLLM abort it. A server that dies ends this
process too: the agent reports its jobs as lost, so they are tried again, and starts a new one.

Options of the model: `start_timeout_s` (600). Adapters become `--lora-modules`.
"""

import os
import sys
from dataclasses import dataclass
from typing import Any

import httpx

from stoker.schemas.job_events import TextOutput, ValueOutput
from stoker.schemas.jobs import ChatInput, CompletionInput, EmbeddingInput, RerankInput, TokensInput
from stoker.schemas.workers import CapabilityCard, EngineCapability
from stoker.services.process.embedded import free_port
from stoker.services.process.http_clients import client as client_of
from stoker.services.worker.engines.base import (
    Cancellation,
    Emitter,
    EngineError,
    ModelFiles,
    Request,
    RunOutput,
)
from stoker.services.worker.engines.registry import VLLM_VARIABLE, vllm_command
from stoker.services.worker.engines.text.checking import checked
from stoker.services.worker.engines.text.device_memory import device_bytes
from stoker.services.worker.engines.text.generation import (
    Answer,
    chat_body,
    chat_prompt,
    completion_body,
)
from stoker.services.worker.engines.text.http_stream import Server, unless_cancelled
from stoker.services.worker.engines.text.openai_dialect import embed, generate, rerank
from stoker.services.worker.engines.text.server_process import ServerProcess
from stoker.services.worker.models.weights.resolve import size_bytes

MODEL = "model"
"""What the server calls the one model it serves."""
START_TIMEOUT_S = 600.0
METRICS_TIMEOUT_S = 1.0
DIED_STATUS = 70
COUNTED = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
"""Each chunk says how many tokens there are until then."""
OWN_NAMES = {"repeat_penalty": "repetition_penalty"}
METRICS = {
    "vllm:num_requests_running": "requests_running",
    "vllm:num_requests_waiting": "requests_waiting",
    "vllm:kv_cache_usage_perc": "kv_cache_usage",
    "vllm:prefix_cache_queries_total": "prefix_cache_queries",
    "vllm:prefix_cache_hits_total": "prefix_cache_hits",
}
"""vLLM's names and ours."""


@dataclass(slots=True)
class _Served:
    """A running server."""

    process: ServerProcess
    server: Server
    weights_bytes: int
    env: dict[str, str]


class VllmEngine:
    """See the file's opening."""

    def __init__(self, capability: EngineCapability) -> None:
        self.capability = capability
        self._servers: dict[str, _Served] = {}

    def load(self, files: ModelFiles) -> None:
        command = vllm_command()
        if command is None:
            raise EngineError(f"there is no vllm command; install vLLM or set {VLLM_VARIABLE}", "load_failed")
        port = free_port()
        arguments = ["serve", str(files.path), "--host", "127.0.0.1", "--port", str(port)]
        arguments += ["--served-model-name", MODEL, *files.args]
        if files.adapters:
            arguments += ["--enable-lora", "--lora-modules"]
            arguments += [f"{adapter.name}={adapter.url}" for adapter in files.adapters]
        process = ServerProcess(f"vllm serve {files.path.name}", [command, *arguments], files.env, self._died)
        url = f"http://127.0.0.1:{port}"
        try:
            limit_s = float(files.options.get("start_timeout_s", START_TIMEOUT_S))
            process.wait_ready(f"{url}/health", limit_s)
        except EngineError:
            process.stop()
            raise
        self._servers[files.model] = _Served(process, Server(url, "vLLM"), size_bytes(files.path), files.env)

    @staticmethod
    def _died(ending: str) -> None:
        print(ending, file=sys.stderr, flush=True)
        os._exit(DIED_STATUS)

    def unload(self, model: str) -> None:
        served = self._servers.pop(model, None)
        if served is not None:
            served.server.close()
            served.process.stop()

    def memory_bytes(self, model: str) -> int:
        """Device memory of the server and its children, bytes (device_memory.py)."""
        served = self._servers[model]
        return device_bytes(served.process.process.pid, served.weights_bytes, served.env)

    def card(self, model: str) -> CapabilityCard:
        """What the server says of the model."""
        served = self._servers[model]
        try:
            with client_of(served.server.url, timeout=METRICS_TIMEOUT_S) as client:
                [found] = client.get("/v1/models").json()["data"][:1]
        except (httpx.HTTPError, ValueError, KeyError):
            return CapabilityCard(weights_bytes=served.weights_bytes, slots=self.capability.slots)
        return CapabilityCard(
            context_tokens=found.get("max_model_len") or 0,
            weights_bytes=served.weights_bytes,
            slots=self.capability.slots,
        )

    async def metrics(self) -> dict[str, float]:
        """What its servers say of themselves, summed."""
        found: dict[str, float] = {}
        for served in self._servers.values():
            text = await served.server.get_text("/metrics", METRICS_TIMEOUT_S)
            for line in (text or "").splitlines():
                ours = METRICS.get(line.partition("{")[0].partition(" ")[0])
                if ours is not None:
                    found[ours] = found.get(ours, 0.0) + float(line.rpartition(" ")[2])
        return found

    async def run(self, model: str, request: Request, emit: Emitter, cancelled: Cancellation) -> RunOutput:
        server = self._servers[model].server
        name = request.adapter or MODEL
        match request.input:
            case ChatInput():

                async def chat(request: Request, emit: Emitter) -> TextOutput:
                    assert isinstance(request.input, ChatInput)
                    body = _own_names(chat_body(request.input, request)) | {"model": name}
                    if request.sent_text:
                        body |= {"continue_final_message": True, "add_generation_prompt": False}
                    return await generate(server, "/v1/chat/completions", body | COUNTED, request, emit)

                work = checked(request, emit, chat)
            case CompletionInput():
                completion = _own_names(completion_body(request.input, request)) | {"model": name}
                work = generate(server, "/v1/completions", completion | COUNTED, request, emit)
            case EmbeddingInput():
                return await unless_cancelled(embed(server, "/v1/embeddings", name, request.input), cancelled)
            case TokensInput():
                return await unless_cancelled(_tokens(server, name, request.input), cancelled)
            case RerankInput():
                return await unless_cancelled(rerank(server, "/v1/rerank", name, request.input), cancelled)
            case _:
                raise EngineError("vLLM makes text, embeddings, ranks and tokens only", "validation")
        return await unless_cancelled(work, cancelled)


def _own_names(body: Answer) -> Answer:
    """A body with the fields named as vLLM does."""
    return {OWN_NAMES.get(name, name): value for name, value in body.items()}


async def _tokens(server: Server, name: str, asked: TokensInput) -> ValueOutput:
    if asked.tokens:
        body: Answer = {"model": name, "tokens": list(asked.tokens)}
        return ValueOutput({"text": (await server.post("/detokenize", body, dict[str, Any]))["prompt"]})
    body = {"model": name, "add_special_tokens": asked.has_special, "return_token_strs": True}
    if asked.messages:
        body |= chat_prompt(asked.messages, asked.tools, asked.template) | {"add_special_tokens": False}
    else:
        body["prompt"] = asked.text
    found = await server.post("/tokenize", body, dict[str, Any])
    pieces, limit = found.get("token_strs") or [], found["max_model_len"]
    return ValueOutput({"tokens": found["tokens"], "pieces": pieces, "context_tokens": limit})


def create(capability: EngineCapability) -> VllmEngine:
    return VllmEngine(capability)
