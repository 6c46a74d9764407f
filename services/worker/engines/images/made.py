"""What an engine gives back of a call: pictures as files that say how they were made, and the facts besides."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from PIL import Image

from stoker.schemas.job_events import Picture
from stoker.schemas.jobs import ImageInput, picture_seed
from stoker.services.worker.engines.base import EngineError, Images, Request, Task
from stoker.services.worker.engines.images.clips import Clip, written_clip
from stoker.services.worker.engines.images.drawing import StepWatch, size_of
from stoker.services.worker.engines.images.edits import Start
from stoker.services.worker.engines.images.finite import Device, whole
from stoker.services.worker.engines.images.latents import as_rows, pooled_latents
from stoker.services.worker.engines.images.passes import Raw
from stoker.services.worker.engines.images.writing import infotext, written
from stoker.services.worker.runner.resources import measure


def parameters_of_call(given: dict[str, Any], image: Image.Image | Clip) -> dict[str, Any]:
    """The arguments as they were used, as far as JSON can say them."""
    plain = {name: value for name, value in given.items() if isinstance(value, str | int | float | bool)}
    return plain | {"width": image.width, "height": image.height}


@dataclass(frozen=True, slots=True)
class Made:
    """What a call gave, and what it was made with. The pipeline may draw the next by now: nothing is read of it
    that a call changes, but for the time that `device` is taken.

    options: of the model. given: the call's arguments. details: as in services.worker.engines.base.Images. cut:
    tokens by task. facts: more of what image tools are told. sampler: what they call it.
    """

    raw: Raw
    start: Start
    device: Device
    pipeline: Any
    options: dict[str, Any]
    given: dict[str, Any]
    watch: StepWatch
    details: dict[str, Any]
    cut: Sequence[int]
    facts: Mapping[str, Any]
    sampler: str | None

    def finished(self, task: Task, index: int) -> Images | EngineError:
        """The files of task number `index` with their metadata, and the latents where they are asked for."""
        asked, seed, latents = task.request.input, task.request.seed, self.watch.latents
        assert isinstance(asked, ImageInput)
        drawn = self.raw.pictures(index * asked.n, (index + 1) * asked.n, self.device)
        try:
            images = [self.start.finished(image) for image in whole(drawn, latents)]
            files = [self._file(asked, image, task.request, i) for i, image in enumerate(images)]
        except EngineError as error:
            return error
        details: dict[str, Any] = {"parameters": parameters_of_call(self.given, images[0])} | self.details
        details |= {"resources": msgspec.to_builtins(measure())}
        details |= {"cut_prompt_tokens": self.cut[index]} if self.cut[index] else {}
        if asked.has_latents and latents is not None:
            own = latents[index * asked.n : (index + 1) * asked.n]
            rows = as_rows(self.pipeline, own, size_of(self.given))
            pooled = [pooled_latents(rows[i : i + 1]) for i in range(asked.n)] if rows is not None else []
            details = details | {"latents": [base64.b64encode(one).decode() for one in pooled]}
        pictures = tuple(
            Picture(
                seed=asked.seed_of(seed, offset),
                width=image.width,
                height=image.height,
                image_bytes=len(content),
                content_type=kind,
            )
            for offset, (image, (content, kind)) in enumerate(zip(images, files, strict=True))
        )
        return Images(pictures, tuple(content for content, _ in files), details)

    def _file(
        self, asked: ImageInput, image: Image.Image | Clip, request: Request, offset: int
    ) -> tuple[bytes, str]:
        """A picture or video as a file, and its media type. Raises EngineError."""
        text = self._text(asked, image, request, offset)
        if isinstance(image, Clip):
            return written_clip(image, asked.output_format, asked.quality, text)
        kind = asked.output_format or "png"
        assert kind != "gif" and kind != "mp4", "refused before it was drawn"
        return written(image, kind, asked.quality, text), f"image/{kind}"

    def _text(self, asked: ImageInput, image: Image.Image | Clip, request: Request, offset: int) -> str:
        """How a picture was made, in the words of image tools."""
        if not self.options.get("png_parameters", True):
            return ""
        varied = asked.variation
        facts = {
            "Steps": self.given.get("num_inference_steps", self.watch.steps),
            "Sampler": self.sampler,
            "CFG scale": asked.guidance_scale,
            "Seed": asked.seed_of(request.seed, offset),
            "Size": f"{image.width}x{image.height}",
            "Model": request.title or None,
            "Clip skip": asked.clip_skip if (asked.clip_skip or 1) > 1 else None,
            "Denoising strength": self.given.get("strength"),
            "Variation seed": picture_seed(varied.seed, offset) if varied is not None else None,
            "Variation seed strength": varied.strength if varied is not None else None,
            "Tiling": asked.tiling or None,
            **self.facts,
            "Version": "stoker",
        }
        has_prompt = bool(self.options.get("png_prompt", True))
        return infotext(asked.prompt if has_prompt else "", asked.negative_prompt, facts)
