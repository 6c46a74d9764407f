"""Messages over a byte stream: a length (4 bytes, little-endian), then msgpack.

An agent and its runner, and a runner and the host of a function project, talk this way over socket pairs.
"""

import struct
from typing import Any

import msgspec

_LENGTH = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode


def frame(message: msgspec.Struct) -> bytes:
    """A message as it goes over the stream."""
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts a byte stream into messages of one union, none larger than `limit` bytes."""

    def __init__(self, kind: Any, limit: int) -> None:
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[Any]:
        """The messages that are whole now. Raises msgspec.DecodeError on garbage."""
        buffer = self._buffer
        buffer += chunk
        start = 0
        found: list[Any] = []
        while len(buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > self._limit:
                raise msgspec.DecodeError(f"a frame of {length} bytes")
            begin, end = start + _LENGTH.size, start + _LENGTH.size + length
            if len(buffer) < end:
                break
            found.append(self._decode(memoryview(buffer)[begin:end]))
            start = end
        if start:
            del buffer[:start]
        return found
