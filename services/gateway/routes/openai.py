"""The OpenAI-compatible routes; what may be asked is in requests.py, the Structs are in schemas/openai.py."""

import base64
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.response import Stream

from schemas import wire
from schemas.job_events import (
    Completed,
    Delta,
    EmbeddingOutput,
    ImageOutput,
    JobEvent,
    Preview,
    Queued,
    Terminal,
    TextOutput,
)
from schemas.jobs import Job
from schemas.openai import (
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChunkChoice,
    CompletionRequest,
    Embedding,
    EmbeddingList,
    EmbeddingRequest,
    EmbeddingUsage,
    GeneratedImage,
    ImageGenerationRequest,
    ImageList,
    ModelCard,
    ModelList,
    TextChoice,
    TextCompletion,
)
from services.bus.blobs import get_pictures
from services.bus.results import Result
from services.gateway.gateway import TTFT, Gateway, completed_or_raise, observe_end
from services.gateway.http import (
    ClientGone,
    comment,
    event_stream,
    first_of,
    json_answer,
    read_body,
    sse,
    unless_gone,
    with_keepalive,
)
from services.gateway.problems import RequestError, openai_error
from services.gateway.requests import (
    chat_input,
    completion_input,
    decode,
    embedding_input,
    generation_input,
    split_adapter,
)
from services.gateway.resume import Cursor
from services.gateway.streams import Watcher

DONE = b"data: [DONE]\n\n"
AnyRequest = Request[Any, Any, Any]


def _headers(job: Job, event: Terminal | None = None) -> dict[str, str]:
    headers = {"X-Job-Id": job.id}
    if event is not None and event.spec:
        headers["X-Stoker-Spec"] = event.spec
    return headers


async def _result(gateway: Gateway, request: AnyRequest, job: Job) -> Result:
    """Run a job for a waiting client; one that goes away cancels it."""
    gateway.check_admission(job, impossible_status=503)
    try:
        return await unless_gone(request, gateway.run(job))
    except ClientGone:
        gateway.abandon(job)
        raise


@get(["/v1/models", "/openai/v1/models"], summary="List models")
async def list_models(state: State) -> Response[bytes]:
    gateway: Gateway = state.gateway
    cards = [
        ModelCard(id=name, created=model.created_at, features=model.features)
        for model in gateway.models.values()
        for name in (model.name, *(f"{model.name}_{a}" for a in model.adapter_names()))
    ]
    return json_answer(ModelList(tuple(sorted(cards, key=lambda card: card.id))))


@get(["/v1/models/{name:path}", "/openai/v1/models/{name:path}"], summary="One model")
async def show_model(state: State, name: str) -> Response[bytes]:
    gateway: Gateway = state.gateway
    model, _ = split_adapter(name.lstrip("/"), gateway.models)
    return json_answer(ModelCard(id=name.lstrip("/"), created=model.created_at, features=model.features))


@post(["/v1/chat/completions", "/openai/v1/chat/completions"], status_code=200, summary="Chat")
async def chat(state: State, request: AnyRequest) -> Response[bytes] | Stream:
    gateway: Gateway = state.gateway
    asked = decode(ChatCompletionRequest, await read_body(request))
    model, adapter = split_adapter(asked.model, gateway.models)
    job = gateway.make_job(model, adapter, chat_input(asked, model), seed=asked.seed, wants_events=asked.stream)
    if asked.stream:
        include_usage = asked.stream_options is not None and asked.stream_options.include_usage
        return await _stream(gateway, job, _ChatChunks(job, asked.model, include_usage))
    result = await _result(gateway, request, job)
    completed = completed_or_raise(result.event)
    output = completed.output
    assert isinstance(output, TextOutput)
    message: dict[str, Any] = {"role": "assistant", "content": output.text}
    if output.tool_calls:
        message |= {"tool_calls": output.tool_calls, "content": output.text or None}
    answer = ChatCompletion(
        id=f"chatcmpl-{job.id}",
        created=int(job.created_at),
        model=asked.model,
        choices=(ChatChoice(0, message, output.finish_reason),),
        usage=output.usage,
    )
    return json_answer(answer, headers=_headers(job, completed))


@post(["/v1/completions", "/openai/v1/completions"], status_code=200, summary="Continue a text")
async def completions(state: State, request: AnyRequest) -> Response[bytes] | Stream:
    gateway: Gateway = state.gateway
    asked = decode(CompletionRequest, await read_body(request))
    model, adapter = split_adapter(asked.model, gateway.models)
    job = gateway.make_job(
        model, adapter, completion_input(asked, model), seed=asked.seed, wants_events=asked.stream
    )
    if asked.stream:
        include_usage = asked.stream_options is not None and asked.stream_options.include_usage
        return await _stream(gateway, job, _TextChunks(job, asked.model, include_usage))
    result = await _result(gateway, request, job)
    completed = completed_or_raise(result.event)
    output = completed.output
    assert isinstance(output, TextOutput)
    answer = TextCompletion(
        id=f"cmpl-{job.id}",
        created=int(job.created_at),
        model=asked.model,
        choices=(TextChoice(0, output.text, output.finish_reason),),
        usage=output.usage,
    )
    return json_answer(answer, headers=_headers(job, completed))


