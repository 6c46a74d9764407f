"""Selectors of models by their labels, as Kubernetes and KubeAI write them. Pure but for the context variable.

`tenancy=red`, `tier!=paid`, `zone in (a, b)`, `zone notin (c)`, `public`, `!internal`; several with commas
between them, or in several headers `X-Label-Selector`: each must hold. A model that does not match is not
there: 404, and in no list.
"""

import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from stoker.services.gateway.edge.problems import RequestError

HEADER = b"x-label-selector"
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?"
_ONE = re.compile(
    rf"\s*(?:(?P<not>!)\s*(?P<absent>{_NAME})"
    rf"|(?P<name>{_NAME})\s*(?:(?P<sign>==?|!=)\s*(?P<value>{_NAME}|)"
    rf"|\s(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*(?:,|$)"
)
HOW = "write it as tenancy=red, tier!=paid, zone in (a, b), zone notin (c), public or !internal"


@dataclass(frozen=True, slots=True)
class Requirement:
    """A label and the values it may have. values: empty where it only has to be there. is_not: the opposite
    holds, which a label that is not there fulfils.
    """

    label: str
    values: frozenset[str] = frozenset()
    is_not: bool = False

    def holds(self, labels: Mapping[str, str]) -> bool:
        found = labels.get(self.label)
        is_met = found is not None and (not self.values or found in self.values)
        return is_met != self.is_not


Selector = tuple[Requirement, ...]

current_selector: ContextVar[Selector] = ContextVar("current_selector", default=())
"""Of the request that is served."""


def parse(texts: Iterable[str]) -> Selector:
    """What each of the texts asks for. Raises RequestError 400."""
    return tuple(one for text in texts for one in _requirements(text))


def _requirements(text: str) -> list[Requirement]:
    found: list[Requirement] = []
    at = 0
    while at < len(text):
        match = _ONE.match(text, at)
        if match is None:
            raise RequestError(
                400, f"{text[at:].strip()[:100]!r} is no label selector; {HOW}",
                field="X-Label-Selector", code="invalid_selector",
            )  # fmt: skip
        found.append(_requirement(match))
        at = match.end()
    return found


def _requirement(match: "re.Match[str]") -> Requirement:
    if match["absent"]:
        return Requirement(match["absent"], is_not=True)
    if match["sign"]:
        return Requirement(match["name"], frozenset({match["value"]}), is_not=match["sign"] == "!=")
    if match["set"]:
        values = frozenset(value.strip() for value in match["values"].split(","))
        return Requirement(match["name"], values, is_not=match["set"] == "notin")
    return Requirement(match["name"])


def selects(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether a model with these labels is there for who sent the selector."""
    return all(one.holds(labels) for one in selector)
