"""Stable Diffusion 1.5 and XL, Kandinsky 2.2 and 3, any diffusers pipeline: on CUDA or the CPU.

Images with progress and previews per step, LoRAs switched in place, like requests drawn at once. Seeds are
drawn on the CPU, one generator per picture: the same seed gives the same picture on the same kind of worker.
Cancelling takes effect between steps. Weights in half precision are computed in single precision on a CPU.

Options of the model: `dtype` (fp16, bf16, fp32), `device` (cuda:0), `attention_slicing`, `xformers`, `compile`
(true or false), `scheduler` (a sampler's name, or a class of diffusers), `config` (what completes a single
file), `vae` (a file or a folder), `self_test` (false: no picture is drawn at load), `prior` (Kandinsky 2.2),
`batch` (like requests at once), `default_size` (512x512), `png_prompt` (false: leave it out).
"""

import asyncio
import base64
import ctypes
import gc
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from transformers.utils import logging as transformers_logging

from schemas.catalog import Adapter
from schemas.job_events import Picture
from schemas.jobs import ImageInput, UpscaleInput, picture_seed
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
    Task,
)
from services.worker.engines.images import drawing
from services.worker.engines.images.loras import PipelineLoras
from services.worker.engines.images.pipelines import build, device_of, dtype_of, examine, weights_bytes
from services.worker.engines.images.schedulers import Schedulers
from services.worker.engines.images.self_test import check_draws
from services.worker.engines.images.signatures import schema_of, task_classes
from services.worker.engines.images.upscaling import enlarged
from services.worker.models.weights.detect import Checkpoint
from services.worker.runner.resources import measure

SDXL_EDGE_PX = 1024
DEFAULT_EDGE_PX = 512
INPAINT_CHANNELS = 9
BINNED = (16, 32, 64, 128, 256)
"""Sample sizes for which pipelines know sizes that they were trained for."""


@dataclass(slots=True)
class LoadedPipeline:
    """A pipeline on its device, with what was learned of it. siblings: other tasks on the same weights."""

    pipeline: Any
    checkpoint: Checkpoint
    options: dict[str, Any]
    device: str
    memory_bytes: int
    loras: PipelineLoras
    adapters: dict[str, Adapter]
    siblings: dict[str, Any]
    schedulers: Schedulers
    remark: str = ""

    def default_edge_px(self) -> int | None:
        """The edge of a picture whose size nobody chose; None leaves it to the pipeline."""
        size = self.options.get("default_size")
        if size is None:
            return None
        return SDXL_EDGE_PX if self.checkpoint.architecture == "sdxl" else int(str(size).split("x")[0])


