"""From a decoded HTTP request to a Job: validation, defaults, precedence. Pure.

Precedence: what the request says, then the model's defaults, then nothing: the engine decides. A bad
request ends here, as a RequestError that names the field; it never reaches NATS.
"""

import re
from typing import Any

import msgspec

from stoker.schemas.catalog import Model
from stoker.schemas.drawing import DrawingFields
from stoker.schemas.formats import OutputFormat
from stoker.schemas.jobs import DEFAULT_ADMISSION_TIMEOUT_S, DEFAULT_QUALITY, CallInput, ImageInput, JobInput
from stoker.schemas.openai import EmbeddingRequest, ImageEditRequest, ImageGenerationRequest
from stoker.schemas.samplers import known_samplers, sampler_named
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.drawing_fields import (
    as_asked,
    check_from_a_picture,
    check_second_size,
    drawn_with,
)
from stoker.services.gateway.jobs.function_calls import function_input
from stoker.services.gateway.jobs.request_rules import MAX_SEED, MAX_STEPS, OFF, converted, need, within
from stoker.services.gateway.jobs.text_requests import embedding_input, text_input
from stoker.services.gateway.jobs.transcriptions import TranscriptionJobInput, transcription_job

MAX_PICTURES = 10
MAX_PREVIEWS = 3
MAX_FRAMES, MAX_FPS = 1000, 120.0
MAX_GUIDANCE = 50.0
MAX_PROMPT_CHARS = 1_000_000
MIN_EDGE_PX, MAX_EDGE_PX, EDGE_MULTIPLE_PX = 64, 2048, 8
MAX_TIMEOUT_S = 24 * 3600.0
MAX_PRIORITY = 10


class JobRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/jobs. timeout_s: how long it may wait to start. deadline_s: when it must be done.

    run_timeout_s: how long it may run, at most as its model says.
    """

    model: str
    input: dict[str, Any]
    priority: int = 0
    webhook: str | None = None
    timeout_s: float | None = None
    run_timeout_s: float | None = None
    deadline_s: float | None = None


class ImageJobInput(DrawingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`input` of an image job."""

    prompt: str
    negative_prompt: str | None = None
    n: int = 1
    size: str | None = None
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    previews: int = MAX_PREVIEWS
    latents: bool = False
    seed: int | None = None
    sampler: str | None = None
    num_frames: int | None = None
    fps: float | None = None
    output_format: OutputFormat | None = None
    output_compression: int | None = None


class CallJobInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`input` of a custom job."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}


def parse_size(size: str | None, field: str = "size") -> tuple[int | None, int | None]:
    """Width and height in pixels of "WxH"; None where nothing or "auto" is asked."""
    if size is None or size == "auto":
        return None, None
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", size)
    if match is None:
        raise RequestError(
            400, f"{field} must look like 512x512, not {size!r}", field=field, code="invalid_value"
        )
    return int(match[1]), int(match[2])


def check_edges(width: int | None, height: int | None, field: str) -> None:
    """Raise RequestError 400 for a size that cannot be drawn."""
    for edge in (width, height):
        within(edge, MIN_EDGE_PX, MAX_EDGE_PX, field)
        if edge is not None and edge % EDGE_MULTIPLE_PX:
            raise RequestError(
                400,
                f"{field}: {edge} is not a multiple of {EDGE_MULTIPLE_PX}",
                field=field,
                code="invalid_value",
            )


def image_input(asked: ImageJobInput, model: Model) -> ImageInput:
    need(model, "ImageGeneration")
    if len(asked.prompt) > MAX_PROMPT_CHARS:
        raise RequestError(400, "prompt is too long", field="prompt", code="invalid_value")
    within(asked.n, 1, MAX_PICTURES, "n")
    within(asked.num_inference_steps, 1, MAX_STEPS, "num_inference_steps")
    within(asked.guidance_scale, 0, MAX_GUIDANCE, "guidance_scale")
    within(asked.previews, 0, MAX_PREVIEWS, "previews")
    within(asked.seed, OFF, MAX_SEED, "seed")
    within(asked.num_frames, 1, MAX_FRAMES, "num_frames")
    within(asked.fps, 1, MAX_FPS, "fps")
    within(asked.output_compression, 0, 100, "output_compression")
    width, height = parse_size(asked.size)
    width = width if width is not None else asked.width
    height = height if height is not None else asked.height
    check_edges(width, height, "size" if asked.size else "width")

    def chosen(field: str, value: Any) -> Any:
        return model.defaults.get(field) if value is None else value

    frames = chosen("num_frames", asked.num_frames)
    drawn = ImageInput(
        prompt=asked.prompt,
        negative_prompt=chosen("negative_prompt", asked.negative_prompt),
        n=asked.n,
        width=chosen("width", width),
        height=chosen("height", height),
        num_inference_steps=chosen("num_inference_steps", asked.num_inference_steps),
        guidance_scale=chosen("guidance_scale", asked.guidance_scale),
        previews=asked.previews,
        sampler=_sampler(asked.sampler),
        has_latents=asked.latents,
        output_format=asked.output_format,
        fps=asked.fps,
        parameters={} if frames is None else {"num_frames": frames},
        quality=DEFAULT_QUALITY if asked.output_compression is None else asked.output_compression,
        **drawn_with(asked, model),
    )
    check_second_size(drawn)
    return drawn


