"""Super-resolution: the common upscalers (ESRGAN and its kin, SwinIR, …) as spandrel loads them, in tiles.

Tiles overlap by `OVERLAP_PX` of the input, more than the reach at which neighbours still matter for the eye;
only the inner part of each is kept. Options of the model: `tile` (edge in pixels, 256), `device`.
"""

import asyncio
import sys
import threading
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy
import torch
from PIL import Image

from stoker.schemas.jobs import UpscaleInput
from stoker.schemas.workers import EngineCapability
from stoker.services.worker.engines.base import (
    Cancellation,
    Emitter,
    EngineError,
    ModelFiles,
    Request,
    RunOutput,
    Stopped,
)
from stoker.services.worker.engines.images.finite import not_a_number
from stoker.services.worker.engines.images.pipelines import device_of
from stoker.services.worker.engines.images.upscaling import enlarged
from stoker.services.worker.models.weights.detect import UnknownCheckpoint, tensor_shapes

DEFAULT_TILE_PX = 256
OVERLAP_PX = 16


def _import_spandrel() -> Any:
    """spandrel wants torchvision for two architectures that are no upscalers; the others do without."""
    try:
        import_module("torchvision")
    except ImportError:
        functional = ModuleType("torchvision.transforms.functional")
        for name in ("InterpolationMode", "rotate", "normalize"):
            setattr(functional, name, None)
        for name in ("torchvision", "torchvision.transforms"):
            sys.modules.setdefault(name, ModuleType(name))
        sys.modules.setdefault(functional.__name__, functional)
    import spandrel

    return spandrel


class SpandrelEngine:
    """See the file's opening."""

    def __init__(self, capability: EngineCapability) -> None:
        self.capability = capability
        self._spandrel = _import_spandrel()
        self._models: dict[str, Any] = {}
        self._files: dict[str, ModelFiles] = {}
        self._turn = threading.Lock()

    def load(self, files: ModelFiles) -> None:
        try:
            tensor_shapes(files.path)  # refuses what is truncated, or would run code
            model = self._spandrel.ModelLoader(device="cpu").load_from_file(files.path)
        except UnknownCheckpoint as error:
            raise EngineError(str(error), "load_failed") from error
        except (ValueError, KeyError, RuntimeError, OSError) as error:
            reason = f"{files.path.name} is no upscaler that spandrel knows: {error or type(error).__name__}"
            raise EngineError(reason, "load_failed") from error
        if not isinstance(model, self._spandrel.ImageModelDescriptor) or model.scale < 2:
            raise EngineError(f"{files.path.name} does not enlarge pictures", "load_failed")
        self._models[files.model] = model.eval().to(device_of(files.options))
        self._files[files.model] = files

    def unload(self, model: str) -> None:
        self._models.pop(model, None)
        self._files.pop(model, None)

    def park(self, model: str) -> None:
        self._models[model].to("cpu")

    def unpark(self, model: str) -> None:
        self._models[model].to(device_of(self._files[model].options))

    def memory_bytes(self, model: str) -> int:
        tensors = self._models[model].model.state_dict().values()
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    async def run(self, model: str, request: Request, emit: Emitter, cancelled: Cancellation) -> RunOutput:
        asked = request.input
        if not isinstance(asked, UpscaleInput):
            raise EngineError("an upscaler enlarges pictures only", "validation")
        upscaler = self._models[model]
        tile = int(self._files[model].options.get("tile", DEFAULT_TILE_PX))

        def one_pass(image: Image.Image) -> Image.Image:
            return _in_tiles(upscaler, image, tile, emit, cancelled)

        def work() -> RunOutput:
            with self._turn, torch.inference_mode():
                return enlarged(asked, one_pass, cancelled, upscaler.scale)

        return await asyncio.to_thread(work)


def _in_tiles(model: Any, image: Image.Image, tile: int, emit: Emitter, cancelled: Cancellation) -> Image.Image:
    """One pass. Raises Stopped between tiles, EngineError when the device is full."""
    pixels = torch.from_numpy(numpy.asarray(image).copy()).permute(2, 0, 1).float().unsqueeze(0) / 255
    height, width = pixels.shape[-2:]
    scale = model.scale
    result = torch.empty(1, 3, height * scale, width * scale)
    corners = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
    for index, (y, x) in enumerate(corners):
        if cancelled.is_set():
            raise Stopped
        top, left = max(y - OVERLAP_PX, 0), max(x - OVERLAP_PX, 0)
        bottom, right = min(y + tile, height), min(x + tile, width)
        piece = pixels[..., top : min(bottom + OVERLAP_PX, height), left : min(right + OVERLAP_PX, width)]
        try:
            drawn = model(piece.to(model.device)).float().cpu()
        except torch.OutOfMemoryError as error:
            raise EngineError("the device has not enough memory for this tile", "resource") from error
        inner_y, inner_x = (y - top) * scale, (x - left) * scale
        rows, columns = (bottom - y) * scale, (right - x) * scale
        result[..., y * scale : bottom * scale, x * scale : right * scale] = drawn[
            ..., inner_y : inner_y + rows, inner_x : inner_x + columns
        ]
        emit.step(index + 1, len(corners))
    if not torch.isfinite(result).all():
        raise not_a_number()
    array = (result[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array)


def create(capability: EngineCapability) -> SpandrelEngine:
    return SpandrelEngine(capability)
