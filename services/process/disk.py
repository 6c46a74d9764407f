"""How much room a disk has, and whether that is too little to go on."""

import shutil
from dataclasses import dataclass
from pathlib import Path

LOW_SHARE, LOW_BYTES = 0.05, 512 * 1024**2
"""A disk is low with less than this share of it free, or less than this many bytes: the smaller of the two."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of a disk."""

    free: int
    total: int

    @property
    def low(self) -> int:
        """Below this many bytes nothing new is accepted."""
        return min(int(self.total * LOW_SHARE), LOW_BYTES)

    @property
    def is_low(self) -> bool:
        return self.free < self.low


def room_at(path: Path) -> Room:
    """The room where a file would be written. Raises OSError."""
    usage = shutil.disk_usage(path)
    return Room(usage.free, usage.total)
