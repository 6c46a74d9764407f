"""What a call of a pipeline needs besides what was asked for, by what its checkpoint is."""

from collections.abc import Collection
from typing import Any

from PIL import Image

from stoker.services.worker.engines.base import EngineError
from stoker.services.worker.engines.images.drawing import parameters_of, size_of
from stoker.services.worker.models.weights.detect import Checkpoint

DEFAULT_EDGE_PX = 512
INPAINT_CHANNELS = 9
FROM_A_PICTURE = (
    "Img2ImgPipeline", "Pix2PixPipeline", "FillPipeline", "ControlNetPipeline", "UpscalePipeline",
)  # fmt: skip
"""How classes end that draw from a picture though their signatures do not say so."""
BINNED = (16, 32, 64, 128, 256)
"""Sample sizes for which pipelines know sizes that they were trained for."""


def _sample_size(pipeline: Any) -> int | None:
    found: int | None = getattr(
        getattr(getattr(pipeline, "transformer", None), "config", None), "sample_size", None
    )
    return found


def completed(checkpoint: Checkpoint, pipeline: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The same arguments; a model that draws into masks draws into the whole where it is given none."""
    known = parameters_of(pipeline)
    if "use_resolution_binning" in known and _sample_size(pipeline) not in BINNED:
        given = given | {"use_resolution_binning": False}
    if "max_area" in known and "max_area" not in given and (size := size_of(given)) is not None:
        given = given | {"max_area": size[0] * size[1]}  # else it draws a million pixels, whatever is asked for
    if checkpoint.in_channels == INPAINT_CHANNELS and "mask_image" in known and "mask_image" not in given:
        if "image" not in given:
            size = (given.get("width") or DEFAULT_EDGE_PX, given.get("height") or DEFAULT_EDGE_PX)
            given = given | {"image": Image.new("RGB", size, (128, 128, 128)), "strength": 1.0}
        given = given | {"mask_image": Image.new("L", given["image"].size, 255)}
    return given


def check_start(checkpoint: Checkpoint, pipeline: Any, files: Collection[str]) -> None:
    """Raises EngineError for a pipeline that draws from a picture and is given none. files: their names."""
    wants = parameters_of(pipeline).get("image")
    is_needed = checkpoint.pipeline_class.endswith(FROM_A_PICTURE)
    if wants is not None and "image" not in files and (is_needed or wants.default is wants.empty):
        message = f"{type(pipeline).__name__} draws from a picture: send one as image"
        raise EngineError(message, "validation", field="image")
    if "image" in files and "mask_image" not in files and checkpoint.pipeline_class.endswith("FillPipeline"):
        message = f"{type(pipeline).__name__} draws into a mask: send one as mask_image"
        raise EngineError(message, "validation", field="mask_image")
