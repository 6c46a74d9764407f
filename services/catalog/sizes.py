"""Sizes of memory as people write them: 1000000, 512MB, 2G, 2GiB, 2Gi; and how long and many things may be."""

import math
import re

from stoker.services.catalog.documents import Document

MAX_BYTES = 2**53
"""As far as messages count (schemas/ranges.py)."""
MAX_SLOTS = 100_000
"""The same."""
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int:
    """Bytes. Raises ValueError with the remedy."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write 512MB or 2GB")
    power = _POWERS[match[2].upper()]
    found = float(match[1]) * float(1024 if match[3] else 1000) ** power
    if found > MAX_BYTES:
        raise ValueError(f"{text!r} is more than any machine has")
    return int(found)


def check_seconds(document: Document, path: tuple[str | int, ...], seconds: float) -> None:
    """Raises ConfigurationError where this is no length of time: JSON has neither .nan nor .inf."""
    if not seconds > 0:
        raise document.place(*path).error(f"must be more than 0, not {seconds:g}")
    if seconds == math.inf:
        raise document.place(*path).error("must be finite, not inf")


def check_count(document: Document, path: tuple[str | int, ...], count: float, most: float) -> None:
    """Raises ConfigurationError."""
    if not count >= 0:
        raise document.place(*path).error(f"must be 0 or more, not {count:g}")
    if count > most:
        raise document.place(*path).error(f"must be at most {most:g}, not {count:g}")


def read_size(document: Document, path: tuple[str | int, ...], size: int | str) -> int:
    """Bytes in a number or a text of a document. Raises ConfigurationError."""
    try:
        return parse_size(str(size))
    except ValueError as error:
        raise document.place(*path).error(str(error)) from error
