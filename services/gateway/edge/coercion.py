"""Bodies for servers that convert what they are sent, as pydantic does: "20" for a number, 1 for true. Pure."""

from collections.abc import Mapping
from typing import Any, get_args

import msgspec

_WORDS = {word: True for word in ("1", "on", "t", "true", "y", "yes")}
_WORDS |= {word: False for word in ("0", "off", "f", "false", "n", "no")}


def as_bool(value: Any) -> Any:
    """True or false as it may be written; anything else as it is."""
    if isinstance(value, str):
        return _WORDS.get(value.strip().lower(), value)
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else value


def coerced(given: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """The same values of a Struct's fields as the Struct has them, where they can be read as such."""
    found = dict(given)
    for field in msgspec.structs.fields(kind):
        if field.encode_name in found:
            kinds = get_args(field.type) or (field.type,)
            found[field.encode_name] = _coerced(found[field.encode_name], kinds)
    return found


def _coerced(value: Any, kinds: tuple[Any, ...]) -> Any:
    if value is None or isinstance(value, list | dict):
        return value
    if bool in kinds:
        return as_bool(value)
    if int in kinds or float in kinds:
        return int(value) if isinstance(value, bool) else value.strip() if isinstance(value, str) else value
    return str(value) if str in kinds and not isinstance(value, bool) else value
