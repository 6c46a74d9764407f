"""What the end of a job means to a client, and the metrics of jobs."""

from functools import cache
from typing import get_args

from prometheus_client import Counter, Histogram

from stoker.schemas.job_events import Cancelled, Completed, Expired, Failed, Terminal
from stoker.schemas.jobs import Job
from stoker.services.gateway.edge.access import shown_to
from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError
from stoker.services.process import genai
from stoker.services.process.telemetry import counter, histogram
from stoker.services.process.tracing import annotate, end_known

REQUESTS = counter("stoker_requests_total", "Jobs accepted", "model", "kind")
TTFT = histogram("stoker_time_to_first_token_seconds", "Accepted until the first delta", "model")
OUTCOMES = tuple(one.__name__.lower() for one in get_args(Terminal))
ENDED = counter("stoker_ended_jobs_total", "Jobs by how they ended", "outcome", known=OUTCOMES)
DURATION = histogram("stoker_job_seconds", "Accepted until the end", "model", "outcome")

_FAILED_STATUS = {
    "validation": 400,
    "would_miss_deadline": 422,
    "resource": 503,
    "retryable": 503,
    "auth": 403,
    "load_failed": 503,
    "worker_lost": 503,
    "timeout": 504,
    "poisoned": 422,
}


@cache  # finding a label costs more than counting
def _requests(model: str, kind: str) -> Counter:
    return REQUESTS.labels(model, kind)


@cache
def _ended(outcome: str) -> Counter:
    return ENDED.labels(outcome)


@cache
def _duration(model: str, outcome: str) -> Histogram:
    return DURATION.labels(model, outcome)


@cache
def _time_to_first_token(model: str) -> Histogram:
    return TTFT.labels(model)


def observe_accepted(job: Job) -> None:
    _requests(job.model, type(job.input).__name__).inc()


def observe_first_token(job: Job, now: float) -> None:
    waited_s = max(now - job.created_at, 0.0)
    _time_to_first_token(job.model).observe(waited_s)
    annotate({genai.TIME_TO_FIRST_TOKEN: round(waited_s, 6)})


def observe_end(event: Terminal) -> None:
    outcome = type(event).__name__.lower()
    _ended(outcome).inc()
    _duration(event.model, outcome).observe(max(event.finished_at - event.created_at, 0.0))
    annotate(genai.ended(event))
    end_known(event.job, event.finished_at)


def completed_or_raise(event: Terminal, impossible_status: int = 503) -> Completed:
    """The event, if the job completed. Raises the RequestError that its end means to a client.

    impossible_status: of one that can never run; 422 where only another request can help.
    """
    match event:
        case Completed():
            return event
        case Failed():
            status = impossible_status if event.kind == "impossible" else _FAILED_STATUS.get(event.kind, 500)
            retry_after_s = int(event.retry_after_s) or RETRY_AFTER_S if status == 503 else None
            message = shown_to(event.tenant, event.message)
            code, field = event.code or event.kind, event.field or None
            raise RequestError(status, message, field=field, code=code, retry_after_s=retry_after_s)
        case Cancelled():
            raise RequestError(499, "the job was cancelled", code="cancelled")
        case Expired():
            raise RequestError(504, event.message, code="timeout")
