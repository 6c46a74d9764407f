"""From a payload to a call of a function: validated against its schema, its models found. Pure."""

from typing import Any

from schemas.catalog import Model
from schemas.jobs import FunctionInput, JobInput
from services.gateway.edge.problems import RequestError
from services.process.json_schemas import JsonSchema


def function_input(payload: Any, model: Model) -> FunctionInput:
    """A call of a function: the payload fits its schema, and every model key is known.

    Raises RequestError 400 with the field, 422 with the keys.
    """
    function = model.function
    assert function is not None
    if not isinstance(payload, dict):
        raise RequestError(400, "the payload must be an object", code="invalid_value")
    wrong = JsonSchema(function.input_schema).misfit(payload)
    if wrong is not None:
        message = f"{wrong.field}: {wrong.message}" if wrong.field else wrong.message
        raise RequestError(400, message, field=wrong.field or None, code="validation")
    keys: dict[str, str] = {}
    for ref in function.models:
        default = function.input_schema.get("properties", {}).get(ref.name, {}).get("default")
        key = ref.name if ref.src == "fixed" else payload.get(ref.name, default)
        if key not in function.keys:
            raise RequestError(
                422,
                f"{ref.name}: {key!r} is not a model of this deployment; keys are: {', '.join(function.keys)}",
                field=ref.name,
                code="unknown_model_key",
            )
        keys[ref.parameter] = key
    return FunctionInput(model.name, payload, keys)


def placed_by(asked: JobInput) -> str:
    """The model that decides where an input runs, "" for the one that was asked: a function's first model."""
    return next(iter(asked.models.values()), "") if isinstance(asked, FunctionInput) else ""
