"""Messages of a later version: what an unknown word in them is read as.

Services of two versions run beside each other while an installation is updated. A later one may say more
(unknown fields are skipped) and use words that this one does not know: a tier, a kind of failure. Each set of
words says here how an unknown one is read: as the word that promises least. A word without such a rule makes
the message unreadable.
"""

import re
from typing import Any, get_args

import msgspec
from msgspec import inspect

from stoker.schemas.catalog import Feature
from stoker.schemas.fleet import EventKind, ReplicaPhase
from stoker.schemas.job_events import FailureKind
from stoker.schemas.jobs import Status
from stoker.schemas.workers import Outcome, Tier

LEFT_OUT = object()
"""Read a list as if an unknown word were not in it."""

Words = frozenset[Any]

UNKNOWN_IS: dict[Words, Any] = {
    frozenset(get_args(Tier)): "cold",
    frozenset(get_args(FailureKind)): "internal",
    frozenset((*get_args(FailureKind), "")): "internal",
    frozenset(get_args(Outcome)): "lost",
    frozenset(get_args(Status)): "running",
    frozenset(get_args(EventKind)): "other",
    frozenset(get_args(ReplicaPhase)): "starting",
    frozenset(get_args(Feature)): LEFT_OUT,
    frozenset(("LeastLoad", "PrefixHash")): "LeastLoad",
}
MAX_WORDS = 100
"""Unknown words that one message may have."""
_PLACE = re.compile(r" - at `\$(.*)`$")
_STEP = re.compile(r"\.([A-Za-z_0-9]+)|\[(\d+)\]")


def read_newer(kind: Any, payload: bytes) -> Any:
    """A message with unknown words, as `kind`. Raises msgspec.DecodeError when it is wrong in another way."""
    plain = msgspec.json.decode(payload)
    for _ in range(MAX_WORDS):
        try:
            return msgspec.convert(plain, kind)
        except msgspec.ValidationError as error:
            if not _replaced(kind, plain, str(error)):
                raise
    raise msgspec.ValidationError(f"over {MAX_WORDS} unknown words")


def _replaced(kind: Any, plain: Any, error: str) -> bool:
    """Put a known word in the place of the unknown one of an error; whether there is a rule for it."""
    place = _PLACE.search(error)
    if not error.startswith("Invalid enum value") or place is None:
        return False
    steps = [name or int(index) for name, index in _STEP.findall(place[1])]
    if not steps or "".join(f".{one}" if isinstance(one, str) else f"[{one}]" for one in steps) != place[1]:
        return False
    *way, last = steps
    node: Any = plain
    form: inspect.Type | None = inspect.type_info(kind)
    for step in way:
        form = _inside(form, node, step)
        node = node[step]
    words = _words(_inside(form, node, last))
    if words not in UNKNOWN_IS:
        return False
    if UNKNOWN_IS[words] is LEFT_OUT:
        del node[last]
    else:
        node[last] = UNKNOWN_IS[words]
    return True


def _inside(form: inspect.Type | None, node: Any, step: str | int) -> inspect.Type | None:
    """The type of one field, or of one element, of a value."""
    match _chosen(form, node):
        case inspect.StructType(fields=fields):
            return next((field.type for field in fields if field.encode_name == step), None)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return item
        case _:
            return None


def _chosen(form: inspect.Type | None, node: Any) -> inspect.Type | None:
    """Of a union, the type that a value is of."""
    if not isinstance(form, inspect.UnionType):
        return form
    for one in form.types:
        if isinstance(one, inspect.StructType) and isinstance(node, dict):
            if one.tag is None or node.get(one.tag_field) == one.tag:
                return one
        elif isinstance(one, inspect.ListType | inspect.VarTupleType) and isinstance(node, list):
            return one
    return None


def _words(form: inspect.Type | None) -> Words:
    """The words that a value may be."""
    types = form.types if isinstance(form, inspect.UnionType) else (form,)
    return frozenset(word for one in types if isinstance(one, inspect.LiteralType) for word in one.values)
