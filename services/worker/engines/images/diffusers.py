"""Stable Diffusion 1.5 and XL, Kandinsky 2.2 and 3, any diffusers pipeline: on CUDA or the CPU.

Images with progress and previews per step, LoRAs switched in place, like requests drawn at once. Seeds are
drawn on the CPU, one generator per picture: the same seed gives the same picture on the same kind of worker.
Cancelling takes effect between steps. Weights in half precision are computed in single precision on a CPU.

Options of the model: `dtype` (fp16, bf16, fp32), `device` (cuda:0), `attention_slicing`, `xformers`, `compile`
(true or false), `scheduler` (a sampler's name, or a class of diffusers), `config` (what completes a single
file), `vae` (a file or a folder), `self_test` (false: no picture is drawn at load), `prior` (Kandinsky 2.2),
`embeddings` and `embedding_dir` (see embeddings.py), `controlnets` (name: folder; see controls.py), `batch`
(like requests at once), `default_size` (512x512), `png_prompt` (false: pictures do not say their prompt),
`png_parameters` (false: they say nothing of how they were made).
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from transformers.utils import logging as transformers_logging

from stoker.schemas.catalog import Adapter
from stoker.schemas.jobs import ImageInput, UpscaleInput
from stoker.schemas.workers import CapabilityCard, EngineCapability
from stoker.services.worker.engines.base import (
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
from stoker.services.worker.engines.images import drawing
from stoker.services.worker.engines.images.clips import rate_of
from stoker.services.worker.engines.images.completing import check_start, completed
from stoker.services.worker.engines.images.controls import Controls, control_arguments
from stoker.services.worker.engines.images.edits import Start, start_of
from stoker.services.worker.engines.images.embeddings import Embeddings, load_embeddings
from stoker.services.worker.engines.images.encodings import Encodings
from stoker.services.worker.engines.images.finite import whole
from stoker.services.worker.engines.images.loras import PipelineLoras
from stoker.services.worker.engines.images.made import Made
from stoker.services.worker.engines.images.passes import Raw, call, drawn_from, drawn_twice, free_memory
from stoker.services.worker.engines.images.pipelines import (
    build,
    bytes_of,
    device_of,
    dtype_of,
    examine,
    weights_bytes,
)
from stoker.services.worker.engines.images.prompts import (
    TEXTS,
    cut_tokens,
    pieces_of,
    readable,
    texts_of,
    weights_remark,
)
from stoker.services.worker.engines.images.schedulers import Schedulers
from stoker.services.worker.engines.images.self_test import check_draws
from stoker.services.worker.engines.images.signatures import schema_of, task_classes
from stoker.services.worker.engines.images.tiling import tiled
from stoker.services.worker.engines.images.upscaling import enlarged
from stoker.services.worker.engines.images.writing import sampler_of
from stoker.services.worker.models.weights.detect import Checkpoint

SDXL_EDGE_PX = 1024
Write = Callable[[], Images | EngineError]
"""Makes the files of a task that is drawn, or says why there is none; needs no device."""


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
    embeddings: Embeddings
    remark: str = ""
    controls: Controls = field(default_factory=Controls)

    def default_edge_px(self) -> int | None:
        """The edge of a picture whose size nobody chose; None leaves it to the pipeline."""
        size = self.options.get("default_size")
        if size is None:
            return None
        return SDXL_EDGE_PX if self.checkpoint.architecture == "sdxl" else int(str(size).split("x")[0])


class DiffusersEngine:
    """See the file's opening. One call of a pipeline at a time: the device is not shared. Files are written
    while the next has the device.
    """

    def __init__(self, capability: EngineCapability) -> None:
        self.capability = capability
        self._loaded: dict[str, LoadedPipeline] = {}
        self._turn = threading.Lock()
        self._encodings = Encodings()
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
        embeddings = load_embeddings(pipeline, files.options, files.path.parent)
        own = Schedulers(pipeline, checkpoint.scheduler)
        own.use(pipeline, str(files.options.get("scheduler") or ""))
        remark = check_draws(pipeline) if files.options.get("self_test", True) else ""
        dim = getattr(getattr(pipeline, "unet", None), "config", {}).get("cross_attention_dim")
        dim = dim[0] if isinstance(dim, list | tuple) else dim
        loras = PipelineLoras(pipeline, dim)
        if files.model in self._loaded:
            self.unload(files.model)
        self._encodings.watch(files.model, pipeline, loras.laid_over)
        self._loaded[files.model] = LoadedPipeline(
            pipeline=pipeline,
            checkpoint=checkpoint,
            options=files.options,
            device=device,
            memory_bytes=weights_bytes(pipeline),
            loras=loras,
            adapters={adapter.name: adapter for adapter in files.adapters},
            siblings={},
            schedulers=own,
            embeddings=embeddings,
            remark=remark,
        )

    def card(self, model: str) -> CapabilityCard:
        known = self._loaded[model].embeddings
        return CapabilityCard(embeddings=known.loaded, skipped_embeddings=known.skipped)

    def attach(self, model: str, loras: Sequence[Adapter]) -> tuple[str, ...]:
        with self._turn:
            return self._loaded[model].loras.attach(loras)

    def unload(self, model: str) -> None:
        with self._turn:
            self._loaded.pop(model, None)
            self._encodings.forget(model)
            free_memory()

    def park(self, model: str) -> None:
        with self._turn:
            self._loaded[model].pipeline.to("cpu")
            self._loaded[model].controls.to("cpu")
            free_memory()

    def unpark(self, model: str) -> None:
        with self._turn:
            loaded = self._loaded[model]
            loaded.pipeline.to(loaded.device)
            loaded.controls.to(loaded.device)

    def memory_bytes(self, model: str) -> int:
        loaded = self._loaded[model]
        return loaded.memory_bytes + sum(bytes_of(one) for one in loaded.controls.networks)

    async def run(self, model: str, request: Request, emit: Emitter, cancelled: Cancellation) -> RunOutput:
        task = Task(request, emit, cancelled)
        match request.input:
            case ImageInput():
                (drawn,) = await self.run_together(model, [task])
                if isinstance(drawn, Exception):
                    raise drawn
                return drawn
            case UpscaleInput() as asked:
                return await asyncio.to_thread(self._upscale, model, asked, task)
        raise EngineError("diffusion models make images only", "validation")

    async def run_together(self, model: str, tasks: Sequence[Task]) -> list[RunOutput | Exception]:
        drawn = await asyncio.to_thread(self._draw_alike, model, tasks)
        written = await asyncio.to_thread(_written, drawn)
        return [
            Stopped() if task.cancelled.is_set() else found for task, found in zip(tasks, written, strict=True)
        ]

    def _draw_alike(self, model: str, tasks: Sequence[Task]) -> list[Write]:
        """Each as it would be drawn alone: prompts of one length go into one call."""
        if len(tasks) == 1:
            found = dict(enumerate(self._draw(model, tasks)))
        else:
            found = self._draw_by_length(model, tasks)
        with self._turn:
            kept, read = self._encodings.counted()
        for task in tasks:
            task.emit.drawn(kept, read)
            kept = read = 0
        return [found[index] for index in range(len(tasks))]

    def _draw_by_length(self, model: str, tasks: Sequence[Task]) -> dict[int, Write]:
        """By the number of the task."""
        pipeline = self._loaded[model].pipeline
        with self._turn:
            inputs = [task.request.input for task in tasks]
            lengths = [
                pieces_of(pipeline, [one.prompt], one.prompt_weights)
                for one in inputs
                if isinstance(one, ImageInput)
            ]
        found: dict[int, Write] = {}
        for length in sorted(set(lengths)):
            alike = [index for index, own in enumerate(lengths) if own == length]
            found |= zip(alike, self._draw(model, [tasks[index] for index in alike]), strict=True)
        return found

    def _draw(self, model: str, tasks: Sequence[Task]) -> list[Write]:
        """What writes the pictures of each task, all out of one call. Raises EngineError, Stopped."""
        loaded = self._loaded[model]
        request = tasks[0].request
        asked = request.input
        assert isinstance(asked, ImageInput)
        start = start_of(asked, can_inpaint=_can(loaded, "inpaint"))
        with self._turn:
            skipped = loaded.loras.switch([*request.loras, *_chosen(loaded, request.adapter)])
            pipeline = _for_task(loaded, start)
            control: dict[str, Any] = {}
            if asked.control is not None:
                named = request.options.get("controlnets") or {}
                pipeline = loaded.controls.pipeline(
                    pipeline, loaded.checkpoint, asked.control, named, loaded.device
                )
                control = control_arguments(pipeline, asked.control)
            loaded.schedulers.use(pipeline, asked.sampler or str(request.options.get("scheduler") or ""))
            check_start(loaded.checkpoint, pipeline, [*start.files, *control])
            given = drawing.arguments(pipeline, tasks, loaded.default_edge_px(), start) | control
            given = completed(loaded.checkpoint, pipeline, given)
            watch = drawing.StepWatch(tasks, drawing.steps_of(pipeline, given), drawing.size_of(given))
            cut = [cut_tokens(pipeline, _texts_of(task, given), asked.prompt_weights) for task in tasks]
            with tiled(pipeline, asked.tiling):
                raw, facts = self._passes(loaded, pipeline, tasks, given, watch, start)
            sampler = sampler_of(pipeline)
        if len(tasks) == 1 and tasks[0].cancelled.is_set():
            raise Stopped
        details: dict[str, Any] = {}
        said = [loaded.remark, _unread(pipeline, asked), *skipped]
        said += [weights_remark(pipeline, texts_of(given))] if asked.prompt_weights else []
        details |= {"remark": "; ".join(filter(None, said))} if any(said) else {}
        details |= {"skipped_loras": skipped} if skipped else {}
        device = partial(self._device, pipeline, asked.tiling)
        made = Made(raw, start, device, pipeline, loaded.options, given, watch, details, cut, facts, sampler)
        return [partial(made.finished, task, index) for index, task in enumerate(tasks)]

    @contextmanager
    def _device(self, pipeline: Any, is_tiled: bool) -> Iterator[None]:
        """The device, for what is found out only when pictures are written."""
        with self._turn, tiled(pipeline, is_tiled):
            yield

    def _passes(
        self,
        loaded: LoadedPipeline,
        pipeline: Any,
        tasks: Sequence[Task],
        given: dict[str, Any],
        watch: drawing.StepWatch,
        start: Start,
    ) -> tuple[Raw, dict[str, Any]]:
        """The pictures of one call, or of the two of hires fix, and what image tools are told of the second."""
        request = tasks[0].request
        asked = request.input
        assert isinstance(asked, ImageInput)
        rate = rate_of(type(pipeline).__name__, drawing.parameters_of(pipeline), given, asked)
        if asked.hires is None:
            read = readable(pipeline, given, asked.prompt_weights)
            return drawn_from(pipeline, read, watch, start, len(tasks) * asked.n, rate), {}
        if start.files:
            message = "hires fix draws from no picture: leave out enable_hr"
            raise EngineError(message, "validation", field="enable_hr")
        second = _for_task(loaded, Start({"image": Image.new("RGB", (1, 1))}))
        loaded.schedulers.use(second, asked.sampler or str(request.options.get("scheduler") or ""))
        return drawn_twice((pipeline, second), given, asked, drawing.seeds_of(tasks), watch)

    def _upscale(self, model: str, asked: UpscaleInput, task: Task) -> Images:
        """A diffusers upscaler: each pass enlarges by its own factor."""
        loaded = self._loaded[model]

        def one_pass(image: Image.Image) -> Image.Image:
            given: dict[str, Any] = {"prompt": "", "image": image}
            given["generator"] = torch.Generator("cpu").manual_seed(task.request.seed)
            steps = drawing.steps_of(loaded.pipeline, given)
            watch = drawing.StepWatch([task], steps)
            (drawn,) = whole(call(loaded.pipeline, given, watch).pictures(0, 1), watch.latents)
            assert isinstance(drawn, Image.Image)
            return drawn

        with self._turn:
            return enlarged(asked, one_pass, task.cancelled)


def _written(drawn: Sequence[Write]) -> list[Images | Exception]:
    """The files of all tasks, each written in a thread of its own."""
    with ThreadPoolExecutor(len(drawn)) as threads:
        return list(threads.map(_one_written, drawn))


def _one_written(write: Write) -> Images | Exception:
    try:
        return write()
    except Exception as error:  # whatever a library raises: the others of a batch are written
        return error


def _chosen(loaded: LoadedPipeline, adapter: str) -> list[Adapter]:
    if not adapter:
        return []
    if adapter not in loaded.adapters:
        raise EngineError(f"the model has no adapter {adapter!r}", "validation")
    return [loaded.adapters[adapter]]


def _can(loaded: LoadedPipeline, method: str) -> bool:
    """Whether a pipeline, or a sibling, does this. Kandinsky 2.2 draws parts with a UNet of 9 channels only."""
    name = type(loaded.pipeline).__name__
    if method == "inpaint" and name.startswith("KandinskyV22") and loaded.pipeline.unet.config.in_channels < 9:
        return False
    own = "mask_image" in drawing.parameters_of(loaded.pipeline)
    return (own and method == "inpaint") or method in task_classes(name)


def _for_task(loaded: LoadedPipeline, start: Start) -> Any:
    """The pipeline that takes the pictures of a request: its own, or a sibling on the same weights."""
    own = drawing.parameters_of(loaded.pipeline)
    if all(name in own for name in start.files):
        return loaded.pipeline
    method = "inpaint" if "mask_image" in start.files else "image_to_image"
    if method not in loaded.siblings:
        name = type(loaded.pipeline).__name__
        kind = task_classes(name).get(method)
        if kind is None or not _can(loaded, method):
            raise EngineError(f"{name} cannot do {method.replace('_', ' ')} with these weights", "validation")
        sibling = kind.from_pipe(loaded.pipeline)
        sibling.set_progress_bar_config(disable=True)
        loaded.siblings[method] = sibling
    return loaded.siblings[method]


def _unread(pipeline: Any, asked: ImageInput) -> str:
    """What to tell of what a pipeline does not read."""
    found = [
        name
        for name in drawing.unread(drawing.parameters_of(pipeline), asked)
        if name != "prompt" or asked.prompt
    ]
    return (
        f"{type(pipeline).__name__} reads no {' and no '.join(found)}: no difference was made" if found else ""
    )


def _texts_of(task: Task, given: dict[str, Any]) -> list[str]:
    """The prompts of one task of a call."""
    asked = task.request.input
    assert isinstance(asked, ImageInput)
    return [asked.prompt, *(text for name in TEXTS[1:] for text in _texts(given.get(name))[:1])]


def _texts(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else given or []


def create(capability: EngineCapability) -> DiffusersEngine:
    return DiffusersEngine(capability)
