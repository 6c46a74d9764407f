"""Ollama, over its HTTP API: chat, generate, embeddings; models pulled with progress.

Talks to the server at OLLAMA_HOST, and starts one (`ollama serve`, with the spec's env) where none answers
and the command is installed. A model's url is `ollama://name[:tag]`. Closing a request's connection makes
Ollama stop it.

Options of the model: `keep_alive` (-1: until it is unloaded), and any of Ollama's own (`num_ctx`, `num_gpu`,
…).
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import httpx
import msgspec

from stoker.schemas.job_events import EmbeddingOutput, TextOutput
from stoker.schemas.jobs import ChatInput, CompletionInput, EmbeddingInput, Sampling
from stoker.schemas.openai import ChatMessage, ImagePart
from stoker.schemas.workers import CapabilityCard, EngineCapability
from stoker.services.process.http_clients import client as client_of
from stoker.services.worker.engines.base import (
    Cancellation,
    Emitter,
    EngineError,
    ModelFiles,
    Request,
    RunOutput,
)
from stoker.services.worker.engines.text.answers import (
    OllamaEmbeddings,
    OllamaLine,
    not_whole,
    odd,
    read_as,
)
from stoker.services.worker.engines.text.checking import checked
from stoker.services.worker.engines.text.forced_calls import ForcedCalls
from stoker.services.worker.engines.text.generation import Answer, Generation, left_tokens
from stoker.services.worker.engines.text.http_stream import Server, read_out, refusal, unless_cancelled
from stoker.services.worker.engines.text.server_process import ServerProcess

DEFAULT_HOST = "127.0.0.1:11434"
START_TIMEOUT_S = 60.0
PULL_TIMEOUT_S = 3600.0
ANSWER_TIMEOUT_S = 600.0
SAMPLING = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p",
    "presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty",
    "repeat_penalty": "repeat_penalty",
}  # fmt: skip
"""Fields of schemas.jobs.Sampling and Ollama's options."""
ABILITIES = {"tools": "tools", "thinking": "thinking", "vision": "pictures"}
"""Ollama's words and ours."""
NOT_MODEL_OPTIONS = ("keep_alive",)


def address() -> str:
    """The server's URL, from OLLAMA_HOST as the `ollama` command reads it."""
    host = os.environ.get("OLLAMA_HOST") or DEFAULT_HOST
    return host if host.startswith("http") else f"http://{host.replace('0.0.0.0', '127.0.0.1')}"


