"""Any diffusers pipeline directory, on CUDA or the CPU: images with progress and previews per step.

Seeds are drawn on the CPU, one generator per picture, so that the same seed gives the same picture on the
same kind of worker, alone or in a batch. Cancelling takes effect between steps. Weights that lie in half
precision are computed in single precision on a CPU.

Options of the model: `dtype` (fp16, bf16, fp32), `device` (cuda:0), `attention_slicing` (true or false).
"""

import asyncio
import gc
import inspect
import io
import threading
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from transformers.utils import logging as transformers_logging

from schemas.job_events import Picture
from schemas.jobs import ImageInput
from schemas.workers import EngineCapability
from services.worker.engines.base import (
    Cancellation,
    Emitter,
    EngineError,
    Images,
    ModelFiles,
    Request,
    RunOutput,
    Stopped,
)

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
PREVIEW_EDGE_PX = 256
"""Longest edge of a preview; the true decoder is used only where it is quick (small latents)."""
SMALL_LATENT_CELLS = 32 * 32

# Four latent channels to RGB for the common SD latent space: a linear fit, good enough to watch.
LATENT_TO_RGB = torch.tensor(
    [[0.298, 0.207, 0.208], [0.187, 0.286, 0.173], [-0.158, 0.189, 0.264], [-0.184, -0.271, -0.473]]
)


