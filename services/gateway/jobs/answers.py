"""A job as clients see it: from the scheduler's view, or from its terminal event."""

from typing import Any

import msgspec

from stoker.schemas.children import ChildView
from stoker.schemas.fleet import JobView
from stoker.schemas.job_events import (
    Completed,
    EmbeddingOutput,
    Expired,
    Failed,
    ImageOutput,
    Terminal,
    TextOutput,
    ValueOutput,
)
from stoker.schemas.jobs import Status
from stoker.services.gateway.edge.access import shown_to
from stoker.services.records.results import status_of


class Urls(msgspec.Struct, frozen=True):
    self: str
    events: str
    cancel: str
    explain: str


class JobAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job as clients see it. Times are seconds since 1970, durations seconds. waiting_for: what has to come
    up before it can start, where nothing serves its model.

    parent: the job that has called it. children: the calls that it has made, the first of child_count. key: the
    id of the API key that it belongs to.
    """

    id: str
    status: Status
    model: str
    urls: Urls
    created_at: float = 0.0
    finished_at: float | None = None
    position: int | None = None
    eta_s: float | None = None
    eta_p90_s: float | None = None
    waiting_for: str = ""
    attempt: int = 0
    worker: str = ""
    spec: str = ""
    timings: dict[str, float] = {}
    parent: str = ""
    children: tuple[ChildView, ...] = ()
    child_count: int = 0
    result: Any = None
    error: dict[str, str] | None = None
    key: str = ""


class JobList(msgspec.Struct, frozen=True):
    jobs: tuple[JobAnswer, ...]
    next_cursor: str = ""


def urls_of(job: str) -> Urls:
    base = f"/v1/jobs/{job}"
    return Urls(base, f"{base}/events", f"{base}/cancel", f"{base}/explain")


def from_view(view: JobView) -> JobAnswer:
    return JobAnswer(
        id=view.id,
        status=view.status,
        model=view.model,
        urls=urls_of(view.id),
        created_at=view.created_at,
        position=view.position,
        eta_s=view.eta_s,
        eta_p90_s=view.eta_p90_s,
        waiting_for=view.waiting_for,
        attempt=view.attempt,
        worker=view.worker,
        spec=view.spec,
        timings={"queued_s": view.queued_s} if view.attempt else {},
        parent=view.parent,
        children=view.children,
        child_count=view.child_count,
        key=view.tenant,
        finished_at=view.finished_at or None,
    )


def from_result(event: Terminal) -> JobAnswer:
    """An ended job, with its result or error."""
    error: dict[str, str] | None = None
    if isinstance(event, Failed):
        error = {"kind": event.kind, "message": shown_to(event.tenant, event.message)}
        error |= {name: value for name, value in (("code", event.code), ("field", event.field)) if value}
    elif isinstance(event, Expired):
        error = {"kind": "timeout", "message": shown_to(event.tenant, event.message)}
    return JobAnswer(
        id=event.job,
        status=status_of(event),
        model=event.model,
        urls=urls_of(event.job),
        created_at=event.created_at,
        finished_at=event.finished_at,
        attempt=event.attempt,
        worker=event.worker,
        spec=event.spec,
        timings={
            "queued_s": event.timings.queued_s,
            "load_s": event.timings.load_s,
            "run_s": event.timings.run_s,
        }
        | ({"fetch_s": event.timings.fetch_s} if event.timings.fetch_s else {}),
        parent=event.parent,
        children=event.children,
        child_count=event.child_count,
        result=_result_of(event),
        error=error,
        key=event.tenant,
    )


def _result_of(event: Terminal) -> Any:
    if not isinstance(event, Completed):
        return None
    match event.output:
        case TextOutput() as text:
            return text
        case EmbeddingOutput() as embedding:
            return embedding
        case ValueOutput(value):
            return value  # files are named in it, by their URLs
        case ImageOutput(pictures, details):
            told = ("latents", "skipped_loras", "cut_prompt_tokens", "remark")
            shown = {name: details[name] for name in told if name in details}
            return shown | {
                "images": [
                    {
                        "url": f"/v1/jobs/{event.job}/images/{index}",
                        "seed": picture.seed,
                        "width": picture.width,
                        "height": picture.height,
                        "content_type": picture.content_type,
                    }
                    for index, picture in enumerate(pictures)
                ]
            }
