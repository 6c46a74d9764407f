"""What travels under each subject: its messages, its answers, and who gives those.

The one table from which services announce what they answer (services/bus/discovery.py), and from which the
AsyncAPI document of the bus is made (services/bus/asyncapi.py). Who may publish and hear is permissions.py's.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from stoker.schemas import subjects as names
from stoker.schemas.batches import BatchRecord, FileRecord
from stoker.schemas.children import CallAnswer, CallQuestion
from stoker.schemas.fleet import (
    CancelAnswer,
    DiskRoom,
    Explanation,
    JobQuery,
    JobsPage,
    JobsQuery,
    JobView,
    ModelReplicas,
    PlatformEvent,
    QueueDepth,
)
from stoker.schemas.heartbeats import HeartbeatChange, Solicitation
from stoker.schemas.history import EndedJobs, Sample
from stoker.schemas.job_events import LiveEvent, StoredRecord, Terminal, TextBatch, TextPace
from stoker.schemas.jobs import Job
from stoker.schemas.keys import ApiKey
from stoker.schemas.message_requests import AnswerMessage, RequestMessage
from stoker.schemas.quarantine import Quarantined
from stoker.schemas.responses import KeptResponse
from stoker.schemas.schedules import ScheduleRecord
from stoker.schemas.subjects import Subjects
from stoker.schemas.usage import DayUse, KeyUse
from stoker.schemas.workers import (
    Assignment,
    AssignmentAnswer,
    Done,
    Finished,
    Heartbeat,
    JobCommand,
    ModelCommand,
    ModelSchema,
    Recorded,
    RecordedQuery,
    Replay,
    ReplayRequest,
    Revocation,
    SentRequest,
    SentText,
)

Service = Literal["gateway", "scheduler", "worker", "autoscaler"]
GATEWAYS = "gateways"
"""The queue group in which one gateway of all takes a message."""
TRACE, MESSAGE_ID, JSON_BYTES = "traceparent", "Nats-Msg-Id", "Stoker-Json-Bytes"
HEADERS = {
    TRACE: "The request's trace, as W3C Trace Context has it.",
    MESSAGE_ID: "The server drops another message with the same within its duplicate window.",
    JSON_BYTES: "Where raw bytes follow the JSON: how many bytes the JSON has.",
}


class Nothing:
    """Stands for a message that may be empty."""


class Bytes:
    """Stands for a message that is no JSON."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Who answers a subject, and with what. queue: "" where all who hear it answer."""

    by: Service
    kind: Any
    queue: str = ""


@dataclass(frozen=True, slots=True)
class Channel:
    """name: an identifier of it. kind: of its messages. subject: with upper-case names for its parameters."""

    name: str
    subject: Callable[[Subjects], str]
    kind: Any
    summary: str
    answered: Answered | None = None
    headers: tuple[str, ...] = ()

    def address(self, prefix: str = "stoker") -> str:
        """The subject with its parameters as `{name}`."""
        tokens = self.subject(Subjects(prefix)).split(".")
        return ".".join(f"{{{token.lower()}}}" if token.isupper() else token for token in tokens)

    @property
    def answer_name(self) -> str:
        """An identifier of the message that answers."""
        return f"{self.name}_answer"

    def parameters(self) -> tuple[str, ...]:
        return tuple(token[1:-1] for token in self.address().split(".") if token.startswith("{"))


def _of_worker(verb: str, kind: Any, answer: Any, summary: str, *headers: str) -> Channel:
    def subject(of: Subjects) -> str:
        return of.worker("WORKER", verb)

    return Channel(f"worker_{verb}", subject, kind, summary, Answered("worker", answer), headers)


def _of_scheduler(verb: str, kind: Any, answer: Any, summary: str) -> Channel:
    def subject(of: Subjects) -> str:
        return of.scheduler(verb)

    return Channel(f"scheduler_{verb}", subject, kind, summary, Answered("scheduler", answer))


def _plain(method: Callable[..., str], kind: Any, *headers: str, answered: Answered | None = None) -> Channel:
    """A subject that one method of Subjects makes; the first line of its docstring says what it carries."""
    taken = [one for one in list(inspect.signature(method).parameters)[1:] if one != "seal"]

    def subject(of: Subjects) -> str:
        return method(of, *(one.upper() for one in taken))

    summary = (inspect.getdoc(method) or "").partition("\n\n")[0].replace("\n", " ")
    return Channel(method.__name__, subject, kind, summary, answered, headers)


