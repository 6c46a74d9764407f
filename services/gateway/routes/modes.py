"""Modes: draw with one, switch, list, reload, and see what is in memory (document 001)."""

from typing import Any

import anyio
import msgspec

from stoker.schemas.catalog import Adapter, Model
from stoker.schemas.discovery import makes_videos
from stoker.schemas.drawing import DrawingFields
from stoker.schemas.formats import OutputFormat
from stoker.schemas.job_events import ImageOutput
from stoker.schemas.jobs import ImageInput
from stoker.services.catalog import store
from stoker.services.catalog.documents import ConfigurationError
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.routing import get, post, post_body
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.admission import QUEUE_RETRY_S
from stoker.services.gateway.jobs.drawing_fields import as_asked
from stoker.services.gateway.jobs.loading import load
from stoker.services.gateway.jobs.own_jobs import drawing_headers, finished
from stoker.services.gateway.jobs.request_rules import within
from stoker.services.gateway.jobs.requests import ImageJobInput, image_input
from stoker.services.gateway.jobs.super_resolution import check_options, check_size, enlarge, find_upscaler
from stoker.services.gateway.modes import mode_body, vram_body
from stoker.services.records.blobs import get_pictures

MAX_STEPS, MAX_STEPS_ALLOWED = 50, 150
MAX_GUIDANCE = 20.0
MAX_LEVEL = 8
APPLIED_WITHIN_S = 2.0
"""The answer to a reload waits so long at most until this gateway has the revision."""


