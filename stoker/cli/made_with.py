"""How a picture was made, read back from its file: the fields of a request that makes it again. Pure.

A PNG has it in the text chunk `parameters`, JPEG and WebP in the UserComment of the EXIF: so write Stoker,
A1111 and their kin.
"""

import re
import struct
import zlib
from typing import Any

MAX_TEXT_BYTES = 2**20
MIN_EDGE_PX = 64
"""A smaller picture has its model's own size, which cannot be asked for, and need not be."""
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
_FACT = re.compile(r'\s*([\w +/-]+):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
_NEGATIVE = "Negative prompt: "


class NotTold(ValueError):
    """A file says nothing of how it was made."""


def request_of(content: bytes) -> dict[str, Any]:
    """prompt, negative_prompt, num_inference_steps, guidance_scale, seed and size, as far as they are told.

    Raises NotTold.
    """
    try:
        text = _text_of(content)
    except (struct.error, ValueError, IndexError, zlib.error) as error:
        raise NotTold("the file is damaged, or no PNG, JPEG or WebP") from error
    if not text:
        raise NotTold("the picture does not say how it was made")
    return parsed(text)


def parsed(text: str) -> dict[str, Any]:
    """The same, of the text itself."""
    body, _, line = text.rpartition("\n")
    if not re.search(r"(^|, )Steps: \d", line):
        body, line = text, ""
    prompt, is_negative, negative = f"\n{body}".partition(f"\n{_NEGATIVE}")
    facts = dict(_FACT.findall(line))
    found: dict[str, Any] = {"prompt": prompt.removeprefix("\n")}
    if is_negative:
        found["negative_prompt"] = negative
    kinds = {
        "Steps": ("num_inference_steps", int),
        "CFG scale": ("guidance_scale", float),
        "Seed": ("seed", int),
    }
    for name, (field, kind) in kinds.items():
        try:
            found[field] = kind(facts[name])
        except (KeyError, ValueError):
            continue
    size = re.fullmatch(r"(\d+)x(\d+)", facts.get("Size", ""))
    if size is not None and min(int(size[1]), int(size[2])) >= MIN_EDGE_PX:
        found["size"] = size[0]
    return found


def _text_of(content: bytes) -> str:
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_text(content)
    at = content.find(b"Exif\0\0") if content.startswith(b"\xff\xd8") else content.find(b"EXIF")
    if at < 0:
        return ""
    if content.startswith(b"\xff\xd8"):
        return _comment(content[at + 6 :])
    return _comment(content[at + 8 :].removeprefix(b"Exif\0\0"))


def _png_text(content: bytes) -> str:
    at = 8
    while at + 8 <= len(content):
        size, name = struct.unpack_from(">I4s", content, at)
        body = content[at + 8 : at + 8 + size]
        keyword, _, rest = body.partition(b"\0")
        if keyword == b"parameters":
            if name == b"tEXt":
                return rest.decode("latin-1")
            if name == b"zTXt":
                return _inflated(rest[1:]).decode("latin-1")
            if name == b"iTXt":
                text = rest[2:].split(b"\0", 2)[2]
                return (_inflated(text) if rest[0] else text).decode()
        at += 12 + size
    return ""


def _inflated(content: bytes) -> bytes:
    """At most MAX_TEXT_BYTES. Raises ValueError for more."""
    reader = zlib.decompressobj()
    whole = reader.decompress(content, MAX_TEXT_BYTES)
    if reader.unconsumed_tail:
        raise ValueError("the text is too long")
    return whole


def _comment(tiff: bytes) -> str:
    """The UserComment of EXIF, which begins with the order of its bytes."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return ""
    (at,) = struct.unpack_from(f"{order}I", tiff, 4)
    found = _entry(tiff, order, at, EXIF_IFD)
    comment = _entry(tiff, order, found[1], USER_COMMENT) if found is not None else None
    if comment is None:
        return ""
    count, at = comment
    raw = tiff[at : at + count]
    kind, text = raw[:8], raw[8:]
    return text.decode("utf-16-be") if kind == b"UNICODE\0" else text.decode("ascii")


def _entry(tiff: bytes, order: str, at: int, tag: int) -> tuple[int, int] | None:
    """How many values an entry of a directory has, and its value or where they lie."""
    (count,) = struct.unpack_from(f"{order}H", tiff, at)
    for index in range(count):
        own, _, values, value = struct.unpack_from(f"{order}HHII", tiff, at + 2 + 12 * index)
        if own == tag:
            return values, value
    return None
