"""What the calls of a host print, each into a log of its own (output.py), at about the cost of a file.

While one call runs, `sys.stdout` and `sys.stderr` are its stream: the standard library's own text and buffer
layers, so that `print` costs what it costs into a file. While several run, and for who kept the streams of
before, they look at each line whose call it is. What belongs to no call (imports, loads of models), and what C
code and child processes write, goes to the descriptors, which the worker reads.
"""

import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from stoker.functions.output import OutputLog, OutputPart

if TYPE_CHECKING:
    from typing_extensions import Buffer

BUFFER_BYTES = 64 * 1024


class _Bytes(io.RawIOBase):
    """The lowest layer of a stream: into a log."""

    def __init__(self, log: OutputLog) -> None:
        super().__init__()
        self._log = log

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1

    def write(self, data: "Buffer", /) -> int:
        content = bytes(data)
        self._log.add(content)
        return len(content)


class CallOutput:
    """The output of one call."""

    def __init__(self) -> None:
        self._log = OutputLog()
        raw = io.BufferedWriter(_Bytes(self._log), BUFFER_BYTES)
        self.stream = io.TextIOWrapper(raw, "utf-8", "backslashreplace")

    def take(self) -> OutputPart:
        """What has been printed since the last time."""
        try:
            self.stream.flush()
        except ValueError:
            pass  # the function has closed it
        return self._log.take()


class _Routed(io.TextIOBase):
    """A stream that finds out at each write whose it is."""

    def __init__(self, own: io.TextIOWrapper, find: Callable[[], CallOutput | None]) -> None:
        super().__init__()
        self._own = own
        self._find = find

    def _target(self) -> io.TextIOWrapper:
        found = self._find()
        return found.stream if found is not None and not found.stream.closed else self._own

    @property
    def buffer(self) -> io.BufferedIOBase:
        return self._target().buffer  # type: ignore[return-value]  # typeshed: BinaryIO

    @property
    def encoding(self) -> str:  # type: ignore[override]  # an attribute there
        return "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._own.fileno()

    def write(self, text: str, /) -> int:
        return self._target().write(text)

    def flush(self) -> None:
        self._target().flush()

    def close(self) -> None:
        """Nobody closes it for the others."""


class Capture:
    """The outputs of the calls that run. current: the call that the running code belongs to, "" where it is not
    known. `begin` and `end` are called by one thread."""

    def __init__(self, current: Callable[[], str]) -> None:
        self._current = current
        self._outputs: dict[str, CallOutput] = {}
        assert isinstance(sys.__stdout__, io.TextIOWrapper) and isinstance(sys.__stderr__, io.TextIOWrapper)
        self._routed = (_Routed(sys.__stdout__, self._find), _Routed(sys.__stderr__, self._find))
        self._install()

    def _find(self) -> CallOutput | None:
        """The output of the call that runs here: by its context, or as the only one."""
        outputs = list(self._outputs.values())
        return self._outputs.get(self._current()) or (outputs[0] if len(outputs) == 1 else None)

    def _install(self) -> None:
        if len(self._outputs) == 1:
            sys.stdout = sys.stderr = next(iter(self._outputs.values())).stream
        else:
            sys.stdout, sys.stderr = self._routed

    def begin(self, call: str) -> None:
        self._outputs[call] = CallOutput()
        self._install()

    def end(self, call: str) -> OutputPart:
        """What the call has printed since it was last asked."""
        output = self._outputs.pop(call)
        self._install()
        return output.take()

    def taken(self) -> dict[str, OutputPart]:
        """What each call that runs has printed since it was last asked; from any thread."""
        parts = {call: output.take() for call, output in list(self._outputs.items())}
        return {call: part for call, part in parts.items() if part}
