"""What a GGUF file says of itself: the scalars of its header, by key.

Read here and not with PyPI's `gguf`, which makes objects of each token of a vocabulary: seconds for a header
that is read at every load. Arrays are skipped. Format: GGUF version 2 and 3, little-endian (docs/gguf.md of
ggml).
"""

import struct
from pathlib import Path
from typing import BinaryIO

Scalar = int | float | bool | str
MAGIC = b"GGUF"
MOST_ENTRIES, MOST_CHARS, MOST_SKIPPED = 100_000, 64 * 1024 * 1024, 2**32
_NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
"""Kinds of values, as `struct` names them."""
_STRING, _ARRAY = 8, 9


class BadGguf(ValueError):
    """The file is no GGUF, or ends before its header does."""


def read_header(path: Path) -> dict[str, Scalar]:
    """Every scalar of a file's header. Raises BadGguf, OSError."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise BadGguf(f"{path.name} is not a GGUF file")
        _number(file, "<I")  # version
        _number(file, "<Q")  # tensors
        count = int(_number(file, "<Q"))
        if count > MOST_ENTRIES:
            raise BadGguf(f"{path.name} has {count} entries in its header")
        found: dict[str, Scalar] = {}
        for _ in range(count):
            key = _text(file)
            value = _value(file, int(_number(file, "<I")))
            if value is not None:
                found[key] = value
        return found


def _value(file: BinaryIO, kind: int) -> Scalar | None:
    """The next value; None for an array, which is passed over."""
    if kind == _STRING:
        return _text(file)
    if kind == _ARRAY:
        inner, count = int(_number(file, "<I")), int(_number(file, "<Q"))
        if inner == _STRING:
            for _ in range(count):
                _skip(file, int(_number(file, "<Q")))
        elif inner in _NUMBERS:
            _skip(file, count * struct.calcsize("<" + _NUMBERS[inner]))
        else:
            for _ in range(count):
                _value(file, inner)
        return None
    if kind not in _NUMBERS:
        raise BadGguf(f"its header has a value of the unknown kind {kind}")
    return _number(file, "<" + _NUMBERS[kind])


def _skip(file: BinaryIO, count: int) -> None:
    if count > MOST_SKIPPED:
        raise BadGguf(f"its header has an array of {count} bytes")
    file.seek(count, 1)


def _number(file: BinaryIO, form: str) -> int | float | bool:
    raw = file.read(struct.calcsize(form))
    try:
        value: int | float | bool = struct.unpack(form, raw)[0]
    except struct.error as error:
        raise BadGguf("it ends before its header does") from error
    return value


def _text(file: BinaryIO) -> str:
    length = int(_number(file, "<Q"))
    if length > MOST_CHARS:
        raise BadGguf(f"its header has a text of {length} bytes")
    return file.read(length).decode("utf-8", "replace")
