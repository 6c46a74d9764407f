"""Reads the pictures of requests: which formats, how large, upright, in sRGB with eight bits; Pillow alone.

A picture comes from a stranger. So only the formats below are tried: others would have Pillow start programs
(Ghostscript for EPS). What a file says of its size is checked before a pixel is decoded, and text within a PNG
is unpacked up to a limit. Decoders raise whatever they like over damaged files; here it becomes one error.
"""

import io
from functools import cache
from typing import Any

import numpy
from PIL import Image, ImageChops, ImageCms, PngImagePlugin, UnidentifiedImageError

from stoker.services.worker.engines.base import EngineError

MAX_PIXELS = 24_000_000
MAX_TEXT_CHUNK_BYTES = 2**20
MAX_TEXT_BYTES = 4 * 2**20
"""Of one text within a PNG, unpacked, and of all of them. Colour profiles in PNGs fall under the first."""
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
READABLE = "PNG, JPEG, WebP, AVIF, GIF (its first picture), BMP or TIFF"
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by the orientation in its EXIF."""

PngImagePlugin.MAX_TEXT_CHUNK = MAX_TEXT_CHUNK_BYTES
PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT_BYTES


def read_picture(content: bytes, field: str) -> Image.Image:
    """A picture as RGB, or as RGBA where something of it is transparent; at most MAX_PIXELS.

    field: of the request, for errors. Raises EngineError "validation" for what is no such picture.
    """
    formats, named = _formats()
    try:
        image = Image.open(io.BytesIO(content), formats=formats)
        if image.width * image.height > MAX_PIXELS:
            raise _too_large(field, f"{image.width}x{image.height}")
        if image.mode == "F":
            raise _refused(field, "has values that are no whole numbers: save it with 8 or 16 bits, as PNG")
        image.load()
        return _plain(_upright(image))
    except EngineError:
        raise
    except UnidentifiedImageError as error:
        raise _refused(field, f"is not a picture that can be read: send {named}") from error
    except Image.DecompressionBombError as error:
        raise _too_large(field, "far more") from error
    except MemoryError as error:
        raise EngineError(f"there is not enough memory to read {field}", "resource") from error
    except (
        Exception
    ) as error:  # a decoder over a damaged file: OSError, SyntaxError, ValueError, struct.error, …
        if "MAX_TEXT" in str(error):
            limit = f"more than {MAX_TEXT_CHUNK_BYTES // 2**20} MB of text or colour profile"
            raise _refused(field, f"has {limit} in it: save it again without metadata") from error
        reason = str(error) or type(error).__name__
        raise _refused(field, f"is damaged ({reason}): save it again as {named}") from error


def read_mask(content: bytes, field: str) -> Image.Image:
    """A mask as L: white where to draw. Of two customs: what is transparent is drawn (OpenAI's); where nothing
    is transparent, what is white. Raises EngineError as above.
    """
    image = read_picture(content, field)
    return mask_of(image) or image.convert("L")


def mask_of(image: Image.Image) -> Image.Image | None:
    """White where a picture is transparent; None where nothing of it is."""
    return ImageChops.invert(image.getchannel("A")) if image.mode == "RGBA" else None


def opaque(image: Image.Image) -> Image.Image:
    """A picture on white, RGB."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image).convert("RGB")


@cache
def _formats() -> tuple[tuple[str, ...], str]:
    """The formats that can be read here, and their names; HEIC where pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return FORMATS, READABLE
    pillow_heif.register_heif_opener(thumbnails=False)
    return (*FORMATS, "HEIF"), READABLE.replace("AVIF,", "AVIF, HEIC,")


def _refused(field: str, message: str) -> EngineError:
    return EngineError(f"{field} {message}", "validation", field=field)


def _too_large(field: str, size: str) -> EngineError:
    limit = MAX_PIXELS // 10**6
    return _refused(field, f"is more than {limit} megapixels ({size} pixels): make it smaller")


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF has it. Damaged EXIF says nothing."""
    info, orientation = image.info, 1
    try:
        orientation = int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # as for decoders; the pixels are there all the same
        pass
    if orientation not in UPRIGHT:
        return image
    turned = image.transpose(UPRIGHT[orientation])
    turned.info = info
    return turned


def _plain(image: Image.Image) -> Image.Image:
    """Eight bits, RGB or RGBA, sRGB."""
    profile = image.info.get("icc_profile")
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if image.mode in ("P", "PA", "RGBa", "La"):
        kind = {"RGBa": "RGBA", "La": "LA"}.get(image.mode)
        image = image.convert(kind or ("RGBA" if image.has_transparency_data else "RGB"))
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if image.mode not in ("RGB", "CMYK"):
        image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    image = _in_srgb(image, profile)
    if alpha is not None and alpha.getextrema()[0] != 255:
        image.putalpha(alpha)
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8: 65535 is 255, so v is v / 257."""
    values: Any = numpy.asarray(image).astype(numpy.int32)
    scaled = Image.fromarray(((values.clip(0, 65535) + 128) // 257).astype(numpy.uint8))
    if isinstance(clear := image.info.get("transparency"), int):  # one grey of the 65536 is transparent
        scaled.putalpha(Image.fromarray(numpy.where(values == clear, 0, 255).astype(numpy.uint8)))
    return scaled


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The colours that a colour profile means; a profile that cannot be used says nothing."""
    if profile:
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" not in ImageCms.getProfileDescription(own):
                srgb = ImageCms.createProfile("sRGB")
                changed = ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")
                return changed if changed is not None else image.convert("RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image.convert("RGB")
