"""Writing to a terminal or a pipe whose reader may take its time: a thread writes, who says something goes on.

A pager that waits, a terminal that was stopped with Ctrl-S, a collector of logs that hangs: a write to them
does not return. What is said meanwhile is kept, up to `MOST_WAITING_CHARS`; more is counted, and the count
written once somebody reads again. Where nobody reads any more, what is said is lost.
"""

import io
import os
import select
import threading
from collections import deque
from typing import IO

MOST_WAITING_CHARS = 1_000_000
CLOSE_S = 1.0


class Printer:
    """What is written goes to a file that has a descriptor by a thread of its own, to any other at once."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._encoding = getattr(file, "encoding", None) or "utf-8"
        self._waiting: deque[str] = deque()
        self._chars = 0
        self._left_out = 0
        self._is_over = False
        self._changed = threading.Condition()
        try:
            self._descriptor = file.fileno()
        except (OSError, io.UnsupportedOperation):
            self._thread = None
            return
        self._thread = threading.Thread(target=self._write_all, name="printer", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Returns at once."""
        if self._thread is None:
            self._file.write(text)
            return
        with self._changed:
            if self._chars > MOST_WAITING_CHARS:
                self._left_out += 1
                return
            if self._left_out:
                self._put(f"… {self._left_out:,} lines are left out here: nobody read them\n")
                self._left_out = 0
            self._put(text)
            self._changed.notify()

    def flush(self) -> None:
        """Written is what has to be, by the thread."""

    def _put(self, text: str) -> None:
        self._waiting.append(text)
        self._chars += len(text)

    def close(self, seconds: float = CLOSE_S) -> None:
        """Wait for what is still to be written, but no longer than that."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(seconds)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_over)
                if not self._waiting:
                    return
                text = "".join(self._waiting)
                self._waiting.clear()
                self._chars = 0
            try:
                self._write_out(text.encode(self._encoding, "replace"))
            except OSError:  # nobody reads any more
                continue

    def _write_out(self, content: bytes) -> None:
        """By the descriptor: a thread that waits here must hold no lock that the end of the program wants."""
        left = memoryview(content)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another program has set the terminal so
                select.select([], [self._descriptor], [])
