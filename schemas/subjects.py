"""Every subject of Stoker, and nothing else writes one.

Names that users choose (models, jobs, gateways, workers) are one token each. A token may hold letters,
digits, `-` and `_` as they are; every other byte of its UTF-8 form is written `=XX`, so that a dot, a
space, `*` or `>` in a model name can never become part of the subject's structure.
"""

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

MAX_NAME_BYTES = 200
"""Longest name (model, job, worker) that is accepted: three times this still fits a subject."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPE = re.compile(r"=([0-9A-F]{2})")
_SEAL = "=S"
"""Between a name and its seal: no escape looks like that."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class BadName(ValueError):
    """A name that cannot be a subject token: empty, too long, or with control characters."""


def check_name(name: str) -> str:
    """`name` itself. Raises BadName with the reason when it could not travel."""
    if not name:
        raise BadName("a name must not be empty")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise BadName(f"a name is at most {MAX_NAME_BYTES} bytes long")
    if _CONTROL.search(name):
        raise BadName("a name must not contain control characters such as NUL or a newline")
    if _SURROGATE.search(name):
        raise BadName("a name must be valid Unicode")
    return name


def to_token(name: str) -> str:
    """The subject token for a name."""
    if _PLAIN.fullmatch(name):
        return name
    return "".join(chr(byte) if _PLAIN.fullmatch(chr(byte)) else f"={byte:02X}" for byte in name.encode())


def from_token(token: str) -> str:
    """The name that a token stands for; undoes `to_token`."""
    if "=" not in token:
        return token
    latin = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), token)
    return latin.encode("latin-1", "replace").decode("utf-8", "replace")


def last_name(subject: str) -> str:
    """The name in the last token of a subject, without its seal."""
    return opened(subject)[0]


def sealed(job: str, seal: str) -> str:
    """The token under which who has a job's seal speaks of it (services/bus/seals.py); "": it has none."""
    return f"{to_token(job)}{_SEAL}{seal}" if seal else to_token(job)


@lru_cache(8192)  # every piece of a text comes under its job's subject
def opened(subject: str) -> tuple[str, str]:
    """The name in the last token of a subject, and its seal; "" where it has none."""
    token = subject.rsplit(".", 1)[1]
    head, mark, seal = token.rpartition(_SEAL)
    return (from_token(head), seal) if mark else (from_token(token), "")


JOBS_STREAM = "STOKER_JOBS"
RESULTS_STREAM = "STOKER_RESULTS"
EVENTS_STREAM = "STOKER_EVENTS"
HISTORY_STREAM = "STOKER_HISTORY"
RETRIES_STREAM = "STOKER_RETRIES"
WEBHOOKS_STREAM = "STOKER_WEBHOOKS"
QUARANTINE_STREAM = "STOKER_QUARANTINE"
CATALOG_BUCKET = "stoker_catalog"
LEASES_BUCKET = "stoker_leases"
REPLICAS_BUCKET = "stoker_replicas"
KEYS_BUCKET = "stoker_keys"
SECRETS_BUCKET = "stoker_secrets"
CONVERSATIONS_BUCKET = "stoker_conversations"
BLOBS_STREAM = "STOKER_BLOBS"
FILES_STREAM = "STOKER_FILES"
FILES_BUCKET = "stoker_files"
BATCHES_BUCKET = "stoker_batches"
SCHEDULES_BUCKET = "stoker_schedules"
USAGE_BUCKET = "stoker_usage"
UPLOADS_BUCKET = "stoker_uploads"


def of_bucket(bucket: str) -> str:
    """The stream in which a key-value bucket lies."""
    return f"KV_{bucket}"


ANY_GATEWAY = "="
"""Stands in results where an early version had the name of a gateway: no name has this token."""


BATCH = "="
"""Stands for several jobs where a job's name stands otherwise: no name has this token."""


class Wildcard(Enum):
    """Stands for any one token in a pattern."""

    ANY = "*"