def _sampler(name: str | None) -> str:
    """Raises RequestError 400 for one that is not known."""
    if not name:
        return ""
    found = sampler_named(name)
    if found is None:
        message = f"there is no sampler {name!r}; there are {known_samplers()}, or scheduler classes"
        raise RequestError(400, message, field="sampler", code="invalid_value")
    return found


def generation_input(asked: ImageGenerationRequest, model: Model) -> ImageInput:
    return image_input(
        ImageJobInput(
            prompt=asked.prompt,
            negative_prompt=asked.negative_prompt,
            n=asked.n,
            size=asked.size,
            num_inference_steps=asked.steps if asked.num_inference_steps is None else asked.num_inference_steps,
            guidance_scale=asked.cfg_scale if asked.guidance_scale is None else asked.guidance_scale,
            previews=_previews(asked),
            seed=asked.seed,
            sampler=asked.sampler,
            num_frames=asked.num_frames,
            fps=asked.fps,
            output_format=asked.output_format,
            output_compression=asked.output_compression,
            **as_asked(asked),
        ),
        model,
    )


def edit_input(asked: ImageEditRequest, model: Model) -> ImageInput:
    """The input of an edit without its pictures. Raises RequestError 400."""
    within(asked.strength, 0, 1, "strength")
    drawn = generation_input(asked, model)
    width, height = parse_size(asked.size)  # without one the picture's own size, not the model's, is kept
    strength = asked.denoising_strength if asked.strength is None else asked.strength
    parameters = drawn.parameters | ({"strength": strength} if strength is not None else {})
    check_from_a_picture(drawn)
    return msgspec.structs.replace(
        drawn,
        width=width,
        height=height,
        parameters=parameters,
        draws_transparent=True,
        fields={"mask_image": "mask"},
    )


def _previews(asked: ImageGenerationRequest) -> int:
    within(asked.partial_images, 0, MAX_PREVIEWS, "partial_images")
    return asked.partial_images if asked.stream else 0


def job_input(asked: JobRequest, model: Model) -> tuple[JobInput, int | None]:
    """The input of a job as its model needs it, and the seed it asks for."""
    if not -MAX_PRIORITY <= asked.priority <= MAX_PRIORITY:
        within(asked.priority, -MAX_PRIORITY, MAX_PRIORITY, "priority")
    for field in ("timeout_s", "deadline_s"):
        within(getattr(asked, field), 0.001, MAX_TIMEOUT_S, field)
    within(asked.run_timeout_s, 0.001, model.run_timeout_s, "run_timeout_s")
    if model.function is not None:
        return function_input(asked.input, model), None
    if "Function" in model.features:
        call = converted(asked.input, CallJobInput)
        return CallInput(call.args, call.kwargs), None
    if "TextGeneration" not in model.features and "ImageGeneration" in model.features:
        image = converted(asked.input, ImageJobInput)
        return image_input(image, model), image.seed
    if "SpeechToText" in model.features:
        return transcription_job(converted(asked.input, TranscriptionJobInput), model), None
    if "input" in asked.input and "TextEmbedding" in model.features:
        body = {"model": model.name, **asked.input}
        return embedding_input(converted(body, EmbeddingRequest), model), None
    return text_input(asked.input, model)


def admission_timeout_s(asked: JobRequest) -> float:
    return asked.timeout_s if asked.timeout_s is not None else DEFAULT_ADMISSION_TIMEOUT_S
