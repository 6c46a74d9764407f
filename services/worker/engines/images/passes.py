"""Calls of a pipeline: one, or the two of hires fix; and what its errors mean."""

import ctypes
import gc
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from stoker.schemas.drawing import LATENT_UPSCALERS
from stoker.schemas.jobs import ImageInput
from stoker.services.worker.engines.base import EngineError
from stoker.services.worker.engines.images.clips import Clip, clips_of
from stoker.services.worker.engines.images.drawing import StepWatch, parameters_of, steps_of
from stoker.services.worker.engines.images.edits import Start, kept_whole
from stoker.services.worker.engines.images.finite import Device, Drawn, pictures_of, whole
from stoker.services.worker.engines.images.hires import (
    enlarged,
    enlarged_latents,
    second_call,
    target_of,
    upscaler_of,
)
from stoker.services.worker.engines.images.prompts import readable


@dataclass(frozen=True, slots=True)
class Raw:
    """What a call gave, still as numbers: to make pictures of them takes time, and no device.

    drawn: pictures or videos as the pipeline gives them. latents: the last ones, where they are known. rate:
    frames per second of videos; None: it gave pictures.
    """

    pipeline: Any
    drawn: Any
    latents: torch.Tensor | None
    rate: float | None = None

    def pictures(self, first: int, last: int, device: Device = nullcontext) -> Sequence[Drawn]:
        """Those from `first` to before `last`. device: as in `pictures_of`."""
        if self.rate is not None:
            return clips_of(self.drawn[first:last], self.rate)
        is_of_each = self.latents is not None and len(self.latents) == len(self.drawn)
        latents = self.latents[first:last] if self.latents is not None and is_of_each else None
        return pictures_of(self.pipeline, self.drawn[first:last], latents, device)


def drawn_from(
    pipeline: Any, given: dict[str, Any], watch: StepWatch, start: Start, count: int, rate: float
) -> Raw:
    """`count` pictures, or videos of `rate` frames per second. Raises EngineError, Stopped."""
    if start.source is not None and given.get("strength") == 0:
        return Raw(pipeline, kept_whole(start, count), None)
    return call(pipeline, given, watch, rate)


def drawn_twice(
    pipelines: tuple[Any, Any], given: dict[str, Any], asked: ImageInput, seeds: Sequence[int], watch: StepWatch
) -> tuple[Raw, dict[str, Any]]:
    """The pictures of hires fix, and what image tools are told of it. pipelines: of the first and second pass.

    given: arguments of the first. seeds: of the pictures. Raises EngineError, Stopped.
    """
    (first, second), hires = pipelines, asked.hires
    assert hires is not None
    known = parameters_of(second)
    if "mask_image" in known or "num_frames" in known:
        message = f"{type(second).__name__} draws masks or videos, and has no second pass: leave out enable_hr"
        raise EngineError(message, "validation", field="enable_hr")
    upscaler = upscaler_of(hires, second) if hires.strength > 0 else "Lanczos"
    is_latent = upscaler in LATENT_UPSCALERS
    if given.get("width") and given.get("height"):
        target_of(hires, given["width"], given["height"])  # an error comes before anything is drawn
    steps = steps_of(first, given)
    again = second_call(given, hires, given.get("num_inference_steps") or steps, seeds, known)
    more = max(int(again["num_inference_steps"] * again["strength"]), 1) if hires.strength > 0 else 0
    watch.steps += more
    kind = {"output_type": "latent"} if is_latent else {}
    raw = call(first, readable(first, given, asked.prompt_weights) | kind, watch)
    if is_latent:
        assert watch.latents is not None
        factor: int = first.vae_scale_factor
        height, width = (edge * factor for edge in watch.latents.shape[-2:])
        size = target_of(hires, width, height)
        again["image"] = enlarged_latents(watch.latents, size, factor, upscaler)
    else:
        drawn = whole(raw.pictures(0, len(seeds)), watch.latents)
        pictures = [one for one in drawn if not isinstance(one, Clip)]
        width, height = pictures[0].size
        size = target_of(hires, width, height)
        again["image"] = [enlarged(one, size, upscaler) for one in pictures]
        raw = Raw(first, again["image"], None)
    again |= {name: edge for name, edge in zip(("width", "height"), size, strict=True) if name in known}
    if hires.strength > 0:
        watch.done, watch.size = steps, size
        raw = call(second, readable(second, again, asked.prompt_weights), watch)
    return raw, {
        "Size": f"{width}x{height}",
        "Denoising strength": hires.strength,
        "Hires upscale": None if hires.width or hires.height else hires.scale,
        "Hires resize": f"{hires.width}x{hires.height}" if hires.width or hires.height else None,
        "Hires steps": hires.steps or None,
        "Hires upscaler": upscaler,
    }


def call(pipeline: Any, given: dict[str, Any], watch: StepWatch, rate: float = 0.0) -> Raw:
    """Draw; rate: as for `drawn_from`. Raises EngineError, Stopped."""
    takes = parameters_of(pipeline)
    if "callback_on_step_end" in takes:
        given = given | {"callback_on_step_end": watch}
    elif "callback" in takes and "callback_steps" in takes:  # as pipelines had it before
        given = given | {"callback": partial(watch.old_callback, pipeline), "callback_steps": 1}
    if "output_type" in takes and given.get("padding_mask_crop") is None:  # which is done with pictures only
        given = {"output_type": "np"} | given
    try:
        with torch.inference_mode():
            made = pipeline(**given)
        if hasattr(made, "frames"):
            return Raw(pipeline, made.frames, watch.latents, rate)
        return Raw(pipeline, made.images, watch.latents)
    except torch.OutOfMemoryError as error:
        free_memory()
        raise EngineError("the device has not enough memory for this size", "resource") from error
    except (ValueError, TypeError, RuntimeError, LookupError, AttributeError, AssertionError) as error:
        raise EngineError(f"{type(pipeline).__name__}: {error}", "validation") from error


def free_memory() -> None:
    """Give memory back to the device and to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