class _Waiting:
    """Where a job stands while it waits, as a comment that keeps the connection alive."""

    def __init__(self) -> None:
        self.last = Queued(position=0)

    def comment(self) -> bytes:
        eta = "unknown" if self.last.eta_s is None else f"{self.last.eta_s:.1f}"
        return comment(f"queued position={self.last.position} eta={eta}")


class _ChatChunks:
    """Events of a chat job as OpenAI chunks."""

    def __init__(self, job: Job, model: str, include_usage: bool) -> None:
        self._id = f"chatcmpl-{job.id}"
        self._created = int(job.created_at)
        self._model = model
        self._include_usage = include_usage

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = ChunkChoice(0, delta, finish_reason)
        return sse(wire.encode(ChatCompletionChunk(self._id, self._created, self._model, (choice,))))

    def opening(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, text: str) -> bytes:
        return self._chunk({"content": text})

    def closing(self, output: TextOutput) -> bytes:
        chunks = b""
        if output.tool_calls:
            calls = [{"index": i, **call} for i, call in enumerate(output.tool_calls)]
            chunks += self._chunk({"tool_calls": calls})
        chunks += self._chunk({}, output.finish_reason)
        if self._include_usage:
            usage = ChatCompletionChunk(self._id, self._created, self._model, (), usage=output.usage)
            chunks += sse(wire.encode(usage))
        return chunks


class _TextChunks:
    """Events of a completion job as OpenAI chunks."""

    def __init__(self, job: Job, model: str, include_usage: bool) -> None:
        self._id = f"cmpl-{job.id}"
        self._created = int(job.created_at)
        self._model = model
        self._include_usage = include_usage

    def _chunk(self, text: str, finish_reason: str | None = None) -> bytes:
        choice = TextChoice(0, text, finish_reason)
        return sse(wire.encode(TextCompletion(self._id, self._created, self._model, (choice,))))

    def opening(self) -> bytes:
        return b""

    def text(self, text: str) -> bytes:
        return self._chunk(text)

    def closing(self, output: TextOutput) -> bytes:
        chunks = self._chunk("", output.finish_reason)
        if self._include_usage:
            usage = TextCompletion(self._id, self._created, self._model, (), usage=output.usage)
            chunks += sse(wire.encode(usage))
        return chunks


async def _stream(gateway: Gateway, job: Job, chunks: "_ChatChunks | _TextChunks") -> Stream:
    gateway.check_admission(job, impossible_status=503)
    return event_stream(gateway, await first_of(_text_stream(gateway, job, chunks)), _headers(job))


async def _text_stream(gateway: Gateway, job: Job, chunks: "_ChatChunks | _TextChunks") -> AsyncIterator[bytes]:
    """The SSE body. A client that goes away closes this generator, which cancels the job."""
    waiting = _Waiting()
    is_opened = False
    async for event, _ in _own_events(gateway, job, waiting.comment):
        match event:
            case bytes():
                yield event
            case Queued():
                waiting.last = event
            case Delta():
                if not is_opened:
                    is_opened = True
                    TTFT.labels(job.model).observe(time.time() - job.created_at)
                    yield chunks.opening() + chunks.text(event.text)
                else:
                    yield chunks.text(event.text)
            case _ if isinstance(event, Terminal):
                try:
                    completed = completed_or_raise(event)
                except RequestError as error:
                    if not is_opened:
                        raise
                    yield sse(wire.encode(openai_error(error)), "error")
                    return
                assert isinstance(completed.output, TextOutput)
                opening = b"" if is_opened else chunks.opening()
                yield opening + chunks.closing(completed.output) + DONE


async def _own_events(
    gateway: Gateway, job: Job, idle: Callable[[], bytes]
) -> AsyncIterator[tuple[JobEvent | bytes, bytes]]:
    """Submit a job and yield its events, and `idle()` while nothing comes."""
    watcher = Watcher(job.id, Cursor())
    gateway.streams.attach(watcher)
    has_ended = False
    try:
        await gateway.submit(job)
        async for item in with_keepalive(gateway.streams.watch_own(watcher), idle):
            if isinstance(item, bytes):
                yield item, b""
                continue
            has_ended = isinstance(item[0], Terminal)
            if has_ended:
                observe_end(item[0])  # type: ignore[arg-type]
            yield item
    finally:
        gateway.streams.detach(watcher)
        if not has_ended:
            gateway.abandon(job, watcher.worker)


