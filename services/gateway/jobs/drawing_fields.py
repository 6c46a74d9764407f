"""The fields that all ways to ask for a picture share: their ranges, and the model's defaults. Pure."""

from typing import Any

import msgspec

from stoker.schemas.catalog import Model
from stoker.schemas.drawing import (
    MAX_CLIP_SKIP,
    UPSCALERS,
    Control,
    DrawingFields,
    HiresFix,
    Variation,
    upscaler_named,
)
from stoker.schemas.jobs import ImageInput, JobInput
from stoker.services.gateway.edge.encoded import decoded
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.file_names import REMOTE
from stoker.services.gateway.jobs.request_rules import MAX_SEED, MAX_STEPS, OFF, within

DEFAULTS = ("prompt_weights", "clip_skip")
"""Those that a model may have a default of."""
MAX_SCALE = 4.0
MAX_CONTROL = 2.0
MAX_EDGE_PX = 2048


def as_asked(asked: DrawingFields) -> dict[str, Any]:
    """The shared fields of a request, by name, to ask in another form for the same."""
    return {name: getattr(asked, name) for name in DrawingFields.__struct_fields__}


def drawn_with(asked: DrawingFields, model: Model) -> dict[str, Any]:
    """What an ImageInput has of them. Raises RequestError 400 for what is out of range."""
    within(asked.clip_skip, 1, MAX_CLIP_SKIP, "clip_skip")
    own = {name: value for name in DEFAULTS if (value := getattr(asked, name)) is not None}
    found = defaults_of(model) | own | {"tiling": bool(asked.tiling)}
    control = _control(asked, model)
    if control is not None and asked.enable_hr:
        message = "controlnet and enable_hr do not go together: leave one out"
        raise RequestError(400, message, field="enable_hr", code="unsupported_value")
    return found | {"hires": _hires(asked), "variation": _variation(asked), "control": control}


def controlnets_of(model: Model) -> set[str]:
    """The names of a model's ControlNets."""
    return {name for spec in model.specs for name in spec.options.get("controlnets") or {}}


def _control(asked: DrawingFields, model: Model) -> Control | None:
    """Raises RequestError 400."""
    given = asked.controlnet
    if given is None:
        return None
    known = controlnets_of(model)
    if given.model not in known:
        names = ", ".join(sorted(known)) or "none is configured"
        message = f"{model.name} has no ControlNet {given.model!r}; known are: {names}"
        raise RequestError(400, message, field="controlnet.model", code="invalid_value")
    within(given.weight, 0, MAX_CONTROL, "controlnet.weight")
    within(given.guidance_start, 0, 1, "controlnet.guidance_start")
    within(given.guidance_end, 0, 1, "controlnet.guidance_end")
    if given.guidance_start >= given.guidance_end:
        message = "controlnet.guidance_end must be beyond guidance_start"
        raise RequestError(400, message, field="controlnet.guidance_end", code="invalid_value")
    url = given.image if REMOTE.match(given.image) else ""
    image = b"" if url else decoded(given.image)
    if not url and not image:
        message = "controlnet.image must be a picture as base64 or as a URL"
        raise RequestError(400, message, field="controlnet.image", code="invalid_value")
    return Control(given.model, image, given.weight, given.guidance_start, given.guidance_end, url)


def _variation(asked: DrawingFields) -> Variation | None:
    """Raises RequestError 400."""
    within(asked.subseed, OFF, MAX_SEED, "subseed")
    within(asked.subseed_strength, 0, 1, "subseed_strength")
    subseed = OFF if asked.subseed is None else asked.subseed
    return Variation(subseed, asked.subseed_strength) if asked.subseed_strength else None


def _hires(asked: DrawingFields) -> HiresFix | None:
    """Raises RequestError 400."""
    if not asked.enable_hr:
        return None
    within(asked.hr_scale, 1, MAX_SCALE, "hr_scale")
    within(asked.hr_second_pass_steps, 0, MAX_STEPS, "hr_second_pass_steps")
    within(asked.hr_resize_x, 0, MAX_EDGE_PX, "hr_resize_x")
    within(asked.hr_resize_y, 0, MAX_EDGE_PX, "hr_resize_y")
    within(asked.denoising_strength, 0, 1, "denoising_strength")
    upscaler = upscaler_named(asked.hr_upscaler) if asked.hr_upscaler else ""
    if upscaler is None:
        message = f"there is no upscaler {asked.hr_upscaler!r} for hires fix; there are {', '.join(UPSCALERS)}"
        raise RequestError(400, message, field="hr_upscaler", code="invalid_value")
    given: dict[str, Any] = {
        "scale": asked.hr_scale,
        "width": asked.hr_resize_x,
        "height": asked.hr_resize_y,
        "steps": asked.hr_second_pass_steps,
        "strength": asked.denoising_strength,
    }
    return HiresFix(upscaler=upscaler, **{name: one for name, one in given.items() if one is not None})


def check_second_size(drawn: ImageInput) -> None:
    """Raises RequestError 400 where the second pass would be larger than anything is drawn."""
    if drawn.hires is None or not drawn.width or not drawn.height:
        return  # the engine knows the size
    width, height = drawn.hires.size(drawn.width, drawn.height)
    if not 0 < min(width, height) <= max(width, height) <= MAX_EDGE_PX:
        field = "hr_resize_x" if drawn.hires.width or drawn.hires.height else "hr_scale"
        message = f"{field}: hires fix would draw {width}x{height}, and an edge is {MAX_EDGE_PX} pixels at most"
        raise RequestError(400, message, field=field, code="invalid_value")


def check_from_a_picture(drawn: ImageInput) -> None:
    """Raises RequestError 400 for what is not done to a picture that is sent."""
    for field, is_asked in (("enable_hr", drawn.hires), ("subseed_strength", drawn.variation)):
        if is_asked is not None:
            message = f"{field} is for drawing from text: leave it out where a picture is sent"
            raise RequestError(400, message, field=field, code="unsupported_value")


def with_subseed(drawn: JobInput, seed: int) -> JobInput:
    """The same; a variation towards a seed by chance has this one."""
    if not isinstance(drawn, ImageInput) or drawn.variation is None or drawn.variation.seed >= 0:
        return drawn
    chosen = Variation(seed & MAX_SEED, drawn.variation.strength)
    return msgspec.structs.replace(drawn, variation=chosen)


def defaults_of(model: Model) -> dict[str, Any]:
    """The model's own of them."""
    return {name: model.defaults[name] for name in DEFAULTS if name in model.defaults}


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
