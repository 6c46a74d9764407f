"""Writes pictures: PNG, JPEG and WebP, with how they were made where image tools look for it.

That text is what A1111 and its kin write and read: in a PNG the text chunk `parameters`, in JPEG and WebP the
UserComment of the EXIF.
"""

import io
from collections.abc import Mapping
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stoker.schemas.formats import PictureFormat
from stoker.services.worker.engines.images.reading import opaque

EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
MAX_COMMENT_BYTES = 60_000
"""The EXIF of a JPEG has at most 65,533 bytes; of a longer text its last line is written."""
SAMPLERS = {
    "DDIMScheduler": "DDIM",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "DPMSolverSDEScheduler": "DPM++ SDE",
    "DPMSolverSinglestepScheduler": "DPM++ 2S",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "EulerDiscreteScheduler": "Euler",
    "FlowMatchEulerDiscreteScheduler": "Euler",
    "HeunDiscreteScheduler": "Heun",
    "KDPM2AncestralDiscreteScheduler": "DPM2 a",
    "KDPM2DiscreteScheduler": "DPM2",
    "LCMScheduler": "LCM",
    "LMSDiscreteScheduler": "LMS",
    "PNDMScheduler": "PLMS",
    "UniPCMultistepScheduler": "UniPC",
}
"""What image tools call the schedulers of diffusers; others go by their class."""


def sampler_of(pipeline: Any) -> str | None:
    """The name of a pipeline's scheduler in image tools."""
    scheduler = getattr(pipeline, "scheduler", None)
    name = type(scheduler).__name__
    return None if scheduler is None else SAMPLERS.get(name, name.removesuffix("Scheduler"))


def infotext(prompt: str, negative_prompt: str | None, facts: Mapping[str, Any]) -> str:
    """How a picture was made: the prompt, the negative prompt, and a line of facts that are not None.

    Without a prompt the line alone.
    """
    negative = f"\nNegative prompt: {negative_prompt}" if negative_prompt and prompt else ""
    told = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in facts.items() if value is not None)
    return (f"{prompt}{negative}\n" if prompt else "") + told


def _quoted(value: str) -> str:
    """A value with a comma or a colon stands in quotation marks, as A1111 has it."""
    if not any(mark in value for mark in ",:\n"):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def written(image: Image.Image, kind: PictureFormat = "png", quality: int = 92, text: str = "") -> bytes:
    """A picture as a file. quality: of JPEG and WebP, 0 to 100. text: how it was made; "" leaves it out.

    What is transparent is white in a JPEG.
    """
    buffer = io.BytesIO()
    match kind:
        case "png":
            info = PngInfo()
            if text:
                info.add_text("parameters", text)
            image.save(buffer, "PNG", pnginfo=info)
        case "jpeg":
            opaque(image).save(buffer, "JPEG", quality=max(quality, 1), exif=_exif(text))
        case "webp":
            image.save(buffer, "WEBP", quality=quality, exif=_exif(text))
    return buffer.getvalue()


def _exif(text: str) -> bytes:
    if not text:
        return b""
    comment = text.encode("utf-16-be", "replace")
    if len(comment) > MAX_COMMENT_BYTES:
        comment = text.rpartition("\n")[2].encode("utf-16-be", "replace")[:MAX_COMMENT_BYTES]
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"UNICODE\0" + comment
    return exif.tobytes()
