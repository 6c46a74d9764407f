"""One write of a key of a bucket, as it is read again."""

from dataclasses import dataclass

COPY_MARK = "Stoker-Copy"
"""A header of writes that repeat a part of something that is stored as a whole."""


@dataclass(frozen=True, slots=True)
class Change:
    """The last write of a key, at its place in the bucket. value: b"" when it was removed. is_copy: it carries
    COPY_MARK.
    """

    key: str
    value: bytes
    place: int
    is_copy: bool = False
