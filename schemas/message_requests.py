"""Requests by message, and their answers: the shapes that KubeAI has."""

from typing import Any

import msgspec

DEFAULT_PATH = "/v1/completions"


def _empty() -> msgspec.Raw:
    return msgspec.Raw(b"{}")


class RequestMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """path: of a POST route that takes and gives JSON. metadata: comes back with the answer."""

    path: str = DEFAULT_PATH
    body: msgspec.Raw = msgspec.field(default_factory=_empty)
    metadata: dict[str, Any] = {}


class AnswerMessage(msgspec.Struct, frozen=True):
    """status_code, body: as HTTP would have answered; body is null where that is empty."""

    status_code: int
    body: msgspec.Raw
    metadata: dict[str, Any]
