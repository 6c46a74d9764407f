"""Latents as rows of channels x height x width, whatever way a family lays them out; and a look at them.

| layout | families |
|---|---|
| [n, channels, h, w] | SD1.x to SD3, SDXL, PixArt, Sana, Lumina 2, Z-Image, Kandinsky |
| [n, cells, channels] | FLUX, Chroma, Qwen-Image: patches of 2 x 2, in a row |
| [n, channels, frames, h, w] or [n, frames, channels, h, w] | videos: the frame in the middle is taken |
"""

import math
from typing import Any

import numpy
import torch
from PIL import Image

PREVIEW_EDGE_PX = 256
"""Longest edge of a preview; the true decoder is used only where it is quick (small latents)."""
SMALL_LATENT_CELLS = 32 * 32
POOLED_CELLS = 8
CHANNELS_OF_SD = 4
# Four latent channels to RGB for the common SD latent space: a linear fit, good enough to watch.
LATENT_TO_RGB = torch.tensor(
    [[0.298, 0.207, 0.208], [0.187, 0.286, 0.173], [-0.158, 0.189, 0.264], [-0.184, -0.271, -0.473]]
)


def as_rows(pipeline: Any, latents: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor | None:
    """Latents as [n, channels, h, w]; None where their layout is not known.

    size: width and height of the picture in pixels; None takes it for a square.
    """
    if latents.ndim == 4:
        return latents
    if latents.ndim == 5:
        channels = _channels(pipeline)
        frames_first = latents.shape[1] != channels and latents.shape[2] == channels
        return latents[:, latents.shape[1] // 2] if frames_first else latents[:, :, latents.shape[2] // 2]
    unpack, factor = getattr(pipeline, "_unpack_latents", None), getattr(pipeline, "vae_scale_factor", None)
    if latents.ndim != 3 or unpack is None or factor is None:
        return None
    if size is None:
        edge = math.isqrt(latents.shape[1]) * 2 * factor
        size = (edge, edge)
    try:
        rows: torch.Tensor = unpack(latents, size[1], size[0], factor)
    except (RuntimeError, TypeError):  # another size, or a signature of its own
        return None
    return rows[:, :, 0] if rows.ndim == 5 else rows


def _channels(pipeline: Any) -> int:
    config = getattr(getattr(pipeline, "vae", None), "config", {})
    return int(config.get("latent_channels") or config.get("z_dim") or CHANNELS_OF_SD)


def scaled(config: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents as the decoder wants them, by the numbers in its configuration."""
    mean, deviation = (config.get(name) for name in ("latents_mean", "latents_std"))
    if mean is not None and deviation is not None:
        as_tensor = [torch.tensor(one, device=latents.device).view(1, -1, 1, 1) for one in (mean, deviation)]
        return latents * as_tensor[1] / config["scaling_factor"] + as_tensor[0]
    return latents / config["scaling_factor"] + (config.get("shift_factor") or 0.0)


def preview_of(pipeline: Any, latents: torch.Tensor, size: tuple[int, int] | None = None) -> Image.Image | None:
    """What a picture looks like so far: decoded where that is cheap, else a guess; None where neither is known.

    latents: of one picture. size: as for `as_rows`.
    """
    rows = as_rows(pipeline, latents.detach(), size)
    if rows is None:
        return None
    vae = getattr(pipeline, "vae", None)
    is_small = rows.shape[-1] * rows.shape[-2] <= SMALL_LATENT_CELLS
    if type(vae).__name__ == "AutoencoderKL" and is_small:
        assert vae is not None
        decoded = vae.decode(scaled(vae.config, rows).to(vae.dtype)).sample
        pixels = (decoded[0].float().cpu() / 2 + 0.5).permute(1, 2, 0)
    else:
        pixels = _guess(rows[0].float().cpu())
    image = Image.fromarray((pixels.nan_to_num().clamp(0, 1) * 255).byte().numpy())
    scale = PREVIEW_EDGE_PX / max(image.size)
    return image if scale >= 1 else image.resize((int(image.width * scale), int(image.height * scale)))


def _guess(channels: torch.Tensor) -> torch.Tensor:
    """[channels, h, w] to [h, w, 3]. Of spaces other than SD's: three channels, each over its range."""
    if len(channels) == CHANNELS_OF_SD:
        return torch.einsum("chw,cr->hwr", channels, LATENT_TO_RGB) + 0.5
    first = (
        channels[:3].expand(3, -1, -1) if len(channels) == 1 else channels[[0, 1, min(2, len(channels) - 1)]]
    )
    low, high = first.amin((1, 2), keepdim=True), first.amax((1, 2), keepdim=True)
    return ((first - low) / (high - low).clamp(min=1e-6)).permute(1, 2, 0)


def pooled_latents(rows: torch.Tensor) -> bytes:
    """The final latents of one picture, [1, 4, 8, 8] float16 little-endian: 512 bytes.

    rows: [1, channels, h, w], of which the first four are told. Pooled in float32 by adaptive averages, NCHW.
    """
    first = rows.detach()[:, :CHANNELS_OF_SD].float().cpu()
    pooled = torch.nn.functional.adaptive_avg_pool2d(first, POOLED_CELLS)
    values: Any = pooled.to(torch.float16).contiguous().numpy()
    content: bytes = values.astype(numpy.dtype("<f2")).tobytes()
    return content