def _history(part: str, kind: Any, summary: str) -> Channel:
    def subject(of: Subjects) -> str:
        return of.history(part)

    return Channel(f"history_{part}", subject, kind, summary)


CHANNELS: tuple[Channel, ...] = (
    _plain(Subjects.job, Job, TRACE, MESSAGE_ID),
    _plain(Subjects.requests, RequestMessage, TRACE, answered=Answered("gateway", AnswerMessage, GATEWAYS)),
    _plain(Subjects.calls, CallQuestion, answered=Answered("gateway", CallAnswer, GATEWAYS)),
    _plain(Subjects.sent, SentRequest, answered=Answered("gateway", SentText)),
    _plain(Subjects.use, KeyUse, answered=Answered("gateway", list[KeyUse])),
    _plain(Subjects.out, LiveEvent, JSON_BYTES),
    _plain(Subjects.texts, TextBatch),
    _plain(Subjects.pace, TextPace),
    _plain(Subjects.result, StoredRecord, JSON_BYTES),
    _plain(Subjects.verdict, StoredRecord, JSON_BYTES),
    _plain(Subjects.ended, StoredRecord, JSON_BYTES),
    _plain(Subjects.webhook, Terminal, MESSAGE_ID),
    _plain(Subjects.retry, Job),
    _plain(Subjects.quarantine, Quarantined),
    _plain(Subjects.blob, Bytes),
    _plain(Subjects.file, Bytes),
    _plain(Subjects.described, ModelSchema),
    _plain(Subjects.heartbeat, Heartbeat),
    _plain(Subjects.change, HeartbeatChange),
    _plain(Subjects.solicit, Solicitation),
    _plain(Subjects.solicit_one, Solicitation),
    _plain(Subjects.finished, Finished),
    _plain(Subjects.cancel, Nothing, answered=Answered("scheduler", CancelAnswer)),
    _plain(Subjects.queue, QueueDepth),
    _plain(Subjects.disk, DiskRoom),
    _plain(Subjects.event, PlatformEvent),
    _history("jobs", EndedJobs, "Jobs that ended within a second (stream STOKER_HISTORY)."),
    _history("samples", Sample, "Queues and workers, every ten seconds (stream STOKER_HISTORY)."),
    _of_worker("assign", Assignment, AssignmentAnswer, "Run this job.", TRACE),
    _of_worker("cancel", JobCommand, Done, "Stop an attempt, and end its job as cancelled."),
    _of_worker("revoke", Revocation, Done, "Drop an attempt without a word of its job."),
    _of_worker("replay", ReplayRequest, Replay, "What of a job came after this point?"),
    _of_worker("load", ModelCommand, Done, "Load a model."),
    _of_worker("read", ModelCommand, Done, "Read weights from the disk that will be loaded later."),
    _of_worker("unload", ModelCommand, Done, "Unload a model."),
    _of_worker("drain", Nothing, Done, "Take nothing new, finish what is there, and stop."),
    _of_worker("ping", Nothing, Done, "Is this worker there?"),
    _of_scheduler("job", JobQuery, JobView | None, "Where does a job stand? null, or Done: it is not known."),
    _of_scheduler("job_for_sure", JobQuery, JobView | None, "The same, once every stored job has been read."),
    _of_scheduler("recorded", RecordedQuery, Recorded, "What is stored of a job that this worker has?"),
    _of_scheduler("jobs", JobsQuery, JobsPage, "Jobs, newest first."),
    _of_scheduler("explain", JobQuery, Explanation | None, "Why did a job go where it went?"),
    _of_scheduler("ping", Nothing, Done, "Does a scheduler lead? ok: it places jobs."),
)

VALUES: dict[str, Any] = {
    names.REPLICAS_BUCKET: ModelReplicas,
    names.KEYS_BUCKET: ApiKey,
    names.USAGE_BUCKET: DayUse,
    names.SCHEDULES_BUCKET: ScheduleRecord,
    names.BATCHES_BUCKET: BatchRecord,
    names.FILES_BUCKET: FileRecord,
    names.CONVERSATIONS_BUCKET: KeptResponse,
}
"""What the values of a bucket are; buckets with values of several kinds, or bytes, are not named."""
ENDPOINTS: dict[str, Channel] = {one.name: one for one in CHANNELS if one.answered is not None}
"""The subjects that are answered, by the channel's name."""