class OllamaEngine:
    """See the file's opening."""

    def __init__(self, capability: EngineCapability) -> None:
        self.capability = capability
        self._url = address()
        self._models: dict[str, ModelFiles] = {}
        self._server: ServerProcess | None = None
        self._upstream = Server(self._url, "Ollama")

    def load(self, files: ModelFiles) -> None:
        with client_of(self._url, timeout=ANSWER_TIMEOUT_S) as client:
            self._ensure_server(client, files)
            if client.post("/api/show", json={"model": str(files.path)}).status_code == 404:
                _pull(client, files)
            keep_alive = files.options.get("keep_alive", -1)
            answer = client.post("/api/generate", json={"model": str(files.path), "keep_alive": keep_alive})
            if answer.status_code >= 400:
                raise EngineError(str(refusal("Ollama", answer.status_code, answer.text)), "load_failed")
        self._models[files.model] = files

    def _ensure_server(self, client: httpx.Client, files: ModelFiles) -> None:
        try:
            client.get("/api/version").raise_for_status()
            return
        except httpx.HTTPError as error:
            command = shutil.which("ollama")
            if command is None:
                raise EngineError(
                    f"no Ollama answers at {self._url} ({error}) and the ollama command is not installed; "
                    "start one, or set OLLAMA_HOST",
                    "load_failed",
                ) from error
        env = {**files.env, "OLLAMA_HOST": self._url.removeprefix("http://")}
        self._server = ServerProcess("ollama serve", [command, "serve", *files.args], env, lambda _: None)
        self._server.wait_ready(f"{self._url}/api/version", START_TIMEOUT_S)

    def unload(self, model: str) -> None:
        files = self._models.pop(model, None)
        if files is not None:
            with client_of(self._url, timeout=ANSWER_TIMEOUT_S) as client:
                client.post("/api/generate", json={"model": str(files.path), "keep_alive": 0})
        if not self._models and self._server is not None:
            self._server.stop()
            self._server = None

    def memory_bytes(self, model: str) -> int:
        name = str(self._models[model].path)
        with client_of(self._url, timeout=ANSWER_TIMEOUT_S) as client:
            running = client.get("/api/ps").json().get("models", [])
        family = name.split(":")[0]
        sizes = [one.get("size", 0) for one in running if one.get("name", "").split(":")[0] == family]
        return int(max(sizes, default=0))

    def card(self, model: str) -> CapabilityCard:
        """What the server says of the model."""
        files = self._models[model]
        with client_of(self._url, timeout=ANSWER_TIMEOUT_S) as client:
            shown = client.post("/api/show", json={"model": str(files.path)}).json()
        details, told, facts = (shown.get(name) or {} for name in ("details", "capabilities", "model_info"))
        longest = max((value for name, value in facts.items() if name.endswith(".context_length")), default=0)
        return CapabilityCard(
            context_tokens=int(files.options.get("num_ctx") or longest),
            family=details.get("family", ""),
            quantisation=details.get("quantization_level", ""),
            parameters=int(facts.get("general.parameter_count") or 0),
            slots=self.capability.slots,
            abilities=tuple(ours for theirs, ours in ABILITIES.items() if theirs in told),
        )

    async def run(self, model: str, request: Request, emit: Emitter, cancelled: Cancellation) -> RunOutput:
        files = self._models[model]
        name = str(files.path)
        match request.input:
            case ChatInput():

                async def chat(request: Request, emit: Emitter) -> TextOutput:
                    assert isinstance(request.input, ChatInput)
                    body = _chat_body(request.input, request, files) | {"model": name}
                    return await _generate(self._upstream, "/api/chat", body, request, emit)

                work = checked(request, emit, chat)
            case CompletionInput():
                body = _completion_body(request.input, request, files) | {"model": name}
                work = _generate(self._upstream, "/api/generate", body, request, emit)
            case EmbeddingInput():
                return await unless_cancelled(_embed(self._upstream, name, request.input), cancelled)
            case _:
                raise EngineError("Ollama makes text and embeddings only", "validation")
        return await unless_cancelled(work, cancelled)


def _pull(client: httpx.Client, files: ModelFiles) -> None:
    """Download a model, telling how far it is."""
    body = {"model": str(files.path), "stream": True}
    with client.stream("POST", "/api/pull", json=body, timeout=PULL_TIMEOUT_S) as answer:
        if answer.status_code >= 400:
            answer.read()
            reason = refusal(f"Ollama cannot pull {files.path}", answer.status_code, answer.text)
            raise EngineError(str(reason), "load_failed")
        for line in _lines(answer):
            said: dict[str, Any] = msgspec.json.decode(line)
            if "error" in said:
                raise EngineError(f"Ollama cannot pull {files.path}: {said['error']}", "load_failed")
            if said.get("total"):
                files.report(min(100.0 * said.get("completed", 0) / said["total"], 100.0))


def _lines(answer: httpx.Response) -> Iterator[bytes]:
    """The lines of JSON of an answer. httpx's own end at U+2028 too, which JSON may hold."""
    rest = b""
    for chunk in answer.iter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        yield from filter(None, lines)
    if rest:
        yield rest


def _options(asked: ChatInput | CompletionInput, request: Request, files: ModelFiles) -> Answer:
    own = {key: value for key, value in files.options.items() if key not in NOT_MODEL_OPTIONS}
    options: Answer = own | {"seed": request.seed}
    sampling: Sampling = asked.sampling
    for ours, theirs in SAMPLING.items():
        if (value := getattr(sampling, ours)) is not None:
            options[theirs] = value
    if asked.max_tokens is not None:
        options["num_predict"] = left_tokens(asked.max_tokens, request)
    if asked.stop:
        options["stop"] = list(asked.stop)
    body: Answer = {
        "options": options,
        "stream": True,
        "keep_alive": files.options.get("keep_alive", -1),
        "truncate": False,  # a prompt that is too long is an error, never another prompt
    }
    if asked.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": asked.logprobs}
    return body


