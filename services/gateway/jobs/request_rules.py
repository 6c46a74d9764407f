"""What every request is held to: the model that it names, and values within their ranges. Pure."""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from stoker.schemas.catalog import Feature, Model
from stoker.schemas.subjects import BadName, check_name
from stoker.services.gateway.edge.decoding import invalid
from stoker.services.gateway.edge.problems import RequestError

MAX_STEPS = 150
MAX_SEED = 2**32 - 1
OFF = -1
"""No limit, or by chance: so say the clients of llama.cpp, LM Studio, vLLM and A1111."""

T = TypeVar("T")


def split_adapter(name: str, models: Mapping[str, Model]) -> tuple[Model, str]:
    """The model that a request names, and the adapter in `model_adapter`. Raises RequestError 404."""
    found = models.get(name)
    if found is not None:
        return found, ""
    for model in models.values():
        for adapter in model.adapter_names():
            if name == f"{model.name}_{adapter}":
                return model, adapter
    try:
        check_name(name)
    except BadName as error:
        raise RequestError(400, f"model: {error}", field="model", code="invalid_value") from error
    known = ", ".join(sorted(models)) or "none is configured"
    raise RequestError(
        404, f"there is no model {name!r}; known are: {known}", field="model", code="model_not_found"
    )


def need(model: Model, feature: Feature) -> None:
    """Raise RequestError 400 when a model cannot do this kind of work."""
    if feature not in model.features:
        can = ", ".join(model.features)
        raise RequestError(
            400, f"{model.name!r} does not do {feature}; it does {can}", field="model", code="wrong_feature"
        )


def within(value: float | None, low: float, high: float, field: str) -> None:
    """Raise RequestError 400 for a value outside its range; None is inside every range."""
    if value is not None and not low <= value <= high:
        given = f"{value:g}" if abs(value) < sys.float_info.max else "a number of that size"
        raise RequestError(
            400,
            f"{field} must be between {low:g} and {high:g}, not {given}",
            field=field,
            code="invalid_value",
        )


@contextmanager
def in_their_words(names: Mapping[str, str]) -> Iterator[None]:
    """Inside, what is wrong with a request is said with the field's name in the API that the client speaks.

    names: fields as OpenAI's chats call them, or pictures here, and as that API does. Raises RequestError.
    """
    try:
        yield
    except RequestError as error:
        if (found := re.match(r"\w+", error.field or "")) is None or found[0] not in names:
            raise
        theirs = names[found[0]]
        error.message = re.sub(rf"\b{found[0]}\b", theirs, error.message)
        error.field = theirs
        raise


def converted(value: Any, kind: type[T], below: str = "input") -> T:
    """A part of a body as `kind`. below: where in the body it is. Raises RequestError 400."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise invalid(error, below) from error
