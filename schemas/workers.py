"""What the scheduler and the workers say to each other."""

from typing import Any, Literal

import msgspec

from stoker.schemas.catalog import Spec, batch_limit
from stoker.schemas.job_events import Delta, FailureKind, JobLog, SmallEvent
from stoker.schemas.jobs import Job
from stoker.schemas.ranges import Amount, Batch, Count, Moment, Seconds, Slots, Term

Tier = Literal["hot", "loading", "base", "parked", "warm", "cold"]
"""Where a model is on a worker: in device memory, on its way there, there but for its LoRAs (base), in RAM,
on disk, or nowhere."""


class Assignment(msgspec.Struct, frozen=True, omit_defaults=True):
    """Run this job. term: of the scheduler's lease; a worker refuses an older one.

    life: `started_at` of the worker that is meant; another process under its name must not take it (0: any).
    evict: models to evict first where room is needed: those that nothing waits for.
    fence: number in the stream of the last record under the job's result subject, 0 for none. The end of this
        attempt is stored only while that is still the last one.
    seal: shows everybody that the worker was given the job (services/bus/seals.py).
    together: how many like jobs may be drawn as one with it, itself included; 0: as its spec says.
    """

    job: Job
    attempt: int
    term: Term
    spec: Spec
    tier: Tier = "hot"
    queued_s: float = 0.0
    evict: tuple[str, ...] = ()
    life: float = 0.0
    fence: int = 0
    seal: str = ""
    together: int = 0


def together(assignment: Assignment) -> int:
    """How many jobs may be drawn as one with this one, itself included."""
    limit = batch_limit(assignment.spec)
    return min(assignment.together, limit) if assignment.together else limit


class Accepted(msgspec.Struct, frozen=True, tag="accepted", tag_field="answer"):
    """The job is this worker's now. running: jobs it holds."""

    running: int = 0


class Refused(msgspec.Struct, frozen=True, tag="refused", tag_field="answer"):
    """Not here. `is_permanent`: not on this worker at any time either."""

    reason: str
    is_permanent: bool = False


AssignmentAnswer = Accepted | Refused


class JobCommand(msgspec.Struct, frozen=True):
    """Cancel: stop this attempt (0: any) of a job, and end the job as cancelled."""

    job: str
    attempt: int = 0


class Revocation(msgspec.Struct, frozen=True):
    """Take this attempt back: stop it, free its slot, and store nothing. The job itself goes on elsewhere."""

    job: str
    term: Term
    attempt: int


class ModelCommand(msgspec.Struct, frozen=True):
    """Load this model, or unload it."""

    model: str
    spec: Spec
    evict: tuple[str, ...] = ()


class Done(msgspec.Struct, frozen=True):
    """Answer to a command: whether it applied."""

    ok: bool
    reason: str = ""


class ReplayRequest(msgspec.Struct, frozen=True):
    """What of a job came after this point? chars: characters of output already delivered.

    wants_log: only what it has printed is asked for.
    """

    job: str
    term: Term = 0
    attempt: int = 0
    seq: int = 0
    chars: int = 0
    wants_log: bool = False


class Replay(msgspec.Struct, frozen=True):
    """Answer to a ReplayRequest. known False: this worker has nothing of the job."""

    known: bool
    events: tuple[SmallEvent | Delta, ...] = ()
    log: JobLog | None = None


class SentRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What has been passed on of a job's text? Asked of every gateway, before a later attempt begins.

    seal: shows that the worker was given the job.
    """

    job: str
    seal: str = ""


class SentText(msgspec.Struct, frozen=True, omit_defaults=True):
    """The longest text from its first character on that clients of this gateway were given.

    tokens: how many it stands for; 0 where that is not known. has_reasoning: whether a part of it is what the
    model wrote before its answer.
    """

    text: str = ""
    tokens: int = 0
    has_reasoning: bool = False


Outcome = Literal["completed", "failed", "cancelled", "lost"]


class Finished(msgspec.Struct, frozen=True, omit_defaults=True):
    """The terminal event of a job is stored, the slot is free. `lost`: it has none, try elsewhere.

    term, attempt: which attempt it was. reason: why it is lost. kind: what the job failed with here, where that
    need not be so on another worker; "" where its runner died. load_s: waiting for weights, fetch_s of it for
    their download. was_killed: its runner was killed from outside, which is no fault of what ran in it. batch:
    how many jobs ran as one, in run_s. too_many: so many at once did not fit the device's memory, and it was
    run alone (0: nothing of that kind). seal: shows that the worker was given the job. prompt_tokens,
    answer_tokens: of a text.
    """

    job: str
    model: str
    attempt: Count
    outcome: Outcome
    load_s: Seconds = 0.0
    fetch_s: Seconds = 0.0
    run_s: Seconds = 0.0
    units: Amount = 1.0
    batch: Batch = 1
    term: Term = 0
    reason: str = ""
    kind: FailureKind | Literal[""] = ""
    was_killed: bool = False
    seal: str = ""
    prompt_tokens: Count = 0
    answer_tokens: Count = 0
    too_many: Count = 0


class RecordedQuery(msgspec.Struct, frozen=True):
    """What is stored of this job? Asked of the leader by a worker that has it, as its seal shows."""

    job: str
    seal: str


class Recorded(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is stored of a job. open: it has not ended. unknown: it could not be found out; reason says why.

    place: number of the last record, 0 for none. term, attempt: whose it is. digest: of the end, as hex.
    """

    state: Literal["open", "ended", "unreadable", "unknown"]
    place: Count = 0
    term: Term = 0
    attempt: Count = 0
    digest: str = ""
    reason: str = ""


