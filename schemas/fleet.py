"""What the scheduler tells the rest: queues, decisions, jobs it holds; and the autoscaler's replicas."""

from typing import Literal

import msgspec

from stoker.schemas.children import ChildView
from stoker.schemas.jobs import Status
from stoker.schemas.ranges import Amount, Count, Seconds
from stoker.schemas.workers import Tier


class QueueDepth(msgspec.Struct, frozen=True, omit_defaults=True):
    """The queue of one model. Published on change (at most 20 a second) and every second.

    oldest_wait_s: how long the first job has waited. arrival_rate: jobs a second. eta_s: predicted wait of
    a job that arrives now; eta_p90_s: nine of ten wait no longer. by_spec: jobs running by spec. impossible:
    why no worker can ever run it. limit: jobs that may wait before the gateway answers 429. work_s: device
    seconds that those who wait will take. peak: the most that waited and ran at a time since the last one was
    published: jobs may come and end in between. given_to: specs whose workers were given jobs since then.
    """

    model: str
    queued: Count
    running: Count
    oldest_wait_s: Seconds = 0.0
    arrival_rate: Amount = 0.0
    eta_s: Seconds | None = None
    eta_p90_s: Seconds | None = None
    best_s: Seconds | None = None
    by_spec: dict[str, Count] = {}
    impossible: str = ""
    limit: Count = 0
    work_s: Seconds = 0.0
    peak: Count = 0
    given_to: tuple[str, ...] = ()


class DiskRoom(msgspec.Struct, frozen=True):
    """The disk of the NATS server in bytes, told every second by who runs it. is_low: accept nothing new."""

    free: Count
    total: Count
    is_low: bool


class Candidate(msgspec.Struct, frozen=True, omit_defaults=True):
    """One worker that was considered for a job. Seconds; None where it could not run the job at all."""

    worker: str
    spec: str
    tier: Tier
    wait_s: float | None
    load_s: float | None
    run_s: float | None
    eviction_s: float = 0.0
    verdict: str = ""

    @property
    def total_s(self) -> float:
        return sum(term for term in (self.wait_s, self.load_s, self.run_s, self.eviction_s) if term)


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a job went where it went. considered: workers looked at; candidates: the best of them.

    parent, children: as in JobView.
    """

    job: str
    model: str
    attempt: int
    decided_at: float
    chosen: str
    reason: str
    considered: int
    candidates: tuple[Candidate, ...] = ()
    parent: str = ""
    children: tuple[ChildView, ...] = ()


class JobView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job as the scheduler sees it. Times are seconds since 1970. waiting_for: what has to come up before it
    can start, in words; "" where something serves its model.

    parent: the job that has called it. children: the calls that it has made, SHOWN_CHILDREN at most, of
    child_count. priority, deadline_s, depth: as in Job. waits: for calls of its own, without a slot.
    """

    id: str
    model: str
    status: Status
    created_at: float
    attempt: int = 0
    worker: str = ""
    spec: str = ""
    position: int | None = None
    eta_s: float | None = None
    eta_p90_s: float | None = None
    waiting_for: str = ""
    queued_s: float = 0.0
    fingerprint: str = ""
    gateway: str = ""
    tenant: str = ""
    finished_at: float = 0.0
    parent: str = ""
    children: tuple[ChildView, ...] = ()
    child_count: Count = 0
    priority: int = 0
    deadline_s: float | None = None
    depth: Count = 0
    waits: bool = False


class JobsQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """Newest first; `cursor` is the last job of the page before. tenant: only its jobs. search: in the id or
    the model's name, whatever the case. since, until: when it was accepted, seconds since 1970; 0 = any.
    """

    status: str = ""
    tenant: str = ""
    model: str = ""
    limit: int = 50
    cursor: str = ""
    search: str = ""
    since: float = 0.0
    until: float = 0.0

    def fits(self, view: JobView) -> bool:
        """Whether a job is one of those that are asked for."""
        return (
            self.status in ("", view.status)
            and self.model in ("", view.model)
            and self.tenant in ("", view.tenant)
            and view.created_at >= self.since
            and (not self.until or view.created_at <= self.until)
            and (not self.search or self.search.casefold() in f"{view.id} {view.model}".casefold())
        )


class JobsPage(msgspec.Struct, frozen=True):
    jobs: tuple[JobView, ...]
    next_cursor: str = ""


class JobQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """is_watched: who asks wants its events; while it waits the scheduler notes that for who will run it."""

    job: str
    is_watched: bool = False


class CancelAnswer(msgspec.Struct, frozen=True):
    """known: the scheduler holds the job. An unknown job that arrives later is cancelled on arrival."""

    known: bool


EventKind = Literal[
    "assigned", "evicted", "launched", "ready", "kept", "downscaled", "failed", "backoff",
    "joined", "lost", "suspected", "drained", "elected", "loaded", "disk_low", "disk_ok", "quarantined",
    "operated", "configured", "not_configured", "other",
]  # fmt: skip
"""configured: a revision of the configuration is in use. other: of a later version."""


class PlatformEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something an operator may want to know, with its reason; kept in the stream STOKER_EVENTS."""

    kind: EventKind
    subject: str
    at: float
    reason: str
    model: str = ""
    worker: str = ""
    details: Explanation | None = None


class Condition(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why replicas of a spec do not come up. failures: in a row; retry_at: not launched again before."""

    reason: str
    message: str
    at: float
    failures: int = 0
    retry_at: float = 0.0


ReplicaPhase = Literal["launching", "starting", "ready", "draining"]
"""launching: the launcher was asked; starting: it runs, the model is not loaded yet."""


class Replica(msgspec.Struct, frozen=True, omit_defaults=True):
    """One worker that the autoscaler has launched for one spec. id: the worker's name.

    launched_as: hash of the settings that it was launched with ("" = by an autoscaler that did not note it).
    """

    id: str
    spec: str
    profile: str
    launcher: str
    phase: ReplicaPhase
    launched_at: float
    ready_at: float = 0.0
    draining_at: float = 0.0
    reason: str = ""
    launched_as: str = ""


class SpecReplicas(msgspec.Struct, frozen=True, omit_defaults=True):
    """Replicas of one spec: how many are wanted and how many are in which state.

    start_s, slow_start_s: measured seconds from launch to ready, median and 90th percentile. stock: the chance
    that an order is taken, as it was seen. price_per_hour: of one replica. condition: None while nothing is
    wrong.
    """

    spec: str
    desired: int
    ready: int
    starting: int = 0
    draining: int = 0
    start_s: float | None = None
    slow_start_s: float | None = None
    stock: float | None = None
    price_per_hour: float = 0.0
    condition: Condition | None = None


class ModelReplicas(msgspec.Struct, frozen=True, omit_defaults=True):
    """The value of one key of the bucket `stoker_replicas`: all that a restarted autoscaler needs to know."""

    model: str
    specs: tuple[SpecReplicas, ...]
    updated_at: float
    replicas: tuple[Replica, ...] = ()
