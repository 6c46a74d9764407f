"""Enlarging a picture in passes: limits, order, and the file that comes out; engines bring the pass itself.

Upscalers know colours only: what is transparent is enlarged beside them, by an ordinary filter.
"""

from collections.abc import Callable

from PIL import Image

from stoker.schemas.job_events import Picture
from stoker.schemas.jobs import UpscaleInput
from stoker.services.worker.engines.base import Cancellation, EngineError, Images, Stopped
from stoker.services.worker.engines.images.reading import read_picture
from stoker.services.worker.engines.images.writing import written

MAX_OUTPUT_PIXELS = 24_000_000

OnePass = Callable[[Image.Image], Image.Image]


def enlarged(
    asked: UpscaleInput, one_pass: OnePass, cancelled: Cancellation, scale: int | None = None
) -> Images:
    """`magnitude` passes over the picture. scale: of one pass where it is known before.

    Raises EngineError when the result would be too large, Stopped.
    """
    image = read_picture(asked.files["image"].content, "file")
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    image = image.convert("RGB")
    factor = scale or 1
    _check(image.width, image.height, factor**asked.magnitude)
    for _ in range(asked.magnitude):
        if cancelled.is_set():
            raise Stopped
        _check(image.width, image.height, factor)
        larger = one_pass(image)
        factor, image = larger.width // image.width, larger
    if alpha is not None:
        image = image.convert("RGB")
        image.putalpha(alpha.resize(image.size, Image.Resampling.LANCZOS))
    content = written(image, asked.output_format, asked.quality)
    picture = Picture(
        seed=0,
        width=image.width,
        height=image.height,
        image_bytes=len(content),
        content_type=f"image/{asked.output_format}",
    )
    return Images((picture,), (content,), {"passes": asked.magnitude, "scale_per_pass": factor})


def _check(width: int, height: int, factor: int) -> None:
    if width * height * factor**2 > MAX_OUTPUT_PIXELS:
        raise EngineError(
            f"{width}x{height} enlarged {factor} times is more than {MAX_OUTPUT_PIXELS // 10**6} megapixels; "
            "ask for a lower magnitude",
            "validation",
        )
