"""Hires fix: what is drawn is enlarged, and drawn from once more at that size.

Latents are enlarged as A1111 does it, where the pipeline takes latents for a picture (Stable Diffusion); else
the picture is. To another shape it is enlarged until it covers the size, and its middle is kept. The second
pass has the seeds of the first, anew.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image, ImageOps

from stoker.schemas.drawing import LATENT_UPSCALERS, UPSCALERS, HiresFix
from stoker.services.worker.engines.base import EngineError
from stoker.services.worker.engines.images.edits import MAX_EDGE_PX, with_a_step
from stoker.services.worker.engines.images.prompts import PIPELINES, XL_PIPELINES

Size = tuple[int, int]
RESAMPLING = {
    "Bicubic": Image.Resampling.BICUBIC,
    "Lanczos": Image.Resampling.LANCZOS,
    "Nearest": Image.Resampling.NEAREST,
    "None": Image.Resampling.LANCZOS,
}


def upscaler_of(asked: HiresFix, second: Any) -> str:
    """The upscaler by name. second: the pipeline of the second pass. Raises EngineError where it cannot."""
    takes_latents = type(second).__name__ in (PIPELINES[1], XL_PIPELINES[1])
    if not asked.upscaler:
        return LATENT_UPSCALERS[0] if takes_latents else "Lanczos"
    if asked.upscaler not in UPSCALERS or (asked.upscaler in LATENT_UPSCALERS and not takes_latents):
        message = f"{type(second).__name__} takes no latents to draw from: use hr_upscaler Lanczos"
        raise EngineError(message, "validation", field="hr_upscaler")
    return asked.upscaler


def target_of(asked: HiresFix, width: int, height: int) -> Size:
    """Width and height of the second pass. Raises EngineError for a size that cannot be drawn."""
    size = asked.size(width, height)
    if not 0 < min(size) <= max(size) <= MAX_EDGE_PX:
        message = f"hires fix would draw {size[0]}x{size[1]}: an edge is {MAX_EDGE_PX} pixels at most"
        raise EngineError(message, "validation", field="hr_scale")
    return size


def enlarged(image: Image.Image, size: Size, upscaler: str) -> Image.Image:
    """A picture of that size: enlarged until it covers it, and cut about its middle."""
    return ImageOps.fit(image, size, RESAMPLING.get(upscaler, Image.Resampling.LANCZOS))


def enlarged_latents(latents: torch.Tensor, size: Size, factor: int, upscaler: str) -> torch.Tensor:
    """Latents [n, channels, height / factor, width / factor] for a picture of that size, in the same way."""
    wide, high = (edge // factor for edge in size)
    height, width = latents.shape[-2:]
    scale = max(wide / width, high / height)
    cover = (max(round(height * scale), high), max(round(width * scale), wide))
    mode = next((one for one in ("bicubic", "nearest-exact", "nearest") if one in upscaler), "bilinear")
    grown = torch.nn.functional.interpolate(latents, cover, mode=mode, antialias="antialiased" in upscaler)
    top, left = (cover[0] - high) // 2, (cover[1] - wide) // 2
    return grown[..., top : top + high, left : left + wide]


def second_call(
    given: Mapping[str, Any], asked: HiresFix, steps: int, seeds: Sequence[int], known: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of the second pass without its picture. steps: asked of the first. known: what it takes."""
    again = {name: value for name, value in given.items() if name in known and name not in ("latents", "image")}
    count = asked.steps or steps
    again |= {"num_inference_steps": count, "strength": with_a_step(asked.strength, count)}
    again["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return again
