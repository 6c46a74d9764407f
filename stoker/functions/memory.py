"""The memory that calls may take: a limit on the host process while they run.

A call with a limit may take so much more than the process had when it began (RLIMIT_DATA, soft). While calls
with limits run together the highest of them holds; one without a limit lifts it.
"""

import contextlib
import re
import resource
from pathlib import Path

SLACK_BYTES = 32 * 1024 * 1024
"""For the stacks of threads and what the host itself needs meanwhile."""
_SIZE = re.compile(r"\s*([\d.]+)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def size_of(text: str) -> int:
    """Bytes of "600MB" or "2GiB"; 0 where nothing is said. Raises ValueError."""
    if not text:
        return 0
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no size; write 600MB or 2GiB")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** _POWER[match[2].lower()])


def data_bytes() -> int:
    """What RLIMIT_DATA counts of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


class MemoryLimits:
    """The limits of the calls that run."""

    def __init__(self) -> None:
        self._ends: dict[str, int | None] = {}
        self._is_limited = False

    def begin(self, call: str, limit_bytes: int) -> None:
        """limit_bytes: 0 for none."""
        self._ends[call] = data_bytes() + limit_bytes + SLACK_BYTES if limit_bytes else None
        self._apply()

    def end(self, call: str) -> None:
        self._ends.pop(call, None)
        self._apply()

    @property
    def limit_bytes(self) -> int | None:
        """What the process may have now; None: no limit."""
        ends = list(self._ends.values())
        known = [end for end in ends if end is not None]
        return max(known) if known and len(known) == len(ends) else None

    def _apply(self) -> None:
        limit = self.limit_bytes
        if limit is None and not self._is_limited:
            return
        self._is_limited = limit is not None
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (hard if limit is None else limit, hard))
