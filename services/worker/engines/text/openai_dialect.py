"""Runs on servers that speak OpenAI's dialect: vLLM, hosted APIs, and whatever else does."""

from typing import Any

import msgspec

from stoker.schemas.job_events import EmbeddingOutput, TextOutput, ValueOutput
from stoker.schemas.jobs import EmbeddingInput, RerankInput
from stoker.services.worker.engines.base import Emitter, Request
from stoker.services.worker.engines.text.generation import Answer, Generation
from stoker.services.worker.engines.text.http_stream import Server, refusal_of_event


async def generate(server: Server, path: str, body: Answer, request: Request, emit: Emitter) -> TextOutput:
    """Text of a streamed answer, as it comes."""
    generation = Generation(request, emit)
    async for line in server.lines(path, body):
        data = line.removeprefix("data: ") if line.startswith("data: ") else line.removeprefix("data:")
        if data == line or data == "[DONE]":
            continue
        chunk: dict[str, Any] = msgspec.json.decode(data)
        if chunk.get("error"):
            raise refusal_of_event(server.name, chunk["error"])
        counts = chunk.get("usage") or {}
        for choice in chunk.get("choices") or ():
            generation.add_delta(choice, counts.get("completion_tokens") or 0)
        _count(generation, counts)
    return generation.output()


async def answer_whole(server: Server, path: str, body: Answer, request: Request, emit: Emitter) -> TextOutput:
    """Text of an answer that is wanted as a whole: nothing is streamed."""
    generation = Generation(request, emit)
    whole = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
    found = await server.post(path, whole)
    counts = found.get("usage") or {}
    for choice in found.get("choices") or ():
        delta = choice | {"delta": choice.get("message") or {}}
        generation.add_delta(delta, counts.get("completion_tokens") or 0)
    _count(generation, counts)
    return generation.output()


def _count(generation: Generation, counts: Answer) -> None:
    if counts:
        cached = (counts.get("prompt_tokens_details") or {}).get("cached_tokens")
        generation.count(counts.get("prompt_tokens") or 0, counts.get("completion_tokens") or 0, cached)


async def embed(server: Server, path: str, name: str, asked: EmbeddingInput) -> EmbeddingOutput:
    answer = await server.post(path, {"model": name, "input": asked.inputs})
    vectors = tuple(tuple(row["embedding"]) for row in answer["data"])
    return EmbeddingOutput(vectors, (answer.get("usage") or {}).get("prompt_tokens") or 0)


async def rerank(server: Server, path: str, name: str, asked: RerankInput) -> ValueOutput:
    body: Answer = {"model": name, "query": asked.query, "documents": list(asked.documents)}
    found = await server.post(path, body)
    scores = {row["index"]: row["relevance_score"] for row in found["results"]}
    in_order = [scores[index] for index in range(len(asked.documents))]
    tokens = (found.get("usage") or {}).get("total_tokens") or 0
    return ValueOutput({"scores": in_order, "prompt_tokens": tokens})
