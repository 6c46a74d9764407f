"""What happens to a job, as its watchers see it.

`term` names the scheduler that assigned the job (its lease), `attempt` counts assignments from 1, `seq` the
events of one attempt from 1. In this order they order every event of a job; an event that is older than the
newest seen is ignored. `Queued` and
`Provisioning` come from the scheduler and carry neither: they inform, and are never replayed.
"""

from typing import Any, Literal, Required, TypedDict

import msgspec

from stoker.schemas.children import ChildView
from stoker.schemas.openai import Usage
from stoker.schemas.ranges import Window


class Event(msgspec.Struct, frozen=True, tag_field="event", tag=str.lower, omit_defaults=True):
    """Base of everything that is published for a job."""


class Queued(Event, frozen=True):
    """Waiting. position: jobs ahead of it, 0 = next. eta_s: predicted seconds until it starts; eta_p90_s:
    within which nine of ten do.
    """

    position: int
    eta_s: float | None = None
    eta_p90_s: float | None = None


class Provisioning(Event, frozen=True):
    """No replica serves the model yet; one is being started.

    spec: of which one is, that will be ready first; since: when it was launched, seconds since 1970;
    start_p50_s, start_p90_s: how long one of this spec took from launch to ready, half of the times and nine
    times of ten.
    """

    reason: str
    eta_s: float | None = None
    spec: str = ""
    since: float | None = None
    start_p50_s: float | None = None
    start_p90_s: float | None = None


class AttemptEvent(Event, frozen=True, kw_only=True):
    """An event of one attempt, numbered by the worker that makes it."""

    term: int = 0
    attempt: int = 0
    seq: int = 0


class Assigned(AttemptEvent, frozen=True, kw_only=True):
    worker: str
    spec: str
    tier: str


class Downloading(AttemptEvent, frozen=True, kw_only=True):
    """percent: 0 to 100 where the size is known."""

    percent: float | None = None


class Loading(AttemptEvent, frozen=True, kw_only=True):
    tier: str
    percent: float | None = None


class Started(AttemptEvent, frozen=True, kw_only=True):
    worker: str


class Progress(AttemptEvent, frozen=True, kw_only=True):
    """Step `step` of `steps` is done."""

    step: int
    steps: int


class Preview(AttemptEvent, frozen=True, kw_only=True):
    """An intermediate picture; its bytes (PNG) follow the JSON part of the message."""

    index: int
    step: int
    width: int
    height: int
    image_bytes: int


class Alternative(msgspec.Struct, frozen=True):
    """A token that could have been next. logprob: natural logarithm of its chance. bytes: of its text."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class TokenChance(Alternative, frozen=True):
    """A token that was chosen. top: the likeliest in its place. at: how many characters of output came before
    the piece of text that it is a part of.
    """

    top: tuple[Alternative, ...] = ()
    at: int = 0


class CallPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """More of the call of a tool while it is written: the answer's call `index` of a function.
    id: of the call. name: of the function.
    arguments: more of their JSON. at: how many of its characters came before.
    """

    index: int
    id: str
    name: str
    arguments: str = ""
    at: int = 0


class Delta(AttemptEvent, frozen=True, kw_only=True):
    """More text. at: how many characters of output came before it. tokens: how many it stands for.

    tokens_so_far: of the whole output up to the end of this text; 0 where that is not known. reasoning: how
    many of its characters, the first ones, are the model's reasoning: output is reasoning, then the answer.
    logprobs: of the tokens of the text, where the request asks for them. calls: of tools, as they are written:
    for who watches now, as the result has them whole.
    """

    at: int
    text: str
    tokens: int = 1
    tokens_so_far: int = 0
    reasoning: int = 0
    logprobs: tuple[TokenChance, ...] = ()
    calls: tuple[CallPart, ...] = ()


class TextOfJob(msgspec.Struct, frozen=True):
    """More text of one of several jobs. seal: shows that the worker was given the job."""

    job: str
    seal: str
    delta: Delta


class TextBatch(msgspec.Struct, frozen=True):
    """More text of several jobs of one gateway, in the order in which it was made."""

    texts: tuple[TextOfJob, ...]


class TextPace(msgspec.Struct, frozen=True):
    """A gateway asks for larger pieces of text: it may wait `window_s` for more of it. 0: as it comes."""

    gateway: str
    window_s: Window


class TextOutput(msgspec.Struct, frozen=True, tag="text", tag_field="kind", omit_defaults=True):
    """text: the answer. reasoning: what the model has written before it, as its template marks it. logprobs:
    of the tokens of both, where the request asks for them. blob: where all of it lies as JSON when it did not
    fit the message; text is "" then.
    """

    text: str
    finish_reason: str
    usage: Usage
    tool_calls: tuple[dict[str, Any], ...] = ()
    reasoning: str = ""
    logprobs: tuple[TokenChance, ...] = ()
    blob: str = ""


class EmbeddingOutput(msgspec.Struct, frozen=True, tag="embedding", tag_field="kind", omit_defaults=True):
    """blob: where all of it lies as JSON when it did not fit the message; there are no vectors then."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    blob: str = ""