class DiffusersEngine:
    """See the file's opening. One call of a pipeline at a time: the device is not shared."""

    def __init__(self, capability: EngineCapability) -> None:
        self.capability = capability
        self._loaded: dict[str, LoadedPipeline] = {}
        self._turn = threading.Lock()
        diffusers_logging.set_verbosity_error()
        diffusers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def describe(self, files: ModelFiles) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.to_builtins(schema_of(files.model, examine(files.path)))
        return found

    def load(self, files: ModelFiles) -> None:
        device = device_of(files.options)
        checkpoint = examine(files.path)
        pipeline = build(checkpoint, files.options, dtype_of(files.options, device))
        try:
            pipeline.to(device)
        except torch.OutOfMemoryError as error:
            raise EngineError(f"{files.path.name} does not fit the device", "resource") from error
        own = Schedulers(pipeline, checkpoint.scheduler)
        own.use(pipeline, str(files.options.get("scheduler") or ""))
        remark = check_draws(pipeline) if files.options.get("self_test", True) else ""
        dim = getattr(getattr(pipeline, "unet", None), "config", {}).get("cross_attention_dim")
        dim = dim[0] if isinstance(dim, list | tuple) else dim
        self._loaded[files.model] = LoadedPipeline(
            pipeline=pipeline,
            checkpoint=checkpoint,
            options=files.options,
            device=device,
            memory_bytes=weights_bytes(pipeline),
            loras=PipelineLoras(pipeline, dim),
            adapters={adapter.name: adapter for adapter in files.adapters},
            siblings={},
            schedulers=own,
            remark=remark,
        )

    def attach(self, model: str, loras: Sequence[Adapter]) -> tuple[str, ...]:
        with self._turn:
            return self._loaded[model].loras.attach(loras)

    def unload(self, model: str) -> None:
        with self._turn:
            self._loaded.pop(model, None)
            _free_memory()

    def park(self, model: str) -> None:
        with self._turn:
            self._loaded[model].pipeline.to("cpu")
            _free_memory()

    def unpark(self, model: str) -> None:
        with self._turn:
            loaded = self._loaded[model]
            loaded.pipeline.to(loaded.device)

    def memory_bytes(self, model: str) -> int:
        return self._loaded[model].memory_bytes

    async def run(self, model: str, request: Request, emit: Emitter, cancelled: Cancellation) -> RunOutput:
        task = Task(request, emit, cancelled)
        match request.input:
            case ImageInput():
                (drawn,) = await asyncio.to_thread(self._draw, model, [task])
                return drawn
            case UpscaleInput() as asked:
                return await asyncio.to_thread(self._upscale, model, asked, task)
        raise EngineError("diffusion models make images only", "validation")

    async def run_together(self, model: str, tasks: Sequence[Task]) -> list[RunOutput | Exception]:
        drawn = await asyncio.to_thread(self._draw, model, tasks)
        return [
            Stopped() if task.cancelled.is_set() else images for task, images in zip(tasks, drawn, strict=True)
        ]

    def _draw(self, model: str, tasks: Sequence[Task]) -> list[Images]:
        """The pictures of each task, out of one call."""
        loaded = self._loaded[model]
        request = tasks[0].request
        asked = request.input
        assert isinstance(asked, ImageInput)
        with self._turn:
            skipped = loaded.loras.switch([*request.loras, *_chosen(loaded, request.adapter)])
            pipeline = _for_task(loaded, asked)
            loaded.schedulers.use(pipeline, str(request.options.get("scheduler") or ""))
            given = drawing.arguments(pipeline, tasks, loaded.default_edge_px())
            given = _completed(loaded.checkpoint, pipeline, given)
            watch = drawing.StepWatch(tasks, drawing.steps_of(pipeline, given))
            images = _call(pipeline, given, watch)
        if len(tasks) == 1 and tasks[0].cancelled.is_set():
            raise Stopped
        details: dict[str, Any] = {"parameters": _parameters(given, images[0])}
        details |= {"remark": loaded.remark} if loaded.remark else {}
        details |= {"resources": msgspec.to_builtins(measure())} | (
            {"skipped_loras": skipped} if skipped else {}
        )
        return [
            _finish(loaded, task, images[index * asked.n : (index + 1) * asked.n], watch, index, details)
            for index, task in enumerate(tasks)
        ]

    def _upscale(self, model: str, asked: UpscaleInput, task: Task) -> Images:
        """A diffusers upscaler: each pass enlarges by its own factor."""
        loaded = self._loaded[model]

        def one_pass(image: Image.Image) -> Image.Image:
            given: dict[str, Any] = {"prompt": "", "image": image}
            given["generator"] = torch.Generator("cpu").manual_seed(task.request.seed)
            steps = drawing.steps_of(loaded.pipeline, given)
            return _call(loaded.pipeline, given, drawing.StepWatch([task], steps))[0]

        with self._turn:
            return enlarged(asked, one_pass, task.cancelled)


def _chosen(loaded: LoadedPipeline, adapter: str) -> list[Adapter]:
    if not adapter:
        return []
    if adapter not in loaded.adapters:
        raise EngineError(f"the model has no adapter {adapter!r}", "validation")
    return [loaded.adapters[adapter]]


def _for_task(loaded: LoadedPipeline, asked: ImageInput) -> Any:
    """The pipeline that takes the pictures of a request: its own, or a sibling on the same weights."""
    if not asked.files or "image" in drawing.parameters_of(loaded.pipeline):
        return loaded.pipeline
    method = "inpaint" if "mask_image" in asked.files else "image_to_image"
    if method not in loaded.siblings:
        kind = task_classes(type(loaded.pipeline).__name__).get(method)
        if kind is None:
            name = type(loaded.pipeline).__name__
            raise EngineError(f"{name} cannot do {method.replace('_', ' ')}", "validation")
        sibling = kind.from_pipe(loaded.pipeline)
        sibling.set_progress_bar_config(disable=True)
        loaded.siblings[method] = sibling
    return loaded.siblings[method]


