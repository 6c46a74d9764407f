"""The last day, for a time axis: jobs that ended, samples of queues, events; between two moments, by pages."""

import time
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec

from stoker.schemas.fleet import PlatformEvent
from stoker.schemas.history import (
    EndedJob,
    EndedJobs,
    EventHistory,
    HistoryQuery,
    JobHistory,
    Sample,
    SampleHistory,
)
from stoker.schemas.subjects import ANY, EVENTS_STREAM, HISTORY_STREAM
from stoker.services.bus.errors import Missing
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.routing import get
from stoker.services.gateway.gateway import Gateway
from stoker.services.records.history import between

T = TypeVar("T")

LATE_S = 2.0
"""A message is written at most so much after what it tells of."""


def _asked(exchange: Exchange) -> HistoryQuery:
    asked = exchange.query(HistoryQuery)
    if asked.until and asked.until < asked.from_:
        raise RequestError(400, "until must not be before from", field="until", code="invalid_value")
    return asked if asked.until else msgspec.structs.replace(asked, until=time.time() + LATE_S)


async def _read(
    gateway: Gateway, stream: str, subject: str, kind: type[T], asked: HistoryQuery, take: Any
) -> int:
    """Give messages to `take` until it has enough; where to go on, 0 at the end. Raises RequestError 503."""
    found = between(gateway.bus, stream, subject, kind, asked.from_, asked.cursor)
    try:
        async with aclosing(found) as messages:
            async for number, message in messages:
                if message.at > asked.until + LATE_S:  # type: ignore[attr-defined]
                    return 0
                if take(message) >= asked.limit:
                    return number
    except Missing as error:
        reason = (
            f"the stream {stream} is not there; run `stoker init` once, as a NATS user that may make streams"
        )
        raise RequestError(503, reason, code="not_declared") from error
    return 0


@get(
    "/v1/history/jobs",
    summary="Jobs that ended in a part of the last day",
    query=HistoryQuery,
    answers=JobHistory,
    role="operate",
)
async def jobs_history(gateway: Gateway, exchange: Exchange) -> None:
    asked = _asked(exchange)
    jobs: list[EndedJob] = []
    left_out = 0

    def take(message: EndedJobs) -> int:
        nonlocal left_out
        left_out += message.left_out
        jobs.extend(one for one in message.jobs if _fits(one, asked))
        return len(jobs)

    subject = gateway.bus.subjects.history("jobs")
    following = await _read(gateway, HISTORY_STREAM, subject, EndedJobs, asked, take)
    await exchange.answer(JobHistory(tuple(jobs), following, left_out))


def _fits(job: EndedJob, asked: HistoryQuery) -> bool:
    return (
        job.finished_at >= asked.from_
        and job.created_at <= asked.until
        and asked.model in ("", job.model)
        and asked.worker in ("", job.worker)
        and asked.status in ("", job.status)
        and asked.job in ("", job.id)
    )


@get(
    "/v1/history/samples",
    summary="Queues and busy workers in a part of the last day, every ten seconds",
    query=HistoryQuery,
    answers=SampleHistory,
    role="operate",
)
async def samples_history(gateway: Gateway, exchange: Exchange) -> None:
    asked = _asked(exchange)
    samples: list[Sample] = []

    def take(sample: Sample) -> int:
        if asked.from_ <= sample.at <= asked.until:
            samples.append(sample)
        return len(samples)

    subject = gateway.bus.subjects.history("samples")
    following = await _read(gateway, HISTORY_STREAM, subject, Sample, asked, take)
    await exchange.answer(SampleHistory(tuple(samples), following))


@get(
    "/v1/history/events",
    summary="What happened and why, in a part of the last day",
    query=HistoryQuery,
    answers=EventHistory,
    role="operate",
)
async def events_history(gateway: Gateway, exchange: Exchange) -> None:
    asked = _asked(exchange)
    events: list[PlatformEvent] = []

    def take(event: PlatformEvent) -> int:
        if (
            asked.from_ <= event.at <= asked.until
            and asked.model in ("", event.model)
            and asked.worker in ("", event.worker)
        ):
            events.append(event)
        return len(events)

    subject = gateway.bus.subjects.every("events", ANY, ANY)
    following = await _read(gateway, EVENTS_STREAM, subject, PlatformEvent, asked, take)
    await exchange.answer(EventHistory(tuple(events), following))


ROUTES = [jobs_history, samples_history, events_history]
