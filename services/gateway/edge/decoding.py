"""From bytes and texts of a request to Structs; what does not fit is a RequestError 400. Pure."""

from typing import TypeVar

import msgspec

from services.gateway.edge.problems import RequestError

T = TypeVar("T")


def decode(kind: type[T], body: bytes) -> T:
    """The request in a body. Raises RequestError 400 with the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(400, f"the body is not valid JSON: {error}", code="invalid_json") from error


def invalid(error: msgspec.ValidationError, below: str = "") -> RequestError:
    message, _, at = str(error).partition(" - at `$")
    field = (below + at.rstrip("`")).lstrip(".")
    if not field and "missing required field `" in message:
        field = message.split("`")[1]
    return RequestError(400, message, field=field or None, code="invalid_value")
