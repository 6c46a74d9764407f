"""What can go wrong over NATS, with names of ours. Every error of nats-py and JetStream is mapped here, once.

A caller must be able to tell three things apart: it is there, it is not there, and nobody could say. The first
is a value. `Missing` is the second. Every other BusError is the third: it may pass, and says nothing about what
is stored.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import nats.errors
from nats.js import errors as js

from stoker.services.process.running import CannotGoOn, CannotStart


class BusError(Exception):
    """Something on the way over NATS went wrong; whether it took effect is not known."""


class CannotConnect(BusError, CannotStart):
    """No NATS server answered in time; says which and what to do."""


class NobodyThere(BusError):
    """A request found no responder: the service or worker does not listen at this moment."""


class NoAnswer(BusError):
    """A request or a publication was not answered in time, or the connection was lost before."""


class Refused(BusError):
    """JetStream has refused this: it did not take effect."""


class StreamFull(Refused):
    """The stream holds as much as it may (`discard=new`)."""


class DiskFull(StreamFull):
    """The NATS server has no room for what a stream reserves, or for a message."""


class TooLarge(Refused):
    """A message is larger than the server takes; it was not sent."""


class ConnectionEnded(BusError, CannotGoOn):
    """The connection is closed for good: what it is for cannot go on."""


class Conflict(Refused):
    """The subject or key has another last message than the writer expected: somebody else was first."""


class Missing(BusError):
    """The stream, bucket, key, object or consumer is not there. That is certain."""


_MISSING = (
    js.NotFoundError,
    js.KeyNotFoundError,
    js.KeyDeletedError,
    js.ObjectNotFoundError,
    js.ObjectDeletedError,
)
_WRONG_LAST_SEQUENCE = 10071
_NO_STORAGE = (10023, 10047)
"""JetStream's codes: insufficient resources, insufficient storage resources."""
_LIMITS = (10077, 10122)
"""JetStream's codes: maximum messages or bytes, message size."""


def of_code(code: int, description: str) -> Refused:
    """The error for a code of JetStream's API."""
    if code == _WRONG_LAST_SEQUENCE:
        return Conflict(description)
    if code in _NO_STORAGE:
        return DiskFull(description)
    if code in _LIMITS or "maximum" in description:
        return StreamFull(description)
    return Refused(f"{description} ({code})")


def of(error: Exception, what: str) -> BusError:
    """The error of ours for one of nats-py's. what: what was being done, for people."""
    text = f"{what}: {str(error) or type(error).__name__}"
    match error:
        case BusError():
            return error
        case js.KeyWrongLastSequenceError():
            return Conflict(text)
        case js.NoKeysError():
            return Missing(text)
        case js.BucketNotFoundError():
            return Missing(text)
        case js.ServiceUnavailableError() | js.NoStreamResponseError():
            return NoAnswer(f"{what}: JetStream does not answer")
        case nats.errors.NoRespondersError():
            return NobodyThere(what)
        case nats.errors.MaxPayloadError():
            return TooLarge(f"{what}: the message is larger than the server takes")
        case nats.errors.ConnectionReconnectingError():
            return NoAnswer(f"{what}: the connection was lost before the answer came")
        case nats.errors.TimeoutError() | TimeoutError():
            return NoAnswer(f"{what}: no answer in time")
        case _ if isinstance(error, _MISSING):
            return Missing(text)
        case js.APIError() if error.err_code:
            return of_code(error.err_code, text)
        case _:
            return BusError(text)


@contextmanager
def named(what: str) -> Iterator[None]:
    """Inside, errors of nats-py are raised as errors of ours. what: what is being done, for people."""
    try:
        yield
    except (nats.errors.Error, js.Error, TimeoutError, OSError) as error:
        raise of(error, what) from error
