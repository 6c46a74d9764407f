"""What a worker and the host process of a project say to each other, in frames over a socket pair.

Both ends share it; it imports nothing of either.
"""

from typing import Any

import msgspec

from stoker.functions.assets import SavedFile
from stoker.functions.errors import CallFailure
from stoker.functions.output import OutputPart

MAX_FRAME_BYTES = 1024 * 1024 * 1024


class Message(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """Base of every frame."""


class LoadModel(Message, frozen=True):
    """Bring the model at `path` into memory as an instance of `kind` (`module:Class`)."""

    key: str
    path: str
    kind: str


class UnloadModel(Message, frozen=True):
    key: str


class Call(Message, frozen=True):
    """Run a function. models: parameter → key of a loaded model. files: that the payload names, by what it
    says: paths. folder: for files that the call saves, made when there is one; "": they travel with the result.
    """

    call: str
    job: str
    function: str
    payload: dict[str, Any]
    models: dict[str, str] = {}
    seed: int = 0
    files: dict[str, str] = {}
    folder: str = ""


class CancelCall(Message, frozen=True):
    call: str


class ChildEnded(Message, frozen=True):
    """How a call that a call has asked for ended. result: as JSON. kind: "": it completed. child: its job."""

    call: str
    number: int
    result: bytes = b""
    kind: str = ""
    message: str = ""
    field: str = ""
    child: str = ""


ToHost = LoadModel | UnloadModel | Call | CancelCall | ChildEnded


class HostReady(Message, frozen=True):
    """The project is imported. error: why not."""

    error: str = ""


class ModelLoaded(Message, frozen=True):
    """memory_bytes: what the process has taken more, or the device. error: why it could not be loaded."""

    key: str
    memory_bytes: int = 0
    error: str = ""
    is_out_of_memory: bool = False


class ModelUnloaded(Message, frozen=True):
    key: str


class CallStarted(Message, frozen=True):
    """The function runs now: if the process ends, it may be to blame."""

    call: str


class CallProgress(Message, frozen=True):
    call: str
    step: int
    steps: int


class CallItem(Message, frozen=True):
    """One of a stream's results, as JSON."""

    call: str
    item: bytes


class CallPrinted(Message, frozen=True):
    """What a call has printed since the last time, bounded."""

    call: str
    output: OutputPart


class ChildAsked(Message, frozen=True):
    """A call asks for a call of another function, or a model. number: of its calls. payload: as JSON.

    nth: how many like it the call has asked for before.
    """

    call: str
    number: int
    name: str
    payload: bytes
    nth: int


class ChildLeft(Message, frozen=True):
    """Nobody waits for this one any more."""

    call: str
    number: int


class File(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file that a call has saved: its bytes, or its path in the call's folder."""

    name: str
    content_type: str
    content: bytes = b""
    path: str = ""
    size_bytes: int = 0


def file_of(saved: SavedFile) -> File:
    """A saved file as it is told."""
    return File(saved.name, saved.content_type, saved.content, saved.path, saved.size_bytes)


class CallDone(Message, frozen=True):
    """The result as JSON; the list of all items for a stream. output: what was printed since the last time.

    must_restart: threads of the call go on, so that this process must not be used again.
    """

    call: str
    result: bytes
    files: tuple[File, ...] = ()
    output: OutputPart = OutputPart()
    must_restart: bool = False


class CallFailed(Message, frozen=True):
    """ends_process: the function is ending the process, which is nobody else's fault. output, must_restart: as
    above.
    """

    call: str
    kind: CallFailure
    message: str
    ends_process: bool = False
    output: OutputPart = OutputPart()
    must_restart: bool = False


FromHost = (
    HostReady
    | ModelLoaded
    | ModelUnloaded
    | CallStarted
    | CallProgress
    | CallPrinted
    | CallItem
    | ChildAsked
    | ChildLeft
    | CallDone
    | CallFailed
)
