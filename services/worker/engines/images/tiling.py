"""Pictures that go on at their edges: for a run, convolutions see the other side where the picture ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from stoker.services.worker.engines.base import EngineError

PARTS = ("unet", "vae", "movq")
"""What of a pipeline draws by convolutions."""


@contextmanager
def tiled(pipeline: Any, is_tiled: bool) -> Iterator[None]:
    """Within, a pipeline's convolutions wrap around if is_tiled; afterwards, also after an error, as before.

    Raises EngineError for a pipeline that does not draw by convolutions.
    """
    if not is_tiled:
        yield
        return
    parts = [part for name in PARTS if isinstance(part := getattr(pipeline, name, None), nn.Module)]
    convolutions = [module for part in parts for module in part.modules() if isinstance(module, nn.Conv2d)]
    if getattr(pipeline, "unet", None) is None or not convolutions:
        message = f"{type(pipeline).__name__} draws no tiles: only models with a UNet do"
        raise EngineError(message, "validation", field="tiling")
    before = [module.padding_mode for module in convolutions]
    try:
        for module in convolutions:
            module.padding_mode = "circular"
        yield
    finally:
        for module, mode in zip(convolutions, before, strict=True):
            module.padding_mode = mode
