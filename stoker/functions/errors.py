"""Failures of functions, typed, and what of them may be shown.

Raise one of these for a failure with a kind of its own. A ValueError says that the payload makes no sense;
anything else that a function raises is `fatal`.
Messages are redacted (tokens, credentials in URLs, paths) and cut at 500 characters before anyone else sees
them.
"""

import re
import traceback
from typing import Literal, get_args

CallFailure = Literal["validation", "retryable", "resource", "fatal", "auth", "cancelled"]
"""What the failure of a call is, of the kinds that a job's error shows."""

MAX_MESSAGE_CHARS = 500
SHOWN_FRAMES = 3
BAD_PICTURES = ("UnidentifiedImageError", "DecompressionBombError")
"""What Pillow raises for a picture that is none, or is a bomb: the caller has sent it."""
_SECRETS = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@]+@"), r"\1***@"),
    (
        re.compile(r"(?i)(bearer|token|api[_-]?key|password|secret)\b([\"']?\s*[=:]\s*(?:bearer\s+)?|\s+)\S+"),
        r"\1\2***",
    ),
    (re.compile(r"\b(sk|hf|ghp|github_pat|xox[bp])[-_][A-Za-z0-9_-]{8,}"), "***"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,4}"), "***"),  # a JSON Web Token
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA|AGPA|ANPA|ABIA|ACCA)[A-Z0-9]{12,128}\b"), "***"),  # ids of AWS
    (
        re.compile(r"(?:\b[A-Za-z]:|\\\\[\w.$-]+)(?:[\\/]+[^\\/:*?\"'<>|\r\n]+)*[\\/]+([^\\/:*?\"'<>|\s]*)"),
        r"…/\1",
    ),
    (re.compile(r"(?<![\w:/.])(?:/[\w.+-]+){2,}"), lambda match: "…/" + match[0].rsplit("/", 1)[1]),
)


class FunctionError(Exception):
    """Base of the failures below. kind: as a job's error shows it."""

    kind: CallFailure = "fatal"


class ValidationError(FunctionError):
    """The payload makes no sense; the caller must change it."""

    kind = "validation"


class RetryableError(FunctionError):
    """It may work the next time."""

    kind = "retryable"


class ResourceError(FunctionError):
    """There is not enough memory, disk or time."""

    kind = "resource"


class FatalError(FunctionError):
    """It will never work."""

    kind = "fatal"


class AuthError(FunctionError):
    """Credentials are missing or wrong."""

    kind = "auth"


class Cancelled(FunctionError):
    """Raised by `ctx.raise_if_cancelled()`; let it pass."""

    kind = "cancelled"


class CallFailed(RuntimeError):
    """A call of a function or a model did not complete: one that a program made, or another function.

    kind: as in its error. status: of the HTTP answer, 0 for a job's end. field: of the payload, that is wrong.
    job: its id, "" where it was not accepted.
    """

    def __init__(self, message: str, kind: str = "", status: int = 0, field: str = "", job: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.field = field
        self.job = job


PASSING_KINDS = (
    "retryable",
    "resource",
    "timeout",
    "worker_lost",
    "impossible",
    "load_failed",
    "would_miss_deadline",
)
"""Kinds of a failed call after which the same may succeed some other time."""


def redacted(text: str) -> str:
    """A message without secrets and paths, at most 500 characters."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"


def kind_of(error: BaseException) -> CallFailure:
    """The kind of a failure; a project's own failure with a kind of its own making is `fatal`."""
    if isinstance(error, FunctionError):
        return error.kind if error.kind in get_args(CallFailure) else "fatal"
    if isinstance(error, CallFailed):  # of a call that this one has made: its caller's payload is not to blame
        return "resource" if error.kind in PASSING_KINDS else "fatal"
    name = type(error).__name__
    if name in BAD_PICTURES or (isinstance(error, ValueError) and not isinstance(error, UnicodeError)):
        return "validation"
    return "resource" if isinstance(error, MemoryError) or "OutOfMemory" in name else "fatal"


def message_of(error: BaseException, *, with_trace: bool) -> str:
    """What the caller reads; with the last frames of the traceback where that was asked for. Raises nothing."""
    said = _sendable(_said(error))
    if not with_trace:
        return redacted(said)
    frames = traceback.extract_tb(error.__traceback__)[-SHOWN_FRAMES:]
    shown = "".join(f"\n  {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" for frame in frames)
    return _sendable(said + shown)[: 4 * MAX_MESSAGE_CHARS]


def _said(error: BaseException) -> str:
    name = type(error).__name__
    try:
        text = str(error)
    except Exception as broken:  # its own code, which may do anything
        return f"{name}, whose message raised {type(broken).__name__}"
    return text or name if isinstance(error, FunctionError) else f"{name}: {text}"


def _sendable(text: str) -> str:
    """A text without half characters, which no message can hold."""
    return text.encode("utf-8", "backslashreplace").decode()
