"""Chat and completions, whole and streamed, as OpenAI's API reference describes them."""

import time
from collections.abc import AsyncGenerator
from typing import Any

from schemas import wire
from schemas.job_events import Assigned, Completed, Delta, Queued, Terminal, TextOutput
from schemas.jobs import Job
from schemas.openai import (
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChunkChoice,
    CompletionRequest,
    TextChoice,
    TextCompletion,
)
from services.gateway.edge.exchange import Exchange
from services.gateway.edge.problems import RequestError
from services.gateway.edge.routing import openai_paths, post_body
from services.gateway.edge.sse import sse
from services.gateway.gateway import Gateway
from services.gateway.jobs.large_inputs import fitting
from services.gateway.jobs.outcomes import completed_or_raise, observe_end, observe_first_token
from services.gateway.jobs.own_jobs import Waiting, error_event, finished, job_headers
from services.gateway.jobs.requests import chat_input, completion_input, split_adapter

DONE = b"data: [DONE]\n\n"


@post_body(
    *openai_paths("/chat/completions"),
    summary="Chat",
    asks=ChatCompletionRequest,
    answers=ChatCompletion,
    is_openai=True,
)
async def chat(gateway: Gateway, exchange: Exchange, asked: ChatCompletionRequest) -> None:
    model, adapter = split_adapter(asked.model, gateway.models)
    job = gateway.submission.make_job(
        model, adapter, chat_input(asked, model), seed=asked.seed, wants_events=asked.stream
    )
    if asked.stream:
        await _stream(gateway, exchange, job, _ChatChunks(job, asked))
        return
    completed, output = await _text(gateway, exchange, job)
    message: dict[str, Any] = {"role": "assistant", "content": output.text}
    if output.tool_calls:
        message |= {"tool_calls": output.tool_calls, "content": output.text or None}
    if output.reasoning:
        message["reasoning_content"] = output.reasoning
    answer = ChatCompletion(
        id=f"chatcmpl-{job.id}",
        created=int(job.created_at),
        model=asked.model,
        choices=(ChatChoice(0, message, output.finish_reason),),
        usage=output.usage,
    )
    await exchange.answer(answer, headers=job_headers(job, completed))


@post_body(
    *openai_paths("/completions"),
    summary="Continue a text",
    asks=CompletionRequest,
    answers=TextCompletion,
    is_openai=True,
)
async def complete(gateway: Gateway, exchange: Exchange, asked: CompletionRequest) -> None:
    model, adapter = split_adapter(asked.model, gateway.models)
    job = gateway.submission.make_job(
        model, adapter, completion_input(asked, model), seed=asked.seed, wants_events=asked.stream
    )
    if asked.stream:
        await _stream(gateway, exchange, job, _TextChunks(job, asked))
        return
    completed, output = await _text(gateway, exchange, job)
    answer = TextCompletion(
        id=f"cmpl-{job.id}",
        created=int(job.created_at),
        model=asked.model,
        choices=(TextChoice(0, output.text, output.finish_reason),),
        usage=output.usage,
    )
    await exchange.answer(answer, headers=job_headers(job, completed))


async def _text(gateway: Gateway, exchange: Exchange, job: Job) -> tuple[Completed, TextOutput]:
    completed, _ = await finished(gateway, exchange, job)
    assert isinstance(completed.output, TextOutput)
    return completed, completed.output


class _ChatChunks:
    """Events of a chat job as OpenAI chunks."""

    def __init__(self, job: Job, asked: ChatCompletionRequest) -> None:
        self._id = f"chatcmpl-{job.id}"
        self._created = int(job.created_at)
        self._model = asked.model
        self._include_usage = asked.stream_options is not None and asked.stream_options.include_usage

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = ChunkChoice(0, delta, finish_reason)
        return sse(wire.encode(ChatCompletionChunk(self._id, self._created, self._model, (choice,))))

    def opening(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, text: str, reasoning: int) -> bytes:
        """More output, of which so many characters are reasoning."""
        if not reasoning:
            return self._chunk({"content": text})
        chunk = self._chunk({"reasoning_content": text[:reasoning]})
        return chunk + self._chunk({"content": text[reasoning:]}) if text[reasoning:] else chunk

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

    def __init__(self, job: Job, asked: CompletionRequest) -> None:
        self._id = f"cmpl-{job.id}"
        self._created = int(job.created_at)
        self._model = asked.model
        self._include_usage = asked.stream_options is not None and asked.stream_options.include_usage

    def _chunk(self, text: str, finish_reason: str | None = None) -> bytes:
        choice = TextChoice(0, text, finish_reason)
        return sse(wire.encode(TextCompletion(self._id, self._created, self._model, (choice,))))

    def opening(self) -> bytes:
        return b""

    def text(self, text: str, reasoning: int) -> bytes:
        """More output; a text that is gone on with has no reasoning."""
        return self._chunk(text)

    def closing(self, output: TextOutput) -> bytes:
        chunks = self._chunk("", output.finish_reason)
        if self._include_usage:
            usage = TextCompletion(self._id, self._created, self._model, (), usage=output.usage)
            chunks += sse(wire.encode(usage))
        return chunks


Chunks = _ChatChunks | _TextChunks


async def _stream(gateway: Gateway, exchange: Exchange, job: Job, chunks: Chunks) -> None:
    gateway.admission.check(job, impossible_status=503)
    job = await fitting(gateway.bus, job, exchange.body_bytes)
    headers = job_headers(job)
    await exchange.stream(gateway.streams_open, _events(gateway, job, chunks, headers), headers)


async def _events(gateway: Gateway, job: Job, chunks: Chunks, headers: dict[str, str]) -> AsyncGenerator[bytes]:
    """The SSE body; `headers` go out with its first chunk.

    A client that goes away closes this generator, which cancels the job.
    """
    waiting = Waiting()
    has_text = is_begun = False
    async with gateway.submission.followed(job) as items:
        async for item in items:
            match item:
                case None:
                    is_begun = True
                    yield waiting.comment()
                case (Queued() as queued, _):
                    if said := waiting.heard(queued):
                        is_begun = True
                        yield said
                case (Assigned(spec=spec), _):
                    headers["x-stoker-spec"] = spec
                case (Delta(text=text, reasoning=reasoning), _):
                    if not has_text:
                        has_text = is_begun = True
                        observe_first_token(job, time.time())
                        yield chunks.opening() + chunks.text(text, reasoning)
                    else:
                        yield chunks.text(text, reasoning)
                case (event, _) if isinstance(event, Terminal):
                    observe_end(event)
                    try:
                        output = completed_or_raise(event).output
                    except RequestError as error:
                        if not is_begun:
                            raise
                        yield error_event(error)
                        return
                    assert isinstance(output, TextOutput)
                    opening = b"" if has_text else chunks.opening()
                    yield opening + chunks.closing(output) + DONE


ROUTES = [chat, complete]
