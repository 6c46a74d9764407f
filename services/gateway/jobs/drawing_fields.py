"""The fields that all ways to ask for a picture share: their ranges, and the model's defaults. Pure."""

from typing import Any

from schemas.catalog import Model
from schemas.drawing import MAX_CLIP_SKIP, DrawingFields
from services.gateway.edge.problems import RequestError
from services.gateway.jobs.request_rules import within


def as_asked(asked: DrawingFields) -> dict[str, Any]:
    """The shared fields of a request, by name, to ask in another form for the same."""
    return {name: getattr(asked, name) for name in DrawingFields.__struct_fields__}


def drawn_with(asked: DrawingFields, model: Model) -> dict[str, Any]:
    """What an ImageInput has of them. Raises RequestError 400 for what is out of range."""
    within(asked.clip_skip, 1, MAX_CLIP_SKIP, "clip_skip")
    return defaults_of(model) | {
        name: value for name in ("prompt_weights", "clip_skip") if (value := getattr(asked, name)) is not None
    }


def defaults_of(model: Model) -> dict[str, Any]:
    """The model's own of them."""
    return {name: model.defaults[name] for name in ("prompt_weights", "clip_skip") if name in model.defaults}


def whole_number(value: Any, field: str) -> int | None:
    """A number as clients of A1111 write it: 2, 2.0 or "2". Raises RequestError 400."""
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or not number.is_integer():
        message = f"{field} must be a whole number, not {str(value)[:40]!r}"
        raise RequestError(400, message, field=field, code="invalid_value")
    return int(number)
