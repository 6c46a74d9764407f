"""The endpoints of batches: from the body of a line to its jobs, and from their ends to the body of its answer.

Each reads and answers as its route does (services/gateway/routes).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from stoker.schemas.catalog import Model
from stoker.schemas.fields import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, Rule
from stoker.schemas.job_events import Completed
from stoker.schemas.jobs import Job, JobInput, picture_seed
from stoker.schemas.openai import ChatCompletionRequest, CompletionRequest, EmbeddingRequest
from stoker.schemas.responses import KeptResponse, ResponsesRequest
from stoker.services.gateway.batches.progress import job_name
from stoker.services.gateway.edge.access import owner
from stoker.services.gateway.edge.decoding import Reader
from stoker.services.gateway.edge.fields import lost
from stoker.services.gateway.edge.idempotency import fingerprint_of
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.request_rules import in_their_words, split_adapter
from stoker.services.gateway.jobs.text_requests import chat_input, completion_inputs, embedding_input
from stoker.services.gateway.routes.embeddings import embeddings_of
from stoker.services.gateway.routes.responses import conversation_before
from stoker.services.gateway.text.openai_text import chat_answer, completion_answer
from stoker.services.gateway.text.responses_input import NAMES, chat_of, conversation
from stoker.services.gateway.text.responses_output import completed_answer
from stoker.services.gateway.text.runs import MAX_ANSWERS, text_of
from stoker.services.records.conversations import keep

LOWEST_PRIORITY = -10
"""Whoever waits for an answer comes before every line of a batch."""
MIN_PATIENCE_S = 1.0

T = TypeVar("T")
Answer = Callable[[Sequence[Job], Sequence[Completed]], Any]


@dataclass(frozen=True, slots=True)
class Work:
    """The jobs of a line, and what their ends mean to its client."""

    jobs: tuple[Job, ...]
    answer: Answer


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes the jobs of one line. patience_s: how long they may wait to start."""

    gateway: Gateway
    batch: str
    line: int
    body: bytes
    patience_s: float

    def jobs(
        self, model: Model, adapter: str, inputs: Sequence[JobInput], n: int = 1, seed: int | None = None
    ) -> tuple[Job, ...]:
        """As many as the line has answers, `n` for each input. Raises RequestError 400, 403."""
        if not 1 <= n * len(inputs) <= MAX_ANSWERS:
            message = f"n must be between 1 and {MAX_ANSWERS} answers for all prompts together, not {n}"
            raise RequestError(400, message, field="n", code="invalid_value")
        has_seed = seed is not None and seed >= 0
        return tuple(
            self.gateway.submission.make_job(
                model,
                adapter,
                inputs[number // n],
                job_id=job_name(self.batch, self.line, number),
                seed=picture_seed(seed, number) if has_seed and seed is not None else None,
                priority=LOWEST_PRIORITY,
                fingerprint=fingerprint_of(self.body),
                admission_timeout_s=max(self.patience_s, MIN_PATIENCE_S),
            )
            for number in range(n * len(inputs))
        )


class _Bodies(Generic[T]):
    """Reads the bodies of one endpoint as its route does. fields: what becomes of those that nobody reads."""

    def __init__(self, kind: type[T], fields: Mapping[str, Rule]) -> None:
        self._reader = Reader(kind)
        self._fields = fields

    def read(self, body: bytes) -> T:
        """Raises RequestError 400."""
        asked, unread = self._reader.read(body)
        lost(unread, self._fields)
        return asked


_CHATS = _Bodies(ChatCompletionRequest, CHAT)
_COMPLETIONS = _Bodies(CompletionRequest, COMPLETIONS)
_EMBEDDINGS = _Bodies(EmbeddingRequest, EMBEDDINGS)
_RESPONSES = _Bodies(ResponsesRequest, RESPONSES)


def _refuse_stream(asked: ChatCompletionRequest | CompletionRequest | ResponsesRequest) -> None:
    if asked.stream:
        message = "a line of a batch cannot be streamed: leave out stream"
        raise RequestError(400, message, field="stream", code="unsupported_value")


async def _chat(maker: Maker) -> Work:
    asked = _CHATS.read(maker.body)
    _refuse_stream(asked)
    model, adapter = split_adapter(asked.model, maker.gateway.models)
    jobs = maker.jobs(model, adapter, [chat_input(asked, model)], asked.n, asked.seed)
    return Work(jobs, lambda ran, ends: chat_answer(ran[0], asked, [text_of(one) for one in ends]))


async def _completion(maker: Maker) -> Work:
    asked = _COMPLETIONS.read(maker.body)
    _refuse_stream(asked)
    model, adapter = split_adapter(asked.model, maker.gateway.models)
    jobs = maker.jobs(model, adapter, completion_inputs(asked, model), asked.n, asked.seed)
    return Work(jobs, lambda ran, ends: completion_answer(ran[0], asked, [text_of(one) for one in ends]))


async def _embedding(maker: Maker) -> Work:
    asked = _EMBEDDINGS.read(maker.body)
    model, adapter = split_adapter(asked.model, maker.gateway.models)
    jobs = maker.jobs(model, adapter, [embedding_input(asked, model)])
    return Work(jobs, lambda _, ends: embeddings_of(asked, ends[0]))


async def _response(maker: Maker) -> Work:
    asked = _RESPONSES.read(maker.body)
    _refuse_stream(asked)
    if asked.background:
        message = "a line of a batch is in the background already: leave out background"
        raise RequestError(400, message, field="background", code="unsupported_value")
    gateway = maker.gateway
    model, adapter = split_adapter(asked.model, gateway.models)
    before = await conversation_before(gateway, asked.previous_response_id)
    with in_their_words(NAMES):
        jobs = maker.jobs(model, adapter, [chat_input(chat_of(asked, before), model)], seed=asked.seed)
    if asked.store:
        kept = KeptResponse(asked, owner(), conversation(asked, before))
        await keep(gateway.bus, jobs[0].id, kept)
    return Work(jobs, lambda ran, ends: completed_answer(asked, ran[0].id, ran[0].created_at, text_of(ends[0])))


ENDPOINTS: dict[str, Callable[[Maker], Awaitable[Work]]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/embeddings": _embedding,
    "/v1/responses": _response,
}


def answer_of(work: Work, ends: Sequence[Completed]) -> Any:
    """The body of a line's answer: the same whichever gateway has made the jobs. Raises RequestError."""
    ran = [
        msgspec.structs.replace(job, created_at=end.created_at)
        for job, end in zip(work.jobs, ends, strict=True)
    ]
    return work.answer(ran, ends)