class DiffusersEngine:
    """See the file's opening. One picture is drawn at a time: the device is not shared."""

    can_park = True

    def __init__(self, capability: EngineCapability) -> None:
        self.capability = capability
        self._pipelines: dict[str, Any] = {}
        self._devices: dict[str, str] = {}
        self._measured: dict[str, int] = {}
        self._turn = threading.Lock()
        diffusers_logging.set_verbosity_error()
        diffusers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def load(self, files: ModelFiles) -> None:
        device = str(files.options.get("device", "cuda" if torch.cuda.is_available() else "cpu"))
        dtype = _dtype(files.options.get("dtype"), device)
        if not (files.path / "model_index.json").is_file():
            raise EngineError(
                f"{files.path} is not a diffusers pipeline: it has no model_index.json", "load_failed"
            )
        try:
            pipeline = DiffusionPipeline.from_pretrained(
                files.path, dtype=dtype, local_files_only=True, safety_checker=None
            )
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise EngineError(f"{files.path.name} cannot be loaded: {error}", "load_failed") from error
        pipeline.set_progress_bar_config(disable=True)
        if files.options.get("attention_slicing"):
            pipeline.enable_attention_slicing()
        try:
            pipeline.to(device)
        except torch.OutOfMemoryError as error:
            raise EngineError(f"{files.model} does not fit the device", "resource") from error
        self._pipelines[files.model] = pipeline
        self._devices[files.model] = device
        self._measured[files.model] = _weights_bytes(pipeline)

    def unload(self, model: str) -> None:
        self._pipelines.pop(model, None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def park(self, model: str) -> None:
        self._pipelines[model].to("cpu")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def unpark(self, model: str) -> None:
        self._pipelines[model].to(self._devices[model])

    def memory_bytes(self, model: str) -> int:
        return self._measured[model]

    async def run(self, model: str, request: Request, emit: Emitter, cancelled: Cancellation) -> RunOutput:
        asked = request.input
        if not isinstance(asked, ImageInput):
            raise EngineError("diffusion models make images only", "validation")
        return await asyncio.to_thread(self._draw, model, asked, request.seed, emit, cancelled)

    def _draw(self, model: str, asked: ImageInput, seed: int, emit: Emitter, cancelled: Cancellation) -> Images:
        pipeline = self._pipelines[model]
        with self._turn:
            arguments = _arguments(pipeline, asked, seed)
            steps = int(arguments.get("num_inference_steps", _default_steps(pipeline)))
            arguments["callback_on_step_end"] = _watcher(asked, steps, emit, cancelled)
            try:
                with torch.inference_mode():
                    drawn: list[Image.Image] = pipeline(**arguments).images
            except torch.OutOfMemoryError as error:
                raise EngineError("the device has not enough memory for this size", "resource") from error
            except (ValueError, TypeError, RuntimeError) as error:
                raise EngineError(f"{type(pipeline).__name__}: {error}", "validation") from error
        if cancelled.is_set():
            raise Stopped
        images = tuple(_png(image) for image in drawn)
        pictures = tuple(
            Picture(seed=seed + i, width=image.width, height=image.height, image_bytes=len(png))
            for i, (image, png) in enumerate(zip(drawn, images, strict=True))
        )
        return Images(pictures, images)


def _dtype(name: object, device: str) -> torch.dtype:
    if name is None:
        return torch.float16 if device.startswith("cuda") else torch.float32
    if name not in DTYPES:
        raise EngineError(f"dtype is one of {', '.join(DTYPES)}, not {name!r}", "load_failed")
    return DTYPES[str(name)]


def _weights_bytes(pipeline: Any) -> int:
    return sum(
        tensor.numel() * tensor.element_size()
        for part in pipeline.components.values()
        if isinstance(part, torch.nn.Module)
        for tensor in (*part.parameters(), *part.buffers())
    )


def _default_steps(pipeline: Any) -> int:
    default = inspect.signature(pipeline.__call__).parameters.get("num_inference_steps")
    return int(default.default) if default is not None else 50


def _arguments(pipeline: Any, asked: ImageInput, seed: int) -> dict[str, Any]:
    """What the pipeline is called with: only what was asked for, and only what it knows."""
    known = inspect.signature(pipeline.__call__).parameters
    wanted = {
        "prompt": asked.prompt,
        "negative_prompt": asked.negative_prompt,
        "width": asked.width,
        "height": asked.height,
        "num_inference_steps": asked.num_inference_steps,
        "guidance_scale": asked.guidance_scale,
    }
    given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise EngineError(f"{type(pipeline).__name__} takes no {', '.join(unknown)}", "validation")
    if asked.n > 1:
        given["num_images_per_prompt"] = asked.n
    given["generator"] = [torch.Generator("cpu").manual_seed(seed + i) for i in range(asked.n)]
    return given


def _watcher(asked: ImageInput, steps: int, emit: Emitter, cancelled: Cancellation) -> Any:
    """The callback after each step: reports it, sends previews, stops when cancelled."""
    every = max(steps // (asked.previews + 1), 1) if asked.previews else 0
    sent = 0

    def after_step(pipeline: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal sent
        if cancelled.is_set():
            pipeline._interrupt = True
            return tensors
        emit.step(step + 1, steps)
        is_due = every and (step + 1) % every == 0 and step + 1 < steps and sent < asked.previews
        if is_due and (latents := tensors.get("latents")) is not None:
            image = _preview(pipeline, latents)
            emit.preview(sent, step + 1, image.width, image.height, _png(image))
            sent += 1
        return tensors

    return after_step


def _preview(pipeline: Any, latents: torch.Tensor) -> Image.Image:
    """What the first picture looks like so far: decoded where that is cheap, else a linear guess."""
    first = latents[:1].detach()
    vae = getattr(pipeline, "vae", None)
    if vae is not None and first.shape[-1] * first.shape[-2] <= SMALL_LATENT_CELLS:
        decoded = vae.decode((first / vae.config.scaling_factor).to(vae.dtype)).sample
        pixels = (decoded[0].float().cpu() / 2 + 0.5).clamp(0, 1).permute(1, 2, 0)
    else:
        channels = first[0, :4].float().cpu()
        pixels = torch.einsum("chw,cr->hwr", channels, LATENT_TO_RGB[: channels.shape[0]])
        pixels = (pixels + 0.5).clamp(0, 1)
    image = Image.fromarray((pixels * 255).byte().numpy())
    scale = PREVIEW_EDGE_PX / max(image.size)
    return image if scale >= 1 else image.resize((int(image.width * scale), int(image.height * scale)))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def create(capability: EngineCapability) -> DiffusersEngine:
    return DiffusersEngine(capability)