@post(["/v1/embeddings", "/openai/v1/embeddings"], status_code=200, summary="Embed texts")
async def embeddings(state: State, request: AnyRequest) -> Response[bytes]:
    gateway: Gateway = state.gateway
    asked = decode(EmbeddingRequest, await read_body(request))
    model, adapter = split_adapter(asked.model, gateway.models)
    job = gateway.make_job(model, adapter, embedding_input(asked, model))
    result = await _result(gateway, request, job)
    completed = completed_or_raise(result.event)
    output = completed.output
    assert isinstance(output, EmbeddingOutput)
    rows = tuple(
        Embedding(index, _vector(vector, asked.encoding_format)) for index, vector in enumerate(output.vectors)
    )
    usage = EmbeddingUsage(output.prompt_tokens, output.prompt_tokens)
    return json_answer(EmbeddingList(rows, asked.model, usage), headers=_headers(job, completed))


def _vector(vector: tuple[float, ...], encoding: str) -> tuple[float, ...] | str:
    """As it is, or base64 of little-endian float32, as OpenAI's clients ask for by default."""
    if encoding == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


@post(["/v1/images/generations", "/openai/v1/images/generations"], status_code=200, summary="Draw")
async def images(state: State, request: AnyRequest) -> Response[bytes] | Stream:
    gateway: Gateway = state.gateway
    asked = decode(ImageGenerationRequest, await read_body(request))
    model, adapter = split_adapter(asked.model, gateway.models)
    job = gateway.make_job(
        model, adapter, generation_input(asked, model), seed=asked.seed, wants_events=asked.stream
    )
    if asked.stream:
        gateway.check_admission(job, impossible_status=503)
        body = await first_of(_image_stream(gateway, job))
        return event_stream(gateway, body, _headers(job))
    result = await _result(gateway, request, job)
    completed = completed_or_raise(result.event)
    output = completed.output
    assert isinstance(output, ImageOutput)
    if asked.response_format == "url":
        base = str(request.base_url).rstrip("/")
        data = [
            GeneratedImage(url=f"{base}/v1/jobs/{job.id}/images/{i}", seed=picture.seed)
            for i, picture in enumerate(output.pictures)
        ]
    else:
        pictures = await get_pictures(gateway.bus, output, result.attached)
        data = [
            GeneratedImage(b64_json=base64.b64encode(png).decode(), seed=picture.seed)
            for png, picture in zip(pictures, output.pictures, strict=True)
        ]
    return json_answer(ImageList(int(job.created_at), tuple(data)), headers=_headers(job, completed))


async def _image_stream(gateway: Gateway, job: Job) -> AsyncIterator[bytes]:
    """`image_generation.partial_image` events, then `image_generation.completed` for each picture."""
    waiting = _Waiting()
    is_opened = False
    async for event, attached in _own_events(gateway, job, waiting.comment):
        match event:
            case bytes():
                is_opened = True
                yield event
            case Queued():
                waiting.last = event
            case Preview():
                is_opened = True
                yield _image_event("partial_image", job, attached, event.width, event.height, event.index)
            case _ if isinstance(event, Terminal):
                try:
                    completed = completed_or_raise(event)
                except RequestError as error:
                    if not is_opened:
                        raise
                    yield sse(wire.encode(openai_error(error)), "error")
                    return
                yield await _completed_images(gateway, job, completed, attached)


async def _completed_images(gateway: Gateway, job: Job, completed: Completed, attached: bytes) -> bytes:
    output = completed.output
    assert isinstance(output, ImageOutput)
    pictures = await get_pictures(gateway.bus, output, attached)
    return b"".join(
        _image_event("completed", job, png, picture.width, picture.height, None)
        for png, picture in zip(pictures, output.pictures, strict=True)
    )


def _image_event(kind: str, job: Job, png: bytes, width: int, height: int, index: int | None) -> bytes:
    name = f"image_generation.{kind}"
    body: dict[str, Any] = {
        "type": name,
        "b64_json": base64.b64encode(png).decode(),
        "created_at": int(job.created_at),
        "size": f"{width}x{height}",
        "quality": "auto",
        "background": "opaque",
        "output_format": "png",
    }
    if index is not None:
        body["partial_image_index"] = index
    else:
        body["usage"] = {
            "input_tokens": 0,
            "output_tokens": 0,
            "total_tokens": 0,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        }
    return sse(wire.encode(body), name)


ROUTES = [list_models, show_model, chat, completions, embeddings, images]
