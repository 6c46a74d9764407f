"""JSON schemas that strangers send: checked, and values checked against them.

By jsonschema-rs: its regular expressions have a limit on backtracking, so that no pattern takes hours. Nothing
is fetched for a `$ref` that points elsewhere.
"""

from dataclasses import dataclass
from typing import Any

import jsonschema_rs

MOST_DEPTH = 64
"""Of a schema's nesting."""
BACKTRACK_LIMIT = 100_000
_PATTERNS = jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACK_LIMIT)


class BadSchema(ValueError):
    """It is no JSON schema, or refers to another that is not here."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """What of a value does not fit. field: its place, with dots; "": the value itself."""

    field: str
    message: str


def _refuse(uri: str) -> Any:
    raise BadSchema(f"{uri} is not fetched: put it into the schema's $defs")


class JsonSchema:
    """A schema, ready to check values. Raises BadSchema."""

    def __init__(self, schema: Any) -> None:
        if _is_deeper(schema, MOST_DEPTH):
            raise BadSchema(f"the schema is nested deeper than {MOST_DEPTH}")
        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                schema, pattern_options=_PATTERNS, retriever=_refuse
            )
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            raise BadSchema(_short(error)) from error

    def misfit(self, value: Any) -> Misfit | None:
        """The first thing that does not fit; None when all does."""
        found = next(iter(self._validator.iter_errors(value)), None)
        if found is None:
            return None
        return Misfit(".".join(str(part) for part in found.instance_path), found.message)


def _is_deeper(value: Any, most: int) -> bool:
    """Whether it is nested deeper than so many levels."""
    level = [value]
    for _ in range(most):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list | tuple)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def _short(error: Exception) -> str:
    """What is wrong, without the schema itself."""
    return str(getattr(error, "message", error)).partition("\n")[0][:300]