def _chat_body(asked: ChatInput, request: Request, files: ModelFiles) -> Answer:
    messages: list[Answer] = []
    for message in asked.messages:
        entry: Answer = {"role": message.role, "content": message.text()}
        if pictures := [_picture(part) for part in _pictures(message)]:
            entry["images"] = pictures
        if message.tool_calls:
            entry["tool_calls"] = [_with_arguments(call) for call in message.tool_calls]
        messages.append(entry)
    if request.sent_text:  # a last message of the assistant is gone on with
        messages.append({"role": "assistant", "content": request.sent_text})
    body = _options(asked, request, files) | {"messages": messages}
    if asked.tools:
        body["tools"] = list(asked.tools)
    if (effort := asked.template.get("reasoning_effort")) is not None:
        body["think"] = effort
    if (thinks := asked.template.get("enable_thinking")) is not None:
        body["think"] = thinks
    forced = ForcedCalls.of(asked)
    response_format = forced.response_format() if forced is not None else asked.response_format
    if response_format is not None:
        kind = response_format.get("type")
        schema = response_format.get("json_schema", {}).get("schema")
        body |= {"format": schema} if schema else {"format": "json"} if kind == "json_object" else {}
    return body


def _pictures(message: ChatMessage) -> list[ImagePart]:
    parts = message.content if isinstance(message.content, tuple) else ()
    return [part for part in parts if isinstance(part, ImagePart)]


def _picture(part: ImagePart) -> str:
    """The base64 of a picture, as Ollama takes it. Raises EngineError for one that lies elsewhere."""
    head, _, content = part.image_url.url.partition(";base64,")
    if not head.startswith("data:") or not content:
        raise EngineError("send pictures as data: URLs with base64", "validation", field="messages")
    return content


def _with_arguments(call: Answer) -> Answer:
    """A tool call with its arguments as an object, as Ollama has them."""
    function = call.get("function", {})
    arguments = function.get("arguments") or "{}"
    return {"function": {"name": function.get("name"), "arguments": msgspec.json.decode(arguments)}}


def _completion_body(asked: CompletionInput, request: Request, files: ModelFiles) -> Answer:
    if asked.tokens:
        raise EngineError("Ollama takes prompts as text, not as tokens", "validation", field="prompt")
    body = _options(asked, request, files) | {"prompt": asked.prompt + request.sent_text}
    return body | ({"suffix": asked.suffix} if asked.suffix else {"raw": True})


async def _generate(server: Server, path: str, body: Answer, request: Request, emit: Emitter) -> TextOutput:
    """Raises EngineError, also where the answer ends before its last line."""
    generation = Generation(request, emit)
    calls = 0
    async with aclosing(server.lines(path, body)) as lines:
        async for line in lines:
            said = read_as(line, OllamaLine, server.name)
            if said.get("error"):
                raise EngineError(f"Ollama: {said['error']}")
            calls = _take(generation, said, calls)
            if said.get("done"):
                await read_out(lines)
                return generation.output()
    raise not_whole(server.name)


def _take(generation: Generation, said: Answer, calls: int) -> int:
    """Add a line to the answer, which has so many calls so far; how many it has then."""
    message: Answer = said.get("message", {})
    logprobs = said.get("logprobs") or ()
    if thinking := message.get("thinking") or said.get("thinking"):
        generation.add(thinking, is_reasoning=True, logprobs=logprobs)
    if text := message.get("content") if "message" in said else said.get("response"):
        generation.add(text, logprobs=logprobs)
    for call in message.get("tool_calls") or ():
        generation.add_calls([_fragment(calls, call)], 0)
        calls += 1
    if said.get("done"):
        generation.finish("tool_calls" if calls else said.get("done_reason"))
        generation.count(said.get("prompt_eval_count") or 0, said.get("eval_count") or 0)
    return calls


def _fragment(index: int, call: Answer) -> Answer:
    """A whole call of Ollama's as OpenAI's streams have it."""
    function = call.get("function", {})
    arguments = msgspec.json.encode(function.get("arguments") or {}).decode()
    return {"index": index, "function": {"name": function.get("name", ""), "arguments": arguments}}


async def _embed(server: Server, name: str, asked: EmbeddingInput) -> EmbeddingOutput:
    body = {"model": name, "input": asked.inputs, "truncate": False}
    found = await server.post("/api/embed", body, OllamaEmbeddings)
    given, wanted = len(found.embeddings), len(asked.inputs)
    if given != wanted:
        raise odd(server.name, f"it has {given} rows for {wanted} inputs, not one for each")
    return EmbeddingOutput(tuple(map(tuple, found.embeddings)), found.prompt_eval_count or 0)


def create(capability: EngineCapability) -> OllamaEngine:
    return OllamaEngine(capability)
