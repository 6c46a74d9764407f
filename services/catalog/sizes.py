"""Sizes of memory as people write them: 1000000, 512MB, 2G, 2GiB, 2Gi."""

import re

from stoker.services.catalog.documents import Document

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int:
    """Bytes. Raises ValueError with the remedy."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write 512MB or 2GB")
    power = _POWERS[match[2].upper()]
    return int(float(match[1]) * float(1024 if match[3] else 1000) ** power)


def read_size(document: Document, path: tuple[str | int, ...], size: int | str) -> int:
    """Bytes in a number or a text of a document. Raises ConfigurationError."""
    try:
        return parse_size(str(size))
    except ValueError as error:
        raise document.place(*path).error(str(error)) from error