ANY = Wildcard.ANY


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects under one prefix (`stoker` unless configured otherwise)."""

    prefix: str = "stoker"

    def job(self, model: str) -> str:
        """Accepted jobs (stream STOKER_JOBS)."""
        return f"{self.prefix}.jobs.{to_token(model)}"

    def requests(self) -> str:
        """Requests of clients as messages; one of the gateways answers each as it answers HTTP."""
        return f"{self.prefix}.requests"

    def calls(self) -> str:
        """Calls that calls make: a worker asks for one of its attempts, one of the gateways answers."""
        return f"{self.prefix}.calls"

    def out(self, gateway: str | Wildcard, job: str, seal: str = "") -> str:
        """Deltas, progress, previews and queue positions of a job, on their way to its gateway."""
        token = "*" if isinstance(gateway, Wildcard) else to_token(gateway)
        return f"{self.prefix}.out.{token}.{sealed(job, seal)}"

    def texts(self, gateway: str) -> str:
        """Deltas of several jobs of a gateway in one message; no job has this token."""
        return f"{self.prefix}.out.{to_token(gateway)}.{BATCH}"

    def pace(self, gateway: str) -> str:
        """How large the pieces of text should be that workers send to a gateway."""
        return f"{self.prefix}.pace.{to_token(gateway)}"

    def result(self, job: str, seal: str = "") -> str:
        """How a job ended, or which attempt may end it, whoever accepted it (stream STOKER_RESULTS)."""
        return f"{self.prefix}.result.{ANY_GATEWAY}.{sealed(job, seal)}"

    def verdict(self, term: int, job: str, seal: str = "") -> str:
        """What the leader of a term writes to `result`: the stream takes those of the newest term alone."""
        return f"{self.prefix}.verdict.{term}.{sealed(job, seal)}"

    def ended(self, job: str, seal: str = "") -> str:
        """A record of `result`, told by the server once it is stored."""
        return f"{self.prefix}.ended.{sealed(job, seal)}"

    def quarantine(self, source: str) -> str:
        """Messages that could not be handled (stream STOKER_QUARANTINE)."""
        return f"{self.prefix}.quarantine.{to_token(source)}"

    def blob(self, name: str, part: int) -> str:
        """A part of a blob (stream STOKER_BLOBS)."""
        return f"{self.prefix}.blob.{name}.{part}"

    def file(self, token: str, part: int) -> str:
        """A part of a file of a client, or of a batch's results (stream STOKER_FILES)."""
        return f"{self.prefix}.file.{to_token(token)}.{part}"

    def described(self, worker: str) -> str:
        """What a model takes, found by a worker that has loaded it; a gateway notes it in the catalog."""
        return f"{self.prefix}.described.{to_token(worker)}"

    def sent(self) -> str:
        """Asks every gateway what it has passed on of a job's text."""
        return f"{self.prefix}.sent"

    def webhook(self, job: str) -> str:
        """Terminal events that somebody wants posted (stream STOKER_WEBHOOKS)."""
        return f"{self.prefix}.webhook.{to_token(job)}"

    def worker(self, worker: str, verb: str) -> str:
        """Commands to one worker: assign, cancel, revoke, load, read, unload, drain, replay, ping."""
        return f"{self.prefix}.worker.{to_token(worker)}.{verb}"

    def scheduler(self, verb: str) -> str:
        """Questions to the leading scheduler: job, job_for_sure, jobs, explain, ping, recorded."""
        return f"{self.prefix}.scheduler.{verb}"

    def heartbeat(self, worker: str) -> str:
        """A worker's state, every second and on change."""
        return f"{self.prefix}.heartbeat.{to_token(worker)}"

    def change(self, worker: str) -> str:
        """What of a worker's state has changed since a heartbeat that it said whole."""
        return f"{self.prefix}.change.{to_token(worker)}"

    def use(self) -> str:
        """What gateways tell each other of keys with limits; with a reply subject: what was used today?"""
        return f"{self.prefix}.use"

    def disk(self) -> str:
        """How much room the NATS server's disk has, every second (`stoker up`)."""
        return f"{self.prefix}.disk"

    def solicit(self) -> str:
        """Asks every worker for a whole heartbeat now."""
        return f"{self.prefix}.solicit"

    def solicit_one(self, worker: str) -> str:
        """Asks one worker for a whole heartbeat now."""
        return f"{self.prefix}.solicit.{to_token(worker)}"

    def finished(self, worker: str) -> str:
        """A job of a worker has ended, and its result is stored."""
        return f"{self.prefix}.finished.{to_token(worker)}"

    def cancel(self, job: str) -> str:
        """Cancel a job, wherever it stands."""
        return f"{self.prefix}.cancel.{to_token(job)}"

    def queue(self, model: str) -> str:
        """Depth, running, waits and estimates of a model, on change."""
        return f"{self.prefix}.queue.{to_token(model)}"

    def event(self, kind: str, identity: str) -> str:
        """What happened and why (stream STOKER_EVENTS, a day)."""
        return f"{self.prefix}.events.{to_token(kind)}.{to_token(identity)}"

    def history(self, part: str) -> str:
        """What the scheduler notes of the last day: `jobs` that ended, `samples` of queues (stream
        STOKER_HISTORY).
        """
        return f"{self.prefix}.history.{part}"

    def retry(self, job: str) -> str:
        """A job that did not complete, as it was accepted: it can be run again (stream STOKER_RETRIES)."""
        return f"{self.prefix}.retry.{to_token(job)}"

    def every(self, *tokens: str | Wildcard) -> str:
        """A subscription pattern below the prefix, such as `every("out", gateway, ANY)`.

        Only `ANY` is a wildcard: a job that somebody named "*" is a name like any other.
        """
        return ".".join(
            (self.prefix, *("*" if isinstance(token, Wildcard) else to_token(token) for token in tokens))
        )
