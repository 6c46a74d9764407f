"""Runs on servers that speak OpenAI's dialect: vLLM, hosted APIs, and whatever else does.

A streamed answer is whole when it has said why it finished, or that it is done (`[DONE]`). One that ends before
that has broken off, also where its connection was closed in good order.
"""

from contextlib import aclosing

from stoker.schemas.job_events import EmbeddingOutput, TextOutput, ValueOutput
from stoker.schemas.jobs import EmbeddingInput, RerankInput
from stoker.services.worker.engines.base import Emitter, Request
from stoker.services.worker.engines.text.answers import (
    Chunk,
    Embeddings,
    Ranks,
    Whole,
    not_whole,
    odd,
    read_as,
)
from stoker.services.worker.engines.text.generation import Answer, Generation
from stoker.services.worker.engines.text.http_stream import Server, read_out, refusal_of_event

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


async def generate(server: Server, path: str, body: Answer, request: Request, emit: Emitter) -> TextOutput:
    """Text of a streamed answer, as it comes. Raises EngineError."""
    generation = Generation(request, emit)
    async with aclosing(server.lines(path, body)) as lines:
        async for line in lines:
            field, _, data = line.removeprefix(BYTE_ORDER_MARK).partition(b":")
            data = data.strip()
            if field != b"data" or not data:
                continue
            if data == b"[DONE]":
                await read_out(lines)
                return generation.output()
            chunk = read_as(data, Chunk, server.name)
            if chunk.get("error"):
                raise refusal_of_event(server.name, chunk["error"])
            _take(generation, chunk, "delta")
    if not generation.is_finished:
        raise not_whole(server.name)
    return generation.output()


async def answer_whole(server: Server, path: str, body: Answer, request: Request, emit: Emitter) -> TextOutput:
    """Text of an answer that is wanted as a whole: nothing is streamed. Raises EngineError."""
    generation = Generation(request, emit)
    whole = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
    found = read_as(await server.post_for_bytes(path, whole), Whole, server.name)
    _take(generation, found, "message")
    return generation.output()


def _take(generation: Generation, said: Answer, part: str) -> None:
    """One choice is asked for; what a server says of others is not read."""
    counts: Answer = said.get("usage") or {}
    for choice in said.get("choices") or ():
        if not choice.get("index"):
            delta = choice | {"delta": choice.get(part) or {}}
            generation.add_delta(delta, counts.get("completion_tokens") or 0)
    if counts:
        cached = (counts.get("prompt_tokens_details") or {}).get("cached_tokens")
        generation.count(counts.get("prompt_tokens") or 0, counts.get("completion_tokens") or 0, cached)


async def embed(server: Server, path: str, name: str, asked: EmbeddingInput) -> EmbeddingOutput:
    """Raises EngineError, also where there is not one vector for each text."""
    found = await server.post(path, {"model": name, "input": asked.inputs}, Embeddings)
    try:
        vectors = found.vectors(len(asked.inputs))
    except ValueError as error:
        raise odd(server.name, error) from error
    return EmbeddingOutput(vectors, (found.usage and found.usage.prompt_tokens) or 0)


async def rerank(server: Server, path: str, name: str, asked: RerankInput) -> ValueOutput:
    """Raises EngineError, also where there is not one score for each document."""
    body: Answer = {"model": name, "query": asked.query, "documents": list(asked.documents)}
    found = await server.post(path, body, Ranks)
    try:
        scores = found.scores(len(asked.documents))
    except ValueError as error:
        raise odd(server.name, error) from error
    tokens = (found.usage and found.usage.total_tokens) or 0
    return ValueOutput({"scores": scores, "prompt_tokens": tokens})
