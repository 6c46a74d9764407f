"""Requests of A1111's API as jobs: sampler and schedule as one name, LoRAs written into the prompt. Pure."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from stoker.schemas.a1111 import Img2ImgRequest, Txt2ImgRequest
from stoker.schemas.catalog import Adapter, Model
from stoker.schemas.drawing import MAX_CLIP_SKIP, ControlRequest
from stoker.schemas.jobs import ImageInput
from stoker.schemas.samplers import known_samplers, sampler_named
from stoker.services.gateway.edge.coercion import as_bool, coerced
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.drawing_fields import check_from_a_picture, whole_number
from stoker.services.gateway.jobs.request_rules import in_their_words, within
from stoker.services.gateway.jobs.requests import ImageJobInput, image_input

_LORA = re.compile(r"<lora:([^:<>]+)(?::([^<>]*))?>")
AUTOMATIC = ("", "automatic", "uniform", "normal")
"""Schedules that are the sampler's own."""
DEFAULT_STRENGTH = 0.75
SECOND_OWN = ("hr_checkpoint_name", "hr_sampler_name", "hr_scheduler", "hr_prompt", "hr_negative_prompt")
"""What A1111 can have otherwise in the second pass of hires fix."""
SHARED = (
    "tiling", "subseed", "subseed_strength", "enable_hr", "hr_scale", "hr_upscaler", "hr_second_pass_steps",
    "hr_resize_x", "hr_resize_y", "denoising_strength",
)  # fmt: skip
NAMES = {"num_inference_steps": "steps", "guidance_scale": "cfg_scale", "n": "batch_size times n_iter"}
"""Fields here, and what A1111 calls them."""
FIRST_ONES = ("", "use same checkpoint", "use same sampler", "use same scheduler", "automatic")
CLIP_SKIP = "CLIP_stop_at_last_layers"
SCHEDULES = ("Automatic", "Karras", "Exponential")
NOTHING = (None, False, "", "None", ())
UNSUPPORTED = {
    "restore_faces": "faces are not mended",
    "refiner_checkpoint": "a picture is drawn by one model",
    "script_name": "there are no scripts",
    "styles": "there are no prompt styles: write them into the prompt",
}


def loras_of(models: Mapping[str, Model]) -> dict[str, Adapter]:
    """The LoRAs that modes and styles name, by the name that a prompt may say."""
    found: dict[str, Adapter] = {}
    for model in models.values():
        for style in model.styles:
            found.setdefault(style.id, Adapter(style.id, style.lora, 1.0))
        for spec in model.specs:
            for lora in spec.loras:
                found.setdefault(lora.name, lora)
                stem = lora.url.rpartition("/")[2].rpartition(".")[0]
                found.setdefault(stem, lora)
    return found


def with_loras(prompt: str, known: Mapping[str, Adapter]) -> tuple[str, tuple[Adapter, ...]]:
    """A prompt without its `<lora:NAME:STRENGTH>`, and these. Raises RequestError 400."""
    chosen: list[Adapter] = []
    for name, strength in _LORA.findall(prompt):
        lora = known.get(name)
        if lora is None:
            names = ", ".join(sorted(known)) or "none is configured"
            message = f"there is no LoRA {name!r}; known are: {names}"
            raise RequestError(400, message, field="prompt", code="invalid_value")
        try:
            weight = float(strength or 1.0)
        except ValueError as error:
            message = f"<lora:{name}:{strength}>: the strength is a number"
            raise RequestError(400, message, field="prompt", code="invalid_value") from error
        within(weight, -10, 10, "prompt")
        chosen.append(msgspec.structs.replace(lora, strength=weight))
    return _LORA.sub("", prompt).strip(), tuple(chosen)


def sampler_of(asked: Txt2ImgRequest) -> str:
    """Sampler and schedule as one name; "": the model's own. Raises RequestError 400."""
    name = asked.sampler_name or asked.sampler_index or ""
    schedule = (asked.scheduler or "").lower()
    if not name:
        return ""
    whole = name if schedule in AUTOMATIC or name.lower().endswith(schedule) else f"{name} {schedule}"
    found = sampler_named(whole)
    if found is None:
        message = f"there is no sampler {whole!r}; known are: {known_samplers()}"
        raise RequestError(400, message, field="sampler_name", code="invalid_value")
    return found


def check_supported(asked: Txt2ImgRequest) -> None:
    """Raises RequestError 400 for what would make another picture than the one that is asked for."""
    for name, why in UNSUPPORTED.items():
        if getattr(asked, name) not in NOTHING:
            raise _unsupported(name, why)
    for name in SECOND_OWN if asked.enable_hr else ():
        if str(getattr(asked, name) or "").lower() not in FIRST_ONES:
            raise _unsupported(name, "the second pass is drawn like the first")
    for name in ("seed_resize_from_w", "seed_resize_from_h"):
        if getattr(asked, name) > 0:
            raise _unsupported(name, "noise is made at the size that is drawn")


