"""Calls that calls make: what a worker asks a gateway for one of its attempts, and what it is answered.

Who asks shows the seal of the job that asks (services/bus/seals.py), which only its worker was told. Whose
the new job is, its priority and its deadline the gateway takes from the books of the scheduler, not from the
worker.
"""

from hashlib import blake2b

import msgspec

from stoker.schemas.ranges import Count

MAX_DEPTH = 8
"""How deep calls may call: a job that a client asked for has depth 0."""
MAX_CHILDREN = 1000
"""Calls that one job may make."""
SHOWN_CHILDREN = 100
"""Of a job's calls, those that are shown with it."""


def parent_mark(parent: str) -> str:
    """What the ids of all calls of a job begin with."""
    return "c" + blake2b(parent.encode(), digest_size=10).hexdigest()


def child_id(parent: str, name: str, payload: bytes, nth: int) -> str:
    """The id of a call: of the job that makes it, what it asks, and how many like it came before."""
    content = b"\0".join((parent.encode(), name.encode(), str(nth).encode(), payload))
    return parent_mark(parent) + blake2b(content, digest_size=10).hexdigest()


class CallAsked(msgspec.Struct, frozen=True, tag="call", tag_field="asks"):
    """Call a function or a model for the job `parent`, or wait on for it. nth: how many like it came before.

    The same question names the same job, whoever asks it and however often.
    """

    parent: str
    name: str
    payload: msgspec.Raw
    nth: Count = 0
    seal: str = ""


class CallLeft(msgspec.Struct, frozen=True, tag="leave", tag_field="asks"):
    """Cancel a call of the job `parent`."""

    parent: str
    job: str
    seal: str = ""


CallQuestion = CallAsked | CallLeft


class UnderWay(msgspec.Struct, frozen=True, tag="under_way", tag_field="answer"):
    """It has not ended: ask again."""

    job: str


def _null() -> msgspec.Raw:
    return msgspec.Raw(b"null")


class Returned(msgspec.Struct, frozen=True, tag="returned", tag_field="answer", omit_defaults=True):
    """It has completed. result: as clients see it. blob: where that lies, if it fits no message."""

    job: str
    result: msgspec.Raw = msgspec.field(default_factory=_null)
    blob: str = ""


class NotReturned(msgspec.Struct, frozen=True, tag="not_returned", tag_field="answer", omit_defaults=True):
    """It did not complete. job: "" where it was not accepted. may_pass: it may be accepted later."""

    kind: str
    message: str
    job: str = ""
    field: str = ""
    may_pass: bool = False


CallAnswer = UnderWay | Returned | NotReturned


class ChildView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call of a job, as its parent shows it. status: as a job's."""

    id: str
    model: str
    status: str = "queued"
