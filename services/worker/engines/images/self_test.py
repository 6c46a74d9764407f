"""Two steps at the smallest size before a pipeline counts as loaded: only what has drawn is hot."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from stoker.services.worker.engines.base import EngineError
from stoker.services.worker.engines.images.completing import FROM_A_PICTURE
from stoker.services.worker.engines.images.drawing import parameters_of

EDGE_PX = 64
STEPS = {"num_inference_steps": 2, "prior_num_inference_steps": 2, "decoder_num_inference_steps": 1}
FEW_FRAMES = {"num_frames": 9, "video_length": 9}
"""Of a video: decoders make 4 or 8 frames of one, and one more."""


class _NotFinite(Exception):
    """What was drawn has numbers that are none."""


def check_draws(pipeline: Any) -> str:
    """Draw once; what had to be changed for it ("": nothing). Raises EngineError for a pipeline that cannot."""
    try:
        try:
            _draw(pipeline)
        except _NotFinite:
            vae = getattr(pipeline, "vae", None)
            if vae is None or vae.dtype == torch.float32:
                raise
            vae.to(torch.float32)
            _draw(pipeline)
            return "the VAE's decoder runs in single precision: in half it makes numbers that are none (NaN)"
    except EngineError:
        raise
    except torch.OutOfMemoryError as error:
        raise EngineError("the device has no memory left to draw in", "resource") from error
    except _NotFinite as error:
        message = "it draws nothing but NaN: the weights are broken, or need the option dtype: fp32 (or bf16)"
        raise EngineError(message, "load_failed") from error
    except Exception as error:  # whatever its library raises: it cannot draw
        raise EngineError(
            f"{type(pipeline).__name__} was loaded and cannot draw: {type(error).__name__}: {str(error)[:300]}",
            "load_failed",
        ) from error
    return ""


def _draw(pipeline: Any) -> None:
    """Raises _NotFinite, EngineError for what makes no pictures, and what the library raises."""
    known = parameters_of(pipeline)
    needs_picture = type(pipeline).__name__.endswith(FROM_A_PICTURE)
    given = arguments(known, needs_picture=needs_picture)
    with torch.inference_mode():
        made = pipeline(**given)
    pictures = getattr(made, "images", None)
    if pictures is None:
        pictures = getattr(made, "frames", None)
    if pictures is None:
        raise EngineError(f"{type(pipeline).__name__} makes neither pictures nor videos", "load_failed")
    for picture in pictures:
        if not np.isfinite(np.asarray(picture, dtype=np.float32)).all():
            raise _NotFinite


def arguments(known: Mapping[str, Any], *, needs_picture: bool = False) -> dict[str, Any]:
    """What a pipeline with these parameters is asked: two steps, and what it draws from where it needs that.

    needs_picture: it does, though its signature does not say so.
    """
    grey = Image.new("RGB", (EDGE_PX, EDGE_PX), (128, 128, 128))
    wanted: dict[str, Any] = {
        "prompt": "a",
        "width": EDGE_PX,
        "height": EDGE_PX,
        **STEPS,
        **FEW_FRAMES,
        "output_type": "np",
        "generator": torch.Generator("cpu").manual_seed(0),
        "use_resolution_binning": False,
        "max_area": EDGE_PX * EDGE_PX,
        "_auto_resize": False,
    }
    for name, value in (("image", grey), ("mask_image", Image.new("L", grey.size, 255))):
        if name in known and known[name].default is known[name].empty:
            wanted[name] = value
    if needs_picture and "image" in known:
        wanted["image"] = grey
    if needs_picture and "control_image" in known:
        wanted["control_image"] = grey
    if "mask_image" in known:
        wanted |= {"image": grey, "mask_image": Image.new("L", grey.size, 255), "strength": 1.0}
    elif "strength" in known and "image" in known:
        wanted |= {"image": grey, "strength": 1.0}
    return {name: value for name, value in wanted.items() if name in known}