def control_of(asked: Txt2ImgRequest) -> ControlRequest | None:
    """The unit of the ControlNet extension that is switched on; None without one. Raises RequestError 400."""
    units: list[Any] = []
    for name, script in asked.alwayson_scripts.items():
        if name.lower() != "controlnet":
            raise _unsupported(f"alwayson_scripts.{name}", "of the extensions there is ControlNet")
        args = script.get("args", []) if isinstance(script, dict) else script or []
        if not isinstance(args, list) or not all(one is None or isinstance(one, dict) for one in args):
            message = f"alwayson_scripts.{name}.args must be a list of units, each an object"
            raise RequestError(400, message, field=f"alwayson_scripts.{name}.args", code="invalid_value")
        units += [one for one in args if one is not None]
    field = "alwayson_scripts.controlnet"
    for unit in units:
        if not isinstance(as_bool(unit.get("enabled", True)), bool):
            message = f"{field}.enabled must be true or false, not {unit['enabled']!r}"
            raise RequestError(400, message, field=f"{field}.enabled", code="invalid_value")
    on = [one for one in units if as_bool(one.get("enabled", True))]
    if not on:
        return None
    if len(on) > 1:
        raise _unsupported(field, "one unit at a time")
    (unit,) = on
    if str(unit.get("module") or "none").lower() != "none":
        raise _unsupported(f"{field}.module", "send the picture as the model wants it, and no module")
    image = unit.get("image") or unit.get("input_image")
    image = image.get("image") if isinstance(image, dict) else image
    given = {"model": unit.get("model"), "image": image} | {
        name: unit[name] for name in ("weight", "guidance_start", "guidance_end") if unit.get(name) is not None
    }
    given["model"] = str(given["model"] or "").partition(" [")[0]
    try:
        return msgspec.convert(coerced(given, ControlRequest), ControlRequest, strict=False)
    except msgspec.ValidationError as error:
        raise RequestError(400, f"{field}: {error}", field=field, code="invalid_value") from error


def _unsupported(field: str, why: str) -> RequestError:
    return RequestError(400, f"{field} is not supported: {why}", field=field, code="unsupported_value")


def _clip_skip(asked: Txt2ImgRequest) -> int | None:
    """Raises RequestError 400."""
    field = f"override_settings.{CLIP_SKIP}"
    found = whole_number(asked.override_settings.get(CLIP_SKIP), field)
    within(found, 1, MAX_CLIP_SKIP, field)
    return found


def ignored_settings(asked: Txt2ImgRequest) -> list[str]:
    """The settings of a request that mean nothing here; a schedule goes with a sampler that is named."""
    known = ("sd_model_checkpoint", CLIP_SKIP)
    found = [f"override_settings.{name}" for name in asked.override_settings if name not in known]
    is_lost = (
        not (asked.sampler_name or asked.sampler_index) and (asked.scheduler or "").lower() not in AUTOMATIC
    )
    return [*found, "scheduler"] if is_lost else found


def drawing_input(asked: Txt2ImgRequest, model: Model, known: Mapping[str, Adapter]) -> ImageInput:
    """What is to be drawn, without pictures to start from. Raises RequestError 400."""
    check_supported(asked)
    within(asked.batch_size, 1, 10, "batch_size")
    within(asked.n_iter, 1, 10, "n_iter")
    prompt, loras = with_loras(asked.prompt, known)
    wanted = ImageJobInput(
        prompt=prompt,
        negative_prompt=asked.negative_prompt or None,
        n=asked.batch_size * asked.n_iter,
        width=asked.width,
        height=asked.height,
        num_inference_steps=asked.steps,
        guidance_scale=asked.cfg_scale,
        previews=1,
        seed=asked.seed,
        sampler=sampler_of(asked) or None,
        prompt_weights=True,
        clip_skip=_clip_skip(asked),
        controlnet=control_of(asked),
        **{name: getattr(asked, name) for name in SHARED},
    )
    with in_their_words(NAMES):
        drawn = image_input(wanted, model)
    if not isinstance(asked, Img2ImgRequest):
        return msgspec.structs.replace(drawn, loras=loras)
    check_from_a_picture(drawn)
    within(asked.denoising_strength, 0, 1, "denoising_strength")
    within(asked.inpainting_mask_invert, 0, 1, "inpainting_mask_invert")
    within(asked.inpainting_fill, 0, 3, "inpainting_fill")
    if asked.inpainting_fill > 1:
        raise _unsupported("inpainting_fill", "0 fills with the surroundings, 1 keeps what is there")
    if len(asked.init_images) != 1:
        message = f"init_images takes one picture, not {len(asked.init_images)}"
        raise RequestError(400, message, field="init_images", code="invalid_value")
    strength = DEFAULT_STRENGTH if asked.denoising_strength is None else asked.denoising_strength
    return msgspec.structs.replace(
        drawn,
        loras=loras,
        width=asked.width,
        height=asked.height,
        parameters=drawn.parameters | {"strength": strength},
        inverts_mask=bool(asked.mask and asked.inpainting_mask_invert),
        fills_mask=bool(asked.mask) and not asked.inpainting_fill,
        fields={"image": "init_images", "mask_image": "mask"},
    )
