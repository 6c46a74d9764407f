"""Errors of the HTTP edge and the bodies of their answers. Pure.

`RequestError` is what pure code raises (error_mapping.py says what every other error means). The routes of
OpenAI's, Anthropic's and Ollama's APIs answer with error objects of theirs, all others with RFC 9457 problem
details.
"""

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from stoker.schemas.anthropic import AnthropicError, AnthropicErrorAnswer
from stoker.schemas.ollama import OllamaErrorAnswer
from stoker.schemas.openai import ErrorAnswer, ErrorBody

PROBLEM_JSON = "application/problem+json"
JSON = "application/json"
Dialect = Literal["problem", "openai", "anthropic", "ollama"]
"""Whose form the errors of a path have."""
DialectAt = Callable[[str], Dialect]
"""Says it of a path."""
PREFIXES: tuple[tuple[str, Dialect], ...] = (
    ("/v1/messages", "anthropic"),
    ("/v1/", "openai"),
    ("/openai/", "openai"),
    ("/api/", "ollama"),
)
RETRY_AFTER_S = 1
"""When to ask again after something that passes: a reconnection, an election."""

TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Timed out",
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


MB = 1024 * 1024


def too_large(what: str, most: int, size: int | None = None) -> RequestError:
    """An upload beyond its limit. what: is sent. most, size: bytes; None: not known."""
    has = f", not {size}" if size is not None else ""
    message = f"{what} has at most {most} bytes ({most // MB} MB){has}: send it in several"
    return RequestError(413, message, field="file", code="file_too_large")


def stopping() -> RequestError:
    """The gateway stops before the answer is there."""
    return RequestError(503, "this gateway stops; ask again", code="stopping", retry_after_s=RETRY_AFTER_S)


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


_ANTHROPIC_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    507: "overloaded_error",
}


def anthropic_error(error: RequestError) -> AnthropicErrorAnswer:
    kind = _ANTHROPIC_KINDS.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return AnthropicErrorAnswer(AnthropicError(kind, _with_field(error)))


def ollama_error(error: RequestError) -> OllamaErrorAnswer:
    return OllamaErrorAnswer(_with_field(error))


def _with_field(error: RequestError) -> str:
    """The message, for answers that have no other place for the field."""
    if error.field and error.field not in error.message:
        return f"{error.field}: {error.message}"
    return error.message


def answer_body(error: RequestError, dialect: Dialect) -> tuple[Any, str]:
    """Body and media type of an error's answer."""
    match dialect:
        case "openai":
            return openai_error(error), JSON
        case "anthropic":
            return anthropic_error(error), JSON
        case "ollama":
            return ollama_error(error), JSON
        case "problem":
            return problem(error), PROBLEM_JSON


def dialect_of(path: str) -> Dialect:
    """What who asks for a path that is not there understands."""
    return next((dialect for prefix, dialect in PREFIXES if path.startswith(prefix)), "problem")
