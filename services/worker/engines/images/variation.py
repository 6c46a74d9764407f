"""Variations of a picture: its noise, moved towards that of another seed, on the arc between them.

Source: A1111's modules/rng.py (`slerp`), where the seed stays and the other counts up from picture to picture.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stoker.schemas.drawing import Variation
from stoker.schemas.jobs import picture_seed
from stoker.services.worker.engines.base import EngineError
from stoker.services.worker.engines.images.prompts import takes_pieces

ALIKE = 0.9995
"""The cosine above which noises are so alike that the arc is a line."""


def varied_noise(pipeline: Any, given: Mapping[str, Any], asked: Variation, n: int) -> Tensor:
    """The first latents of a call, [pictures, channels, height / 8, width / 8].

    given: its arguments; their generators are as far then as they are without a variation. n: pictures of a
    job. Raises EngineError for other pipelines than Stable Diffusion's.
    """
    if not takes_pieces(pipeline):
        message = f"{type(pipeline).__name__} makes no variations: only Stable Diffusion does"
        raise EngineError(message, "validation", field="subseed_strength")
    factor: int = pipeline.vae_scale_factor
    own = pipeline.unet.config.sample_size
    own_height, own_width = own if isinstance(own, list | tuple) else (own, own)
    shape = (
        1,
        pipeline.unet.config.in_channels,
        (given.get("height") or own_height * factor) // factor,
        (given.get("width") or own_width * factor) // factor,
    )
    rows = []
    for index, generator in enumerate(given["generator"]):
        other = torch.Generator("cpu").manual_seed(picture_seed(asked.seed, index % n))
        low, high = (torch.randn(shape, generator=one, dtype=pipeline.unet.dtype) for one in (generator, other))
        rows.append(between(low[0].float(), high[0].float(), asked.strength).to(low.dtype))
    return torch.stack(rows)


def between(low: Tensor, high: Tensor, share: float) -> Tensor:
    """Noise [channels, height, width] on the arc from one (share 0) to the other (share 1), by columns."""
    if share <= 0:
        return low
    cosine = (low / low.norm(dim=1, keepdim=True) * high / high.norm(dim=1, keepdim=True)).sum(1, keepdim=True)
    if cosine.mean() > ALIKE:
        return low * (1 - share) + high * share
    angle = torch.acos(cosine.clamp(-1, 1))
    sine = torch.sin(angle).clamp(min=1e-6)
    return torch.sin((1 - share) * angle) / sine * low + torch.sin(share * angle) / sine * high
