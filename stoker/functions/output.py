"""What a call prints, bounded: its beginning and its end; what lies between is counted and left out.

An OutputLog never blocks and never grows beyond its two parts, whatever is added. `take` gives what has come
since, as one part, which a further log adds to its own: so output travels in a few bounded messages, however
much there was, and a log made of parts is the log of the whole.
"""

import threading

import msgspec

HEAD_BYTES = TAIL_BYTES = 32 * 1024
"""What is kept of the beginning of an output, and of its end."""


class OutputPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stretch of output. dropped_lines, dropped_bytes: left out between its head and its tail."""

    head: bytes = b""
    dropped_lines: int = 0
    dropped_bytes: int = 0
    tail: bytes = b""

    def __bool__(self) -> bool:
        return bool(self.head or self.dropped_bytes or self.tail)


class OutputLog:
    """See the file's opening. May be added to from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._empty()

    def _empty(self) -> None:
        self._head, self._tail = bytearray(), bytearray()
        self._dropped_lines = self._dropped_bytes = 0

    def add(self, data: bytes) -> None:
        with self._lock:
            self._add(data)

    def add_part(self, part: OutputPart) -> None:
        """More output, of which something may have been left out."""
        with self._lock:
            self._add(part.head)
            if part.dropped_bytes:
                self._drop(len(self._tail))
                self._dropped_lines += part.dropped_lines
                self._dropped_bytes += part.dropped_bytes
            self._add(part.tail)

    def _add(self, data: bytes) -> None:
        if not self._tail and not self._dropped_bytes:
            room = HEAD_BYTES - len(self._head)
            self._head += data[:room]
            data = data[room:]
        surplus = len(data) - TAIL_BYTES
        if surplus > 0:  # it would push out all that is there
            self._drop(len(self._tail))
            self._dropped_lines += data.count(b"\n", 0, surplus)
            self._dropped_bytes += surplus
            data = data[surplus:]
        self._tail += data
        if len(self._tail) > 2 * TAIL_BYTES:  # not at each addition: moving bytes costs more than keeping them
            self._drop(len(self._tail) - TAIL_BYTES)

    def _drop(self, size: int) -> None:
        self._dropped_lines += self._tail.count(b"\n", 0, size)
        self._dropped_bytes += size
        del self._tail[:size]

    def part(self) -> OutputPart:
        """All that is kept, at most HEAD_BYTES and TAIL_BYTES."""
        with self._lock:
            return self._part()

    def take(self) -> OutputPart:
        """The same, and the log is empty then."""
        with self._lock:
            part = self._part()
            self._empty()
            return part

    def _part(self) -> OutputPart:
        if len(self._tail) > TAIL_BYTES:
            self._drop(len(self._tail) - TAIL_BYTES)
        return OutputPart(bytes(self._head), self._dropped_lines, self._dropped_bytes, bytes(self._tail))
