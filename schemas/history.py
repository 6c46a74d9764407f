"""What is kept of the last day for the time axis: jobs that ended, and samples of queues and workers.

The leading scheduler writes it into the stream STOKER_HISTORY: jobs every second, as one message, and a sample
every ten. Times are seconds since 1970.
"""

from typing import Annotated

import msgspec

from stoker.schemas.fleet import PlatformEvent
from stoker.schemas.jobs import Status
from stoker.schemas.ranges import Amount, Count, Moment, Seconds

MAX_PAGE = 10_000
MAX_CURSOR = 2**53
QueryMoment = Annotated[float, msgspec.Meta(ge=0, le=1e11)]
"""Seconds since 1970, up to the year 5138."""


class EndedJob(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job from its acceptance (`created_at`) to its end. It was queued for queued_s, then waited load_s for
    weights (fetch_s of it for their download), then ran for run_s: unlike a job's own timings, a load that it
    waited for in the queue is no part of queued_s. worker: "" where none had it.
    """

    id: str
    model: str
    status: Status
    created_at: Moment
    finished_at: Moment
    worker: str = ""
    spec: str = ""
    attempt: Count = 0
    tenant: str = ""
    queued_s: Seconds = 0.0
    fetch_s: Seconds = 0.0
    load_s: Seconds = 0.0
    run_s: Seconds = 0.0


class EndedJobs(msgspec.Struct, frozen=True, omit_defaults=True):
    """Jobs that ended within a second. left_out: how many more there were than one message holds."""

    at: Moment
    jobs: tuple[EndedJob, ...]
    left_out: Count = 0


class ModelSample(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model over ten seconds: jobs that wait and run at their end; jobs that ended and failed, and the time
    from acceptance to end that nineteen of twenty did not exceed.
    """

    queued: Count = 0
    running: Count = 0
    ended: Count = 0
    failed: Count = 0
    p95_s: Seconds = 0.0


class Sample(msgspec.Struct, frozen=True, omit_defaults=True):
    """Models with something to do, and how many jobs each busy worker ran, on average. workers: how many there
    are.
    """

    at: Moment
    models: dict[str, ModelSample] = {}
    busy: dict[str, Amount] = {}
    workers: Count = 0


class HistoryQuery(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """Which part of the last day. from, until: seconds since 1970; 0 = from its beginning, until now. cursor:
    `next_cursor` of the page before. The other fields leave out what does not match: each is of jobs, model and
    worker of events too.
    """

    from_: QueryMoment = 0.0
    until: QueryMoment = 0.0
    cursor: Annotated[int, msgspec.Meta(ge=0, le=MAX_CURSOR)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = 1000
    model: str = ""
    worker: str = ""
    status: str = ""
    job: str = ""


class JobHistory(msgspec.Struct, frozen=True):
    """Jobs in the order of their ends. next_cursor: 0 on the last page. left_out: jobs only counted."""

    jobs: tuple[EndedJob, ...]
    next_cursor: Count = 0
    left_out: Count = 0


class SampleHistory(msgspec.Struct, frozen=True):
    """Samples, oldest first. next_cursor: 0 on the last page."""

    samples: tuple[Sample, ...]
    next_cursor: Count = 0


class EventHistory(msgspec.Struct, frozen=True):
    """Events, oldest first. next_cursor: 0 on the last page."""

    events: tuple[PlatformEvent, ...]
    next_cursor: Count = 0
