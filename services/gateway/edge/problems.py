"""Errors of the HTTP edge and the bodies of their answers. Pure.

`RequestError` is what pure code raises (error_mapping.py says what every other error means). OpenAI routes
answer with OpenAI error objects, all others with RFC 9457 problem details.
"""

from typing import Any

import msgspec

from schemas.openai import ErrorAnswer, ErrorBody

PROBLEM_JSON = "application/problem+json"
RETRY_AFTER_S = 1
"""When to ask again after something that passes: a reconnection, an election."""

TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "Body too large",
    415: "Not the type that is expected",
    422: "Cannot be done",
    429: "Too many requests",
    499: "Cancelled",
    500: "Internal error",
    503: "Unavailable",
    504: "Timed out",
}


class RequestError(Exception):
    """What is wrong with a request, or why it could not be served.

    field: path of the wrong field. code: short machine-readable name. retry_after_s: when to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        field: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.code = code
        self.retry_after_s = retry_after_s
        self.headers: dict[str, str] = {}
        """More headers of the answer."""


DISK_RETRY_S = 10


def disk_full(found: str) -> RequestError:
    """The disk of the NATS server has no room for another job."""
    message = f"no job is accepted: the disk of the NATS server is nearly full ({found}); make room there"
    return RequestError(507, message, code="insufficient_storage", retry_after_s=DISK_RETRY_S)


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None


def problem(error: RequestError) -> Problem:
    return Problem(
        type=f"urn:stoker:{error.code}" if error.code else "about:blank",
        title=TITLES.get(error.status, "Error"),
        status=error.status,
        detail=error.message,
        field=error.field,
    )


def openai_error(error: RequestError) -> ErrorAnswer:
    if error.status == 429:
        kind = "rate_limit_error"
    elif error.status >= 500:
        kind = "server_error"
    else:
        kind = "invalid_request_error"
    return ErrorAnswer(ErrorBody(error.message, kind, error.field, error.code))


def answer_body(error: RequestError, is_openai: bool) -> tuple[Any, str]:
    """Body and media type of an error's answer."""
    if is_openai:
        return openai_error(error), "application/json"
    return problem(error), PROBLEM_JSON
