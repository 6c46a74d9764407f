"""Text that grows by small pieces, in little more memory than its bytes.

A list of the pieces takes 60 bytes for each beside them: of long answers, more than anything else that a stream
takes.
"""

ENCODING, ERRORS = "utf-8", "surrogatepass"


class GrowingText:
    """Text so far. `add` is as quick as appending to a list; `whole` makes the text anew each time."""

    __slots__ = ("_bytes",)

    def __init__(self, text: str = "") -> None:
        self._bytes = bytearray(text, ENCODING, ERRORS)

    def add(self, text: str) -> None:
        self._bytes += text.encode(ENCODING, ERRORS)

    def whole(self) -> str:
        return self._bytes.decode(ENCODING, ERRORS)
