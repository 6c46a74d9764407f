"""From a payload to a call of a function: validated against its schema, its models found. Pure."""

from typing import Any

from msgspec import convert
from msgspec.json import encode

from stoker.functions.file_inputs import with_files_named
from stoker.functions.payload_check import PayloadCheck, too_large
from stoker.functions.payload_types import PayloadType
from stoker.schemas.catalog import Function, Model
from stoker.schemas.jobs import FunctionInput, JobInput
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.file_names import may_name_a_file
from stoker.services.process.json_schemas import JsonSchema

PATTERN = b'"pattern":'
FILE_NAMES = (
    "send a file's id (file-…), an https: URL, the url of a job's file (/v1/jobs/ID/files/0), or a data: URL "
    "in base64"
)
MAX_CHECKS = 500
"""Functions whose checks are kept ready."""
_Checks = tuple[PayloadType | None, PayloadCheck | None, JsonSchema | None]
_checks: dict[int, tuple[Function, _Checks]] = {}
"""By the identity of the function, which is kept with them so that it stays its own."""


def function_input(payload: Any, model: Model) -> FunctionInput:
    """A call of a function: the payload fits its schema, and every model key is known.

    Raises RequestError 400 with the field, 422 with the keys.
    """
    function = model.function
    assert function is not None
    if not isinstance(payload, dict):
        raise RequestError(400, "the payload must be an object", code="invalid_value")
    payload = _checked(function, payload)
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


def _checked(function: Function, payload: dict[str, Any]) -> dict[str, Any]:
    """The payload, with its files as the function has them, if it is what that takes.

    Raises RequestError 400 with the field and the reason.
    """
    described, types, schema = _checks_of(function)
    if described is not None:
        files: dict[str, str] = {}
        payload = with_files_named(described, payload, files)
        for place, text in files.items():
            if not may_name_a_file(text):
                message = f"{place}: {text[:100]!r} names no file: {FILE_NAMES}"
                raise RequestError(400, message, field=place, code="validation")
    if (wrong := types.misfit(payload) if types is not None else None) or (wrong := too_large(payload)):
        field, reason = wrong.field, wrong.reason
    elif schema is not None and (other := schema.misfit(payload)) is not None:
        field, reason = other.field, other.message
    else:
        return payload
    raise RequestError(400, f"{field}: {reason}" if field else reason, field=field or None, code="validation")


def files_of(function: Function, payload: Any) -> dict[str, str]:
    """What names each file of a payload, by its place."""
    described, _, _ = _checks_of(function)
    files: dict[str, str] = {}
    if described is not None:
        with_files_named(described, payload, files)
    return files


def _checks_of(function: Function) -> _Checks:
    """Kept for the functions that were called last: to make them takes longer than to use them."""
    found = _checks.pop(id(function), None)
    if found is None:
        described = convert(function.input_type, PayloadType) if function.input_type else None
        # patterns are the schema's part, with its limit on backtracking
        needs_schema = described is None or PATTERN in encode(function.input_schema)
        types = PayloadCheck(described) if described is not None else None
        schema = JsonSchema(function.input_schema) if needs_schema else None
        found = function, (described, types, schema)
    _checks[id(function)] = found
    if len(_checks) > MAX_CHECKS:
        del _checks[next(iter(_checks))]
    return found[1]


def placed_by(asked: JobInput) -> str:
    """The model that decides where an input runs, "" for the one that was asked: a function's first model."""
    return next(iter(asked.models.values()), "") if isinstance(asked, FunctionInput) else ""