class StyleLora(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    style: str | None = None
    level: int = 0


class GenerateRequest(DrawingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /generate. What is left out comes from the mode. With superres its format is what counts."""

    prompt: str
    negative_prompt: str | None = None
    mode: str | None = None
    size: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    num_frames: int | None = None
    fps: float | None = None
    seed: int | None = None
    style_lora: StyleLora = StyleLora()
    output_format: OutputFormat | None = None
    output_compression: int | None = None
    superres: bool = False
    superres_magnitude: int = 2
    superres_format: str = "png"
    superres_quality: int = 92


class SwitchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mode: str


def generation_input(asked: GenerateRequest, mode: Model) -> ImageInput:
    """What the mode is to draw: the request's settings, then the mode's. Raises RequestError 400."""
    within(asked.num_inference_steps, 1, _steps_allowed(mode), "num_inference_steps")
    within(asked.guidance_scale, 0, MAX_GUIDANCE, "guidance_scale")
    if asked.size == "auto":
        raise RequestError(400, "size must look like 512x512", field="size", code="invalid_value")
    check_options(asked.superres_magnitude, asked.superres_format, asked.superres_quality, "superres_")
    drawn = image_input(
        ImageJobInput(
            prompt=asked.prompt,
            negative_prompt=asked.negative_prompt,
            size=asked.size,
            num_inference_steps=asked.num_inference_steps,
            guidance_scale=asked.guidance_scale,
            previews=0,
            seed=asked.seed,
            sampler=asked.sampler,
            num_frames=asked.num_frames,
            fps=asked.fps,
            output_format="png" if asked.superres else asked.output_format,
            output_compression=asked.output_compression,
            **as_asked(asked),
        ),
        mode,
    )
    if asked.superres:
        check_size(drawn.width, drawn.height, asked.superres_magnitude)
    style = style_of(asked.style_lora, mode)
    return msgspec.structs.replace(drawn, loras=(style,)) if style is not None else drawn


def _steps_allowed(mode: Model) -> int:
    """150 where the mode itself draws in more than 50 steps, or its metadata has `max_steps`."""
    if mode.mode is None:
        return MAX_STEPS_ALLOWED
    stated = mode.mode.metadata.get("max_steps")
    most = stated if isinstance(stated, int) else MAX_STEPS
    return min(MAX_STEPS_ALLOWED if mode.mode.default_steps > MAX_STEPS else most, MAX_STEPS_ALLOWED)


def style_of(asked: StyleLora, mode: Model) -> Adapter | None:
    """The LoRA of a style at a level. Raises RequestError 400 for a style that is not registered."""
    within(asked.level, 0, MAX_LEVEL, "style_lora.level")
    if asked.style is None:
        return None
    for style in mode.styles:
        if style.id == asked.style:
            return style.at(asked.level)
    known = ", ".join(style.id for style in mode.styles) or "none is configured"
    raise RequestError(
        400,
        f"there is no style {asked.style!r}; known are: {known}",
        field="style_lora.style",
        code="invalid_value",
    )


@post_body("/generate", summary="Draw with a mode", asks=GenerateRequest, gives="image/png")
async def generate(gateway: Gateway, exchange: Exchange, asked: GenerateRequest) -> None:
    mode = gateway.modes.find(asked.mode)
    drawn = generation_input(asked, mode)
    upscaler = find_upscaler(gateway) if asked.superres else None
    found = gateway.fleet.schemas.get(mode.name)
    if upscaler is not None and found is not None and makes_videos(found):
        message = f"superres enlarges pictures, and {mode.name} makes videos"
        raise RequestError(400, message, field="superres", code="invalid_value")
    with gateway.admission.generation(gateway.modes.all()):
        job = gateway.submission.make_job(mode, "", drawn, seed=asked.seed)
        if asked.mode is not None:
            gateway.modes.pending = mode.name
        try:
            completed, attached = await finished(gateway, exchange, job)
            if asked.mode is not None:
                await _arrived(gateway, mode.name)
        finally:
            if asked.mode is not None and gateway.modes.pending == mode.name:
                gateway.modes.pending = ""
    output = completed.output
    assert isinstance(output, ImageOutput)
    (content,) = await get_pictures(gateway.bus, output, attached)
    media_type, headers = output.pictures[0].content_type, dict[str, str]()
    if upscaler is not None:
        options = (asked.superres_magnitude, asked.superres_format, asked.superres_quality)
        content, media_type, headers = await enlarge(gateway, exchange, upscaler, content, *options)
    headers |= drawing_headers(completed)
    headers |= {
        "x-mode": mode.name,
        "x-seed": str(output.pictures[0].seed),
        "x-superres": str(int(asked.superres)),
        "x-job-id": job.id,
        "cache-control": "no-store",
    }
    await exchange.answer_bytes(content, media_type, headers=headers)


async def _arrived(gateway: Gateway, mode: str) -> None:
    """The mode is loaded: it is current now."""
    gateway.modes.error = ""
    if gateway.modes.current != mode:
        await store.note(gateway.bus, store.MODES_NOTE, store.CURRENT, mode)


@get("/api/models/status", summary="The current mode, the queue, and what is in memory")
async def models_status(gateway: Gateway, exchange: Exchange) -> None:
    body: dict[str, Any] = {
        "current_mode": gateway.modes.current or None,
        "queue_size": _pending_jobs(gateway),
        "vram": _vram(gateway),
        "configuration": gateway.configuration(),
    }
    if gateway.modes.error:
        body["error"] = gateway.modes.error
    if len(gateway.fleet.image_workers()) > 1:
        body["workers"] = _workers(gateway)
    await exchange.answer(body)


def _pending_jobs(gateway: Gateway) -> int:
    return sum(
        gateway.fleet.depths[name].queued for name in gateway.modes.all() if name in gateway.fleet.depths
    )


def _vram(gateway: Gateway) -> dict[str, Any] | None:
    workers = gateway.fleet.image_workers()
    return vram_body(workers[0], gateway.modes.all()) if workers else None


def _workers(gateway: Gateway) -> list[dict[str, Any]]:
    modes = gateway.modes.all()
    return [{"worker": beat.worker, **vram_body(beat, modes)} for beat in gateway.fleet.image_workers()]


@get("/api/modes", summary="The modes and their settings")
async def list_modes(gateway: Gateway, exchange: Exchange) -> None:
    modes = {name: mode_body(model) for name, model in gateway.modes.all().items()}
    await exchange.answer({"default_mode": gateway.modes.default or None, "modes": modes})


@get("/api/vram", summary="Memory of the device, and what lies in it", role="operate")
async def vram(gateway: Gateway, exchange: Exchange) -> None:
    workers = _workers(gateway)
    if not workers:
        raise RequestError(503, "no worker draws images yet", retry_after_s=QUEUE_RETRY_S)
    first = {key: value for key, value in workers[0].items() if key != "worker"}
    await exchange.answer(first | ({"workers": workers} if len(workers) > 1 else {}))


@post_body("/api/modes/switch", summary="Switch to another mode", asks=SwitchRequest, role="operate")
async def switch(gateway: Gateway, exchange: Exchange, asked: SwitchRequest) -> None:
    mode = gateway.modes.find(asked.mode)
    current = gateway.modes.current
    if mode.name == current and gateway.fleet.is_hot(mode.name) and gateway.modes.pending in ("", current):
        message = f"Mode {mode.name!r} is already loaded."
        await exchange.answer({"status": "already_loaded", "current_mode": current, "message": message})
        return
    pending = _pending_jobs(gateway) + sum(
        gateway.fleet.depths[name].running for name in gateway.modes.all() if name in gateway.fleet.depths
    )
    gateway.modes.pending = mode.name
    gateway.tasks.start_contained(load_mode, gateway, mode)
    await exchange.answer(
        {
            "status": "queued",
            "from_mode": current or None,
            "to_mode": mode.name,
            "message": f"Mode switch queued. Will switch after {pending} pending jobs.",
        }
    )


async def load_mode(gateway: Gateway, mode: Model) -> None:
    """Load a mode in turn with the jobs before it; then it is current."""
    try:
        await load(gateway.submission, mode)
        await _arrived(gateway, mode.name)
    except RequestError as error:
        gateway.modes.error = f"mode {mode.name!r} was not loaded: {error.message}"
    finally:
        if gateway.modes.pending == mode.name:
            gateway.modes.pending = ""


@post("/api/modes/reload", summary="Read the configuration files again", role="admin")
async def reload_modes(gateway: Gateway, exchange: Exchange) -> None:
    if gateway.reloading is None or not gateway.reloading.has_files:
        raise RequestError(
            409, "this gateway was started without --config: there is no file to read", code="no_configuration"
        )
    try:
        reloaded = await gateway.reloading.reload()
    except ConfigurationError as error:
        raise RequestError(422, str(error), field=error.field, code="invalid_configuration") from error
    with anyio.move_on_after(APPLIED_WITHIN_S):  # so that the next request of the same client sees it
        await gateway.fleet.until_revision(reloaded.revision.number)
    names = [model.name for model in reloaded.found.models if model.mode is not None]
    await exchange.answer(
        {
            "status": "reloaded",
            "modes_count": len(names),
            "modes": names,
            "default_mode": reloaded.found.default_mode or None,
            "revision": reloaded.revision.number,
        }
    )


ROUTES = [generate, models_status, list_modes, vram, switch, reload_modes]
