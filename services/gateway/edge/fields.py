"""The table of fields (schemas/fields.py), obeyed: what of a request nobody reads is refused, or told. Pure."""

from collections.abc import Mapping
from typing import Any

from stoker.schemas.fields import TEXT_ENGINES, Rule
from stoker.services.gateway.edge.problems import RequestError

TEXT = frozenset(TEXT_ENGINES)


def lost(unread: Mapping[str, Any], rules: Mapping[str, Rule]) -> list[str]:
    """The fields without which a request is served. unread: those that nobody reads, with their values.

    Raises RequestError 400 for one that may not be left out.
    """
    found: list[str] = []
    for name, value in unread.items():
        rule = rules.get(name)
        if rule is None or rule.fate != "refused":
            found.append(name)
        elif value not in rule.harmless:
            raise _refused(name, f"{name} is not supported: {rule.note}")
    return found


def check_engines(asked: Any, rules: Mapping[str, Rule], engines: frozenset[str]) -> None:
    """Raises RequestError 400 for a field that some engine of the model cannot honour.

    asked: a request, with fields of these names where they are given.
    """
    for name, rule in rules.items():
        if not rule.only or getattr(asked, name, None) in (None, "", ()):
            continue
        if unable := (engines & TEXT) - set(rule.only):
            raise _refused(name, f"{name} is not supported by the engine {min(unable)} of this model")


def _refused(name: str, message: str) -> RequestError:
    return RequestError(400, message, field=name, code="unsupported_value")
