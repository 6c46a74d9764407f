"""Documents by how well they answer a query: Cohere's and Jina's /rerank, and vLLM's /score.

A model that ranks says it itself. With one that embeds, a score is the cosine between query and document.
"""

import math
import time
from collections.abc import Sequence

import msgspec

from stoker.schemas.catalog import Model
from stoker.schemas.job_events import Completed, EmbeddingOutput, ValueOutput
from stoker.schemas.jobs import EmbeddingInput, JobInput, RerankInput
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.routing import openai_paths, post_body
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.own_jobs import finished, job_headers
from stoker.services.gateway.jobs.request_rules import split_adapter
from stoker.services.gateway.jobs.text_requests import MAX_TEXTS


class Document(msgspec.Struct, frozen=True):
    text: str


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    query: str
    documents: tuple[str | Document, ...]
    top_n: int | None = None
    return_documents: bool = True


class Ranked(msgspec.Struct, frozen=True, omit_defaults=True):
    index: int
    relevance_score: float
    document: Document | None = None


class RankUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class Ranking(msgspec.Struct, frozen=True):
    """The best first."""

    id: str
    model: str
    usage: RankUsage
    results: tuple[Ranked, ...]


class ScoreRequest(msgspec.Struct, frozen=True, kw_only=True):
    """text_1: one text, or as many as there are in text_2."""

    model: str
    text_1: str | tuple[str, ...]
    text_2: str | tuple[str, ...]


PAIRS = ("text_1", "text_2")


class Score(msgspec.Struct, frozen=True):
    index: int
    score: float
    object: str = "score"


class Scores(msgspec.Struct, frozen=True):
    id: str
    created: int
    model: str
    data: tuple[Score, ...]
    usage: RankUsage
    object: str = "list"


@post_body(
    *openai_paths("/rerank"), "/v2/rerank", "/rerank",
    summary="Rank documents", asks=RerankRequest, answers=Ranking, dialect="openai",
)  # fmt: skip
async def rerank(gateway: Gateway, exchange: Exchange, asked: RerankRequest) -> None:
    if asked.top_n is not None and asked.top_n < 1:
        raise RequestError(400, "top_n must be 1 or more", field="top_n", code="invalid_value")
    texts = tuple(one if isinstance(one, str) else one.text for one in asked.documents)
    scores, tokens, job, headers = await _scores(
        gateway, exchange, asked.model, asked.query, texts, ("query", "documents")
    )
    order = sorted(range(len(texts)), key=lambda index: -scores[index])[: asked.top_n]
    found = tuple(
        Ranked(index, scores[index], Document(texts[index]) if asked.return_documents else None)
        for index in order
    )
    answer = Ranking(f"rerank-{job}", asked.model, RankUsage(tokens, tokens), found)
    await exchange.answer(answer, headers=headers)


@post_body(
    *openai_paths("/score"), "/score", summary="Score pairs of texts", asks=ScoreRequest, answers=Scores,
    dialect="openai",
)  # fmt: skip
async def score(gateway: Gateway, exchange: Exchange, asked: ScoreRequest) -> None:
    first = (asked.text_1,) if isinstance(asked.text_1, str) else asked.text_1
    second = (asked.text_2,) if isinstance(asked.text_2, str) else asked.text_2
    if not first or len(first) not in (1, len(second)):
        message = f"text_1 takes one text, or as many as text_2 ({len(second)}), not {len(first)}"
        raise RequestError(400, message, field="text_1", code="invalid_value")
    if len(first) == 1:
        scores, tokens, job, headers = await _scores(gateway, exchange, asked.model, first[0], second, PAIRS)
    else:
        scores, tokens = [], 0
        for one, other in zip(first, second, strict=True):
            found, more, job, headers = await _scores(gateway, exchange, asked.model, one, (other,), PAIRS)
            scores += found
            tokens += more
    data = tuple(Score(index, value) for index, value in enumerate(scores))
    answer = Scores(f"score-{job}", int(time.time()), asked.model, data, RankUsage(tokens, tokens))
    await exchange.answer(answer, headers=headers)


async def _scores(
    gateway: Gateway,
    exchange: Exchange,
    name: str,
    query: str,
    texts: Sequence[str],
    fields: tuple[str, str],
) -> tuple[list[float], int, str, dict[str, str]]:
    """A score for each text, tokens, the job's id, and headers. fields: of the query and the texts, for errors.

    Raises RequestError, ClientGone.
    """
    model, adapter = split_adapter(name, gateway.models)
    if not 0 < len(texts) < MAX_TEXTS or not all(texts):
        message = f"give 1 to {MAX_TEXTS - 1} texts that are not empty"
        raise RequestError(400, message, field=fields[1], code="invalid_value")
    if not query:
        raise RequestError(400, "give a query", field=fields[0], code="invalid_value")
    job = gateway.submission.make_job(model, adapter, _asked(model, query, texts))
    try:
        completed, _ = await finished(gateway, exchange, job)
    except RequestError as error:
        if error.status == 400 and (error.field or "input").startswith("input"):  # of an embedding's texts
            error.field = fields[1]
        raise
    scores, tokens = _found(completed)
    return scores, tokens, job.id, job_headers(job, completed)


def _asked(model: Model, query: str, texts: Sequence[str]) -> JobInput:
    if "Reranking" in model.features:
        return RerankInput(query, tuple(texts))
    if "TextEmbedding" in model.features:
        return EmbeddingInput((query, *texts))
    message = f"{model.name!r} neither ranks nor embeds"
    raise RequestError(400, message, field="model", code="wrong_feature")


def _found(completed: Completed) -> tuple[list[float], int]:
    match completed.output:
        case EmbeddingOutput(vectors=(query, *others), prompt_tokens=tokens):
            return [cosine(query, other) for other in others], tokens
        case ValueOutput(value=value):
            return list(value["scores"]), value["prompt_tokens"]
    raise AssertionError(completed.output)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """-1 to 1; 0 where one of them has no direction."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    length = math.hypot(*one) * math.hypot(*other)
    return product / length if length else 0.0


ROUTES = [rerank, score]