class Picture(msgspec.Struct, frozen=True, omit_defaults=True):
    """One picture of a result. blob: its name in the object store when it did not fit the message."""

    seed: int
    width: int
    height: int
    image_bytes: int
    content_type: str = "image/png"
    blob: str = ""


class ImageOutput(msgspec.Struct, frozen=True, tag="image", tag_field="kind", omit_defaults=True):
    """Pictures; the bytes of those without a blob name follow the JSON part, in order.

    details: what else the engine tells: parameters as used, latents, skipped LoRAs, resources (metrics).
    """

    pictures: tuple[Picture, ...]
    details: dict[str, Any] = {}


class SavedFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file of a result. blob: its name in the object store when it did not fit the message."""

    name: str
    content_type: str
    image_bytes: int
    blob: str = ""


class ValueOutput(msgspec.Struct, frozen=True, tag="value", tag_field="kind", omit_defaults=True):
    """What a function returned. The bytes of files without a blob name follow the JSON part, in order.

    blob: where the value lies as JSON in the object store when it did not fit the message.
    """

    value: Any = None
    files: tuple[SavedFile, ...] = ()
    blob: str = ""


Output = TextOutput | EmbeddingOutput | ImageOutput | ValueOutput


class Timings(msgspec.Struct, frozen=True, omit_defaults=True):
    """Seconds. queued_s: accepted to assigned. load_s: waiting for weights; fetch_s: of that, for their
    download. run_s: in the engine.
    """

    queued_s: float = 0.0
    load_s: float = 0.0
    run_s: float = 0.0
    fetch_s: float = 0.0


FailureKind = Literal[
    "validation", "retryable", "resource", "fatal", "auth", "cancelled", "internal",
    "worker_lost", "impossible", "would_miss_deadline", "load_failed", "timeout", "poisoned",
]  # fmt: skip


class JobLog(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a job has printed: its beginning and its end. dropped_lines, dropped_bytes: left out between."""

    head: bytes = b""
    dropped_lines: int = 0
    dropped_bytes: int = 0
    tail: bytes = b""


class TerminalEvent(AttemptEvent, frozen=True, kw_only=True):
    """The last event of a job; carries what `GET /v1/jobs/{id}` shows for as long as results are kept.

    history: the small events of the last attempt, so that a late watcher misses nothing. log: what the last
    attempt has printed. parent: the job that has called it. children: the calls that it has made,
    SHOWN_CHILDREN at most, of child_count.
    """

    job: str
    model: str
    created_at: float
    finished_at: float
    timings: Timings = Timings()
    worker: str = ""
    spec: str = ""
    fingerprint: str = ""
    webhook: str = ""
    tenant: str = ""
    history: "tuple[Assigned | Downloading | Loading | Started | Progress, ...]" = ()
    log: JobLog | None = None
    parent: str = ""
    children: tuple[ChildView, ...] = ()
    child_count: int = 0


class Ending(TypedDict, total=False):
    """The fields of TerminalEvent, to make one of any kind."""

    term: int
    attempt: int
    seq: int
    job: Required[str]
    model: Required[str]
    created_at: Required[float]
    finished_at: Required[float]
    timings: Timings
    worker: str
    spec: str
    fingerprint: str
    webhook: str
    tenant: str
    history: "tuple[SmallEvent, ...]"
    log: JobLog | None
    parent: str
    children: tuple[ChildView, ...]
    child_count: int


class Completed(TerminalEvent, frozen=True, kw_only=True):
    output: Output


class Failed(TerminalEvent, frozen=True, kw_only=True):
    """code: a name for what went wrong that says more than its kind. field: of the request, that is wrong.
    retry_after_s: when it is worth to try again, where that is known.
    """

    kind: FailureKind
    message: str
    code: str = ""
    field: str = ""
    retry_after_s: float = 0.0


class Cancelled(TerminalEvent, frozen=True, kw_only=True):
    pass


class Expired(TerminalEvent, frozen=True, kw_only=True):
    """The job waited longer than it was allowed to."""

    message: str


class Superseded(Event, frozen=True, kw_only=True):
    """Not an end. The leader of `term` has given the job to attempt `attempt`: no earlier one may end it."""

    job: str
    term: int
    attempt: int


SmallEvent = Assigned | Downloading | Loading | Started | Progress
LiveEvent = Queued | Provisioning | Assigned | Downloading | Loading | Started | Progress | Preview | Delta
Terminal = Completed | Failed | Cancelled | Expired
StoredRecord = Terminal | Superseded
"""What the last message under a job's result subject may be."""
JobEvent = LiveEvent | Terminal
