"""Files of pictures, made for tests."""

import functools
import io
import struct
import zlib
from typing import Any

from PIL import Image, ImageCms

CORNERS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))
"""Top left, top right, bottom left, bottom right of `cornered`."""


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def cornered(width: int = 32, height: int = 16) -> Image.Image:
    """A picture whose four quarters have colours of their own."""
    image = Image.new("RGB", (width, height))
    for index, colour in enumerate(CORNERS):
        left, top = index % 2 * (width // 2), index // 2 * (height // 2)
        image.paste(colour, (left, top, left + width // 2, top + height // 2))
    return image


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours in the four corners, in the order of CORNERS."""
    right, bottom = image.width - 1, image.height - 1
    return [image.getpixel(at) for at in ((0, 0), (right, 0), (0, bottom), (right, bottom))]  # type: ignore[misc]


def oriented(orientation: int, kind: str = "PNG", image: Image.Image | None = None) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file_of(
        image or cornered(), kind, exif=exif.tobytes(), **({"lossless": True} if kind == "WEBP" else {})
    )


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def with_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk behind its header, of 33 bytes."""
    return png[:33] + chunk(name, content) + png[33:]


@functools.cache
def text_bomb(size: int = 60 * 2**20) -> bytes:
    """A small PNG whose text unpacks to `size` bytes."""
    return with_chunk(file_of(Image.new("RGB", (4, 4))), b"zTXt", b"x\0\0" + zlib.compress(b"a" * size, 9))


def swapped_profile() -> bytes:
    """A colour profile in which red and green are the other way round, as no sRGB has it."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", profile[128:132])[0]
    tags = {bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    profile[red + 4 : red + 12], profile[green + 4 : green + 12] = (
        profile[green + 4 : green + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
