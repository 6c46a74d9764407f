"""From a discovery request to an image job: what the model's schema knows, and nothing else. Pure."""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from stoker.functions.payload_check import too_large
from stoker.schemas.catalog import Model
from stoker.schemas.discovery import Method, Parameter, Schema
from stoker.schemas.jobs import ImageInput
from stoker.services.gateway.edge.encoded import decoded
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.drawing_fields import defaults_of
from stoker.services.gateway.jobs.request_rules import MAX_SEED, MAX_STEPS, within
from stoker.services.gateway.jobs.requests import MAX_GUIDANCE, MAX_PICTURES, check_edges

FILES = ("image", "mask_image", "control_image")
PER_PROMPT = ("num_images_per_prompt", "num_videos_per_prompt")
OWN_FIELDS = ("prompt", "negative_prompt", "width", "height", "num_inference_steps", "guidance_scale")
SEEDS = ("seed", "generator")
"""Where a pipeline takes a generator, a request gives its seed."""
TENSORS = ("latents", "image_latents", "ip_adapter_image_embeds")
"""What pipelines take and no request can say, beside all that ends in `embeds`, `mask` or `kwargs`."""


_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
"""What JSON may give for a type that an annotation names."""
HOLDERS = {"list", "List", "tuple", "Tuple", "Sequence", "Iterable", "dict", "Dict", "Mapping", "Any"}
"""Types that hold others: what stands for a list or an object in an annotation."""


def method_for(schema: Schema, given: Mapping[str, Any]) -> Method:
    """The method that a request means: by the pictures that it brings."""
    own = schema.methods["__call__"]
    wanted = "inpaint" if "mask_image" in given else "image_to_image" if "image" in given else "__call__"
    return own if "image" in own.parameters else schema.methods.get(wanted, own)


def discovered_input(
    schema: Schema, model: Model, given: Mapping[str, Any]
) -> tuple[ImageInput, dict[str, bytes], int | None]:
    """The input without its files, the files, and the seed. Raises RequestError 400."""
    parameters = method_for(schema, given).parameters
    for name in given:
        if name not in SEEDS and name not in parameters:
            raise _unknown(name, parameters, schema)
    missing = [n for n, parameter in parameters.items() if parameter.required and given.get(n) is None]
    if missing:
        raise RequestError(400, f"missing required parameter: {missing[0]}", field=missing[0], code="missing")
    files = {name: _picture(name, given[name]) for name in FILES if given.get(name) is not None}
    values = {
        name: _typed(parameters[name], value)
        for name, value in given.items()
        if name not in (*FILES, *SEEDS) and value is not None
    }
    if (wrong := too_large(values)) is not None:
        name = wrong.field.partition(".")[0]
        raise RequestError(400, f"{wrong.field}: {wrong.reason}", field=name, code="invalid_value")
    seed = _seed(given)
    within(values.get("num_inference_steps"), 1, MAX_STEPS, "num_inference_steps")
    within(values.get("guidance_scale"), 0, MAX_GUIDANCE, "guidance_scale")
    check_edges(values.get("width"), values.get("height"), "width")
    per_prompt = next((name for name in PER_PROMPT if name in values), "")
    n = values.pop(per_prompt, 1)
    within(n, 1, MAX_PICTURES, per_prompt)
    own = {name: values.pop(name) for name in OWN_FIELDS if name in values}
    defaults = {**schema.defaults, **model.defaults}
    for name in ("num_inference_steps", "guidance_scale", *(() if files else ("width", "height"))):
        if name in parameters and name not in own and name in defaults:
            own[name] = defaults[name]
    shared = {name: value for name, value in defaults_of(model).items() if name not in values}
    return ImageInput(**{"prompt": "", **own, **shared}, n=n, parameters=values), files, seed


def _seed(given: Mapping[str, Any]) -> int | None:
    """Raises RequestError 400."""
    name = next((one for one in SEEDS if given.get(one) is not None), "seed")
    seed = given.get(name)
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        message = f"{name} must be a whole number, not {seed!r}"
        raise RequestError(400, message, field=name, code="invalid_value")
    within(seed, 0, MAX_SEED, name)
    return seed


def _unknown(name: str, known: Mapping[str, Parameter], schema: Schema) -> RequestError:
    if name in TENSORS or name.endswith(("_embeds", "_mask", "_kwargs")):
        message = f"{name} cannot be given over HTTP; use seed, prompt and pictures"
        return RequestError(400, message, field=name, code="invalid_value")
    others = [method for method, one in schema.methods.items() if name in one.parameters]
    if others:
        wants = {"image_to_image": "image", "inpaint": "image and mask_image"}.get(others[0], others[0])
        message = f"{name} is a parameter of {' and '.join(others)}: send {wants} too"
        return RequestError(400, message, field=name, code="unknown_parameter")
    close = difflib.get_close_matches(name, [*known, "seed"], 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join([*known, 'seed'])}"
    return RequestError(400, f"unknown parameter {name!r}; {hint}", field=name, code="unknown_parameter")


def _typed(parameter: Parameter, value: Any) -> Any:
    """The value, if it is of a type that the annotation names. Raises RequestError 400."""
    if parameter.name in OWN_FIELDS and not isinstance(value, str | int | float):
        message = f"{parameter.name} takes one value, not {_kind_of(value)}: send a request for each"
        raise RequestError(400, message, field=parameter.name, code="invalid_value")
    words = set(re.findall(r"\w+", parameter.annotation))
    allowed = [kind for name, kinds in _KINDS.items() if name in words for kind in kinds]
    is_one = isinstance(value, str | int | float) or not words & HOLDERS
    if allowed and is_one and type(value) not in allowed:
        message = f"{parameter.name} must be {parameter.annotation}, not {value!r}"
        raise RequestError(400, message, field=parameter.name, code="invalid_value")
    return value


def _kind_of(value: Any) -> str:
    return "a list" if isinstance(value, list) else "an object"


def _picture(name: str, value: Any) -> bytes:
    """The bytes of a picture given as base64 or as a data URL. Raises RequestError 400."""
    if isinstance(value, str):
        content = decoded(value)
        if content:
            return content
    raise RequestError(
        400, f"{name} must be a picture as base64 or as a data URL", field=name, code="invalid_value"
    )
