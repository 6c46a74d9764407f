"""Weights that will be loaded next, read while others run: from the page cache they come several times sooner.

The scheduler says which: a model that jobs wait for here, and that has no room yet. One at a time is read, the
newest; every block is followed by a pause as long as its reading took, so that half of the disk is left to
others, and no more is read than half of what the system has free. A load that begins ends the reading.
"""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from stoker.services.process.logs import get_logger
from stoker.services.process.machine import Machine
from stoker.services.process.telemetry import counter
from stoker.services.worker.models.weights.resolve import is_cached

log = get_logger("read_ahead")

BLOCK_BYTES = 8 * 1024**2
SHARE_OF_DISK = 0.5
SHARE_OF_MEMORY = 0.5
"""Of what is free: pages that push out others are of no use."""
MAX_PAUSE_S = 1.0

READ = counter("stoker_read_ahead_bytes_total", "Bytes of weights that were read before they could be loaded")


class ReadAhead:
    """What is read now. `begin` and `end` may be called from the loop: they wait for nothing."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def begin(self, url: str) -> None:
        """Read what a url names of this disk, in a thread of its own; what was read until now ends."""
        self.end()
        stop = self._stop = threading.Event()
        threading.Thread(target=_read, args=(url, stop), name="read ahead", daemon=True).start()

    def end(self) -> None:
        """Read nothing more."""
        self._stop.set()


def _read(url: str, stop: threading.Event) -> None:
    path = is_cached(url)
    if path is None:
        return
    left = int(Machine().memory_left_bytes() * SHARE_OF_MEMORY)
    began, total = time.monotonic(), 0
    try:
        for size, took_s in _blocks(path):
            total += size
            READ.inc(size)
            if total >= left or stop.wait(min(took_s * (1 / SHARE_OF_DISK - 1), MAX_PAUSE_S)):
                break
    except OSError as error:  # the load will say what is wrong
        log.info("weights.not_read_ahead", path=str(path), error=error.strerror)
        return
    seconds = round(time.monotonic() - began, 3)
    log.info("weights.read_ahead", path=str(path), bytes=total, seconds=seconds, was_stopped=stop.is_set())


def _blocks(path: Path) -> Iterator[tuple[int, float]]:
    """Read what lies there block by block: bytes, and seconds that they took. Raises OSError."""
    block = bytearray(BLOCK_BYTES)
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while True:
                began = time.monotonic()
                size = os.readv(opened.fileno(), [block])
                if not size:
                    break
                yield size, time.monotonic() - began