class ModelSchema(msgspec.Struct, frozen=True):
    """What a model takes, as JSON Schema: of the inputs of its functions, or of its pipeline."""

    model: str
    schema: Any


class EngineCapability(msgspec.Struct, frozen=True):
    """slots: jobs at a time, of one model; with a `lane`, of all models of all engines of that lane.

    prefetch: jobs a worker takes beyond its slots, so that the next one is there when a slot frees.
    models: the only ones that it serves (none named: any). is_elsewhere: it asks a server that all its workers
    ask, so that how long a run takes says nothing of the worker.
    """

    slots: Slots
    prefetch: Slots
    features: tuple[str, ...]
    lane: str = ""
    models: tuple[str, ...] = ()
    is_elsewhere: bool = False


class CapabilityCard(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model can do as it is loaded, by its file and its engine. 0 and "": not known.

    context_tokens: of prompt and answer together. answer_tokens: of an answer, where a request says nothing.
    embedding_tokens: of one text. pooling: none, mean, cls, last, rank. quantisation: of the weights.
    abilities: of its chat template: system, tools, parallel_tools, thinking, and pictures where it sees them.
    embeddings: textual inversions by their word: how many vectors, how wide. skipped_embeddings: those that do
    not fit, and why.
    """

    context_tokens: Count = 0
    answer_tokens: Count = 0
    embedding_tokens: Count = 0
    pooling: str = ""
    family: str = ""
    quantisation: str = ""
    parameters: Count = 0
    weights_bytes: Count = 0
    slots: Count = 0
    abilities: tuple[str, ...] = ()
    embeddings: dict[str, tuple[Count, Count]] = {}
    skipped_embeddings: dict[str, str] = {}


class ResidentModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model that a worker has somewhere. load_s: the measured load that made it hot, from `loaded_from`;
    fetch_s: of that, its download.

    percent: of its download, while that goes on and its size is known. weights: models with the same
    share them in memory. skipped: LoRAs that do not fit the model, and why. card: while it is hot, where its
    engine says so.
    """

    model: str
    spec: str
    engine: str
    tier: Tier
    memory_bytes: Count = 0
    load_s: Seconds | None = None
    loaded_from: Tier = "warm"
    weights: str = ""
    percent: float | None = None
    path: str = ""
    skipped: tuple[str, ...] = ()
    card: CapabilityCard | None = None
    fetch_s: Seconds = 0.0


class Resources(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the runner processes take, as torch and the system measure it; GPU fields None without a GPU.

    engine: figures that an engine has of itself, such as requests_waiting of vLLM.
    """

    cpu_percent: float = 0.0
    rss_bytes: int = 0
    gpu_allocated_bytes: int | None = None
    gpu_reserved_bytes: int | None = None
    gpu_total_bytes: int | None = None
    gpu_used_bytes: int | None = None
    gpu_utilization_percent: float | None = None
    engine: dict[str, float] = {}


class RunningJob(msgspec.Struct, frozen=True, omit_defaults=True):
    """An attempt that a worker has: waiting for its model or a slot, running, or having its end stored.

    seal: shows that the worker was given the job. waits: it takes no slot meanwhile: for calls of its own, or
    until what it has drawn is written. goes_on: its engine has said something of it in the last seconds, such
    as more text or another step; a worker of the version before does not say so.
    """

    job: str
    model: str
    spec: str
    attempt: Count
    term: Term = 0
    seal: str = ""
    waits: bool = False
    goes_on: bool = False


class Heartbeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker's state: published every second and on every change, whole or as what has changed.

    engines: what it can run now. coming: what it will run in a moment: their process is being started, or says
    nothing.
    seq counts heartbeats of one life of the worker, started_at names that life. vram_models, ram_models
    and disk_models repeat `models` by tier for people who read along. failed_loads: why a model could not be
    loaded lately; load_failures: how often that happened in this life and was no accident (None: not counted,
    by a worker of an early version). may_change: it would say changes only (heartbeats.py), and waits for a
    leading scheduler to say that it reads them.
    """

    worker: str
    started_at: Moment
    seq: Count
    spec: str
    profile: str
    device: str
    host: str
    engines: dict[str, EngineCapability]
    memory_total_bytes: Count
    memory_used_bytes: Count
    ram_total_bytes: Count = 0
    models: tuple[ResidentModel, ...] = ()
    vram_models: tuple[str, ...] = ()
    ram_models: tuple[str, ...] = ()
    disk_models: tuple[str, ...] = ()
    running: tuple[RunningJob, ...] = ()
    is_draining: bool = False
    is_leaving: bool = False
    failed_loads: dict[str, str] = {}
    load_failures: dict[str, Count] | None = None
    rss_bytes: Count = 0
    resources: Resources = Resources()
    coming: dict[str, EngineCapability] = {}
    may_change: bool = False


HEARTBEAT_INTERVAL_S = 1.0
