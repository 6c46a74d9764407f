"""From the numbers that a pipeline draws to pictures, and what becomes of those that are NaN or infinite.

Half precision overflows in many decoders; the picture is then NaN, and would be written as black. The latents
are often sound, and decoded once more in single precision.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy
import torch
from PIL import Image

from stoker.services.worker.engines.base import EngineError
from stoker.services.worker.engines.images.clips import Clip
from stoker.services.worker.engines.images.latents import as_rows, scaled

Drawn = Image.Image | Clip | None
"""A picture or a video; None where it is NaN."""
Device = Callable[[], AbstractContextManager[object]]
"""Within it nobody else computes with the pipeline."""


def pictures_of(pipeline: Any, drawn: Any, latents: torch.Tensor | None, device: Device) -> list[Drawn]:
    """drawn: what the pipeline gives: pictures, or an array [n, height, width, 3] of 0 to 1.

    latents: the last ones, [n, channels, height / 8, width / 8], where they are known. device: is taken for
    what has to be decoded again.
    """
    if not isinstance(drawn, numpy.ndarray):
        return list(drawn)
    found: list[Drawn] = []
    for index, one in enumerate(drawn):
        row = latents[index : index + 1] if latents is not None and len(latents) == len(drawn) else None
        if numpy.isfinite(one).all():
            found.append(picture_of(one))
            continue
        with device():
            sound = _decoded_in_single_precision(pipeline, row)
        found.append(None if sound is None else picture_of(sound))
    return found


def picture_of(values: Any) -> Image.Image:
    """An array [height, width, 3] of 0 to 1 as a picture."""
    levels = (values * 255).round().astype("uint8")
    return Image.fromarray(levels.squeeze(-1) if levels.shape[-1] == 1 else levels)


def not_a_number(latents: torch.Tensor | None = None) -> EngineError:
    """The error for a picture that is NaN. latents: the last ones, where they are known."""
    where = "the decoder's output is" if latents is not None and _is_finite(latents) else "what was drawn is"
    return EngineError(
        f"{where} not a number (NaN or infinite), so there is no picture. Try single precision (option `dtype: "
        "fp32` of the model) or bf16, a VAE made for half precision, or a lower guidance_scale; where single "
        "precision gives NaN too, the weights are damaged",
        "fatal",
        code="nan_picture",
    )


def whole(drawn: Sequence[Drawn], latents: torch.Tensor | None) -> list[Image.Image | Clip]:
    """The pictures of one task. Raises EngineError where one is NaN."""
    sound = [image for image in drawn if image is not None]
    if len(sound) < len(drawn):
        raise not_a_number(latents)
    return sound


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _decoded_in_single_precision(pipeline: Any, latents: torch.Tensor | None) -> Any:
    """The picture [height, width, 3] of the latents of one; None where there is nothing more to try."""
    vae: Any = getattr(pipeline, "vae", None)
    if type(vae).__name__ != "AutoencoderKL" or vae.dtype == torch.float32:
        return None
    latents = as_rows(pipeline, latents) if latents is not None else None
    if latents is None or not _is_finite(latents):
        return None
    before = vae.dtype
    vae.to(dtype=torch.float32)
    try:
        with torch.inference_mode():
            sample = vae.decode(scaled(vae.config, latents.float()), return_dict=False)[0]
    finally:
        vae.to(dtype=before)
    values = (sample[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return values if numpy.isfinite(values).all() else None
