"""Embeddings of texts."""

import base64
import math
import struct

from stoker.schemas.fields import EMBEDDINGS
from stoker.schemas.job_events import Completed, EmbeddingOutput
from stoker.schemas.openai import Embedding, EmbeddingList, EmbeddingRequest, EmbeddingUsage
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.routing import openai_paths, post_body
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.own_jobs import finished, job_headers
from stoker.services.gateway.jobs.request_rules import split_adapter
from stoker.services.gateway.jobs.text_requests import embedding_input


@post_body(
    *openai_paths("/embeddings"),
    summary="Embed texts",
    asks=EmbeddingRequest,
    fields=EMBEDDINGS,
    answers=EmbeddingList,
    dialect="openai",
)
async def embed(gateway: Gateway, exchange: Exchange, asked: EmbeddingRequest) -> None:
    model, adapter = split_adapter(asked.model, gateway.models)
    job = gateway.submission.make_job(model, adapter, embedding_input(asked, model))
    completed, _ = await finished(gateway, exchange, job)
    await exchange.answer(embeddings_of(asked, completed), headers=job_headers(job, completed))


def embeddings_of(asked: EmbeddingRequest, completed: Completed) -> EmbeddingList:
    """The answer. Raises RequestError 400 where it has fewer dimensions than are asked for."""
    output = completed.output
    assert isinstance(output, EmbeddingOutput)
    vectors = [shortened(vector, asked.dimensions) for vector in output.vectors]
    rows = tuple(
        Embedding(index, _vector(vector, asked.encoding_format)) for index, vector in enumerate(vectors)
    )
    usage = EmbeddingUsage(output.prompt_tokens, output.prompt_tokens)
    return EmbeddingList(rows, asked.model, usage)


def shortened(vector: tuple[float, ...], dimensions: int | None) -> tuple[float, ...]:
    """The first so many numbers, of length 1 again, as models that are trained for it (Matryoshka) mean it.

    Raises RequestError 400 where there are not so many.
    """
    if dimensions is None or dimensions == len(vector):
        return vector
    if dimensions > len(vector):
        message = f"dimensions must be at most {len(vector)} for this model, not {dimensions}"
        raise RequestError(400, message, field="dimensions", code="invalid_value")
    kept = vector[:dimensions]
    length = math.sqrt(sum(number * number for number in kept))
    return tuple(number / length for number in kept) if length else kept


def _vector(vector: tuple[float, ...], encoding: str) -> tuple[float, ...] | str:
    """As it is, or base64 of little-endian float32, as OpenAI's clients ask for by default."""
    if encoding == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


ROUTES = [embed]