def _sample_size(pipeline: Any) -> int | None:
    found: int | None = getattr(
        getattr(getattr(pipeline, "transformer", None), "config", None), "sample_size", None
    )
    return found


def _completed(checkpoint: Checkpoint, pipeline: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The same arguments; a model that draws into masks draws into the whole where it is given none. Raises
    EngineError for one that draws from a picture and has none.
    """
    known = drawing.parameters_of(pipeline)
    if "use_resolution_binning" in known and _sample_size(pipeline) not in BINNED:
        given = given | {"use_resolution_binning": False}
    if checkpoint.in_channels == INPAINT_CHANNELS and "mask_image" in known and "mask_image" not in given:
        if "image" not in given:
            size = (given.get("width") or DEFAULT_EDGE_PX, given.get("height") or DEFAULT_EDGE_PX)
            given = given | {"image": Image.new("RGB", size, (128, 128, 128)), "strength": 1.0}
        given = given | {"mask_image": Image.new("L", given["image"].size, 255)}
    wants = known.get("image")
    is_needed = checkpoint.pipeline_class.endswith(("Img2ImgPipeline", "Pix2PixPipeline", "FillPipeline"))
    if wants is not None and "image" not in given and (is_needed or wants.default is wants.empty):
        message = f"{type(pipeline).__name__} draws from a picture: send one as image"
        raise EngineError(message, "validation", field="image")
    return given


def _call(pipeline: Any, given: dict[str, Any], watch: drawing.StepWatch) -> list[Image.Image]:
    """Draw. Raises EngineError, Stopped."""
    takes = drawing.parameters_of(pipeline)
    if "callback_on_step_end" in takes:
        given = given | {"callback_on_step_end": watch}
    try:
        with torch.inference_mode():
            images: list[Image.Image] = pipeline(**given).images
            return images
    except torch.OutOfMemoryError as error:
        _free_memory()
        raise EngineError("the device has not enough memory for this size", "resource") from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise EngineError(f"{type(pipeline).__name__}: {error}", "validation") from error


def _parameters(given: dict[str, Any], image: Image.Image) -> dict[str, Any]:
    """The arguments as they were used, as far as JSON can say them."""
    plain = {name: value for name, value in given.items() if isinstance(value, str | int | float | bool)}
    return plain | {"width": image.width, "height": image.height}


def _finish(
    loaded: LoadedPipeline,
    task: Task,
    images: Sequence[Image.Image],
    watch: drawing.StepWatch,
    index: int,
    details: dict[str, Any],
) -> Images:
    """PNGs with their metadata, and the latents where they are asked for."""
    asked, seed = task.request.input, task.request.seed
    assert isinstance(asked, ImageInput)
    has_prompt = bool(loaded.options.get("png_prompt", True))
    pngs: list[bytes] = []
    for offset, image in enumerate(images):
        text = drawing.description(
            asked, image, picture_seed(seed, offset), watch.steps, task.request.title, has_prompt=has_prompt
        )
        pngs.append(drawing.png_of(image, text))
    if asked.has_latents and watch.latents is not None:
        rows = [watch.latents[index * asked.n + i : index * asked.n + i + 1] for i in range(asked.n)]
        latents = [base64.b64encode(drawing.pooled_latents(row)).decode() for row in rows]
        details = details | {"latents": latents}
    pictures = tuple(
        Picture(seed=picture_seed(seed, offset), width=image.width, height=image.height, image_bytes=len(png))
        for offset, (image, png) in enumerate(zip(images, pngs, strict=True))
    )
    return Images(pictures, tuple(pngs), details)


def _free_memory() -> None:
    """Give memory back to the device and to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def create(capability: EngineCapability) -> DiffusersEngine:
    return DiffusersEngine(capability)
