"""What the agent and its runner process say to each other, in frames over a socket pair."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from stoker.functions.frames import Frames
from stoker.functions.output import OutputPart
from stoker.schemas.catalog import Adapter
from stoker.schemas.job_events import (
    CallPart,
    EmbeddingOutput,
    FailureKind,
    Picture,
    TextOutput,
    TokenChance,
    ValueOutput,
)
from stoker.schemas.jobs import JobInput
from stoker.schemas.workers import CapabilityCard, Resources
from stoker.services.worker.engines.base import ChildEnd, Content

MAX_FRAME_BYTES = 512 * 1024 * 1024
READ_BYTES = 256 * 1024


class Message(msgspec.Struct, frozen=True, tag_field="t", tag=True, array_like=False):
    """Base of every frame."""


class Prepare(Message, frozen=True):
    """Import an engine's libraries before they are needed."""

    engine: str


class Describe(Message, frozen=True):
    """Say what a model takes, without loading its weights."""

    model: str
    engine: str
    path: str
    options: dict[str, Any]


class Load(Message, frozen=True):
    """Bring weights into device memory, unless they are there, and attach these LoRAs. model: their key.

    args, env: for the engine's own server, verbatim. memory_bytes: what it may take of the device; 0: not said.
    slots: jobs at a time; 0: as many as the engine has by itself.
    """

    model: str
    engine: str
    path: str
    options: dict[str, Any]
    adapters: tuple[Adapter, ...] = ()
    loras: tuple[Adapter, ...] = ()
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    memory_bytes: int = 0
    slots: int = 0


class Unpark(Message, frozen=True):
    """Bring a parked model back into device memory."""

    model: str


class Unload(Message, frozen=True):
    """Take a model out of device memory: into RAM (`park`) or altogether."""

    model: str
    park: bool


class Run(Message, frozen=True):
    """Run a job on loaded weights. sent_text: output that has been delivered, sent_tokens long; go on after it.

    job: names the attempt, here and in everything that is said of it. job_id: the job's own id ("": the same).
    title: the model's name. loras: what lies over the weights for this job. options: those of its model that
    belong to a run (schemas.catalog.RUN_OPTIONS). files, folder: as in services.worker.engines.base.Request.
    """

    job: str
    model: str
    input: JobInput
    seed: int
    title: str = ""
    adapter: str = ""
    loras: tuple[Adapter, ...] = ()
    sent_text: str = ""
    sent_tokens: int = 0
    wants_events: bool = False
    job_id: str = ""
    options: dict[str, Any] = {}
    files: dict[str, str] = {}
    folder: str = ""


class RunTogether(Message, frozen=True):
    """Runs that differ in prompt and seed only, for an engine that can do them at once."""

    runs: tuple[Run, ...]


class Cancel(Message, frozen=True):
    job: str


class Ping(Message, frozen=True):
    """Answer with Pong: is this process alive, and its loop with it?"""


class Pace(Message, frozen=True):
    """Text may wait for more text for so long: who reads it cannot take more pieces. Holds for PACE_KEPT_S."""

    window_s: float


class ChildEnded(Message, frozen=True):
    """How a call that a run has asked for ended."""

    job: str
    number: int
    end: ChildEnd


ToRunner = Ping | Pace | Prepare | Describe | Load | Unpark | Unload | Run | RunTogether | Cancel | ChildEnded


class Ready(Message, frozen=True):
    """The runner listens."""


class Pong(Message, frozen=True):
    """The runner's loop goes round."""


class Loaded(Message, frozen=True):
    model: str
    memory_bytes: int
    load_s: float
    can_park: bool
    skipped: tuple[str, ...] = ()
    card: CapabilityCard | None = None


class LoadProgress(Message, frozen=True):
    """How far the download for a load is, 0 to 100."""

    model: str
    percent: float


class Described(Message, frozen=True):
    """What a model takes (schemas.catalog.Schema as builtins), by the name it was asked under."""

    model: str
    schema: dict[str, Any]


class Usage(Message, frozen=True):
    """What the runner takes now."""

    resources: Resources


class Unloaded(Message, frozen=True):
    model: str


class LoadFailed(Message, frozen=True):
    model: str
    reason: str
    is_out_of_memory: bool = False


class Text(Message, frozen=True):
    """More output text; `tokens` it stands for. logprobs, calls: as in schemas.job_events.Delta."""

    job: str
    text: str
    tokens: int
    is_reasoning: bool = False
    logprobs: tuple[TokenChance, ...] = ()
    calls: tuple[CallPart, ...] = ()

    def with_more(self, more: "Text") -> "Text":
        """This text and more of the same job."""
        return Text(
            self.job,
            self.text + more.text,
            self.tokens + more.tokens,
            self.is_reasoning,
            self.logprobs + more.logprobs,
            self.calls + more.calls,
        )


class Step(Message, frozen=True):
    job: str
    step: int
    steps: int


class Printed(Message, frozen=True):
    """What a function has printed since the last time, bounded."""

    job: str
    output: OutputPart


class ChildAsked(Message, frozen=True):
    """A run asks for a call of a function, or of a model. number: of all calls that this runner has asked for.

    payload: as JSON. nth: how many like it the run has asked for before.
    """

    job: str
    number: int
    name: str
    payload: bytes
    nth: int


class ChildLeft(Message, frozen=True):
    """Nobody waits for this one any more: it is to be cancelled."""

    job: str
    number: int


class Drawn(Message, frozen=True):
    """The device is done with a run: the next may begin. Its end comes once its files are written.

    run_s: how long it had the device. texts_kept, texts_read: as in services.worker.engines.base.Emitter.drawn.
    """

    job: str
    run_s: float
    texts_kept: int = 0
    texts_read: int = 0


class PreviewImage(Message, frozen=True):
    job: str
    index: int
    step: int
    width: int
    height: int
    png: bytes


class TextDone(Message, frozen=True):
    job: str
    output: TextOutput | EmbeddingOutput | ValueOutput
    run_s: float


class ImagesDone(Message, frozen=True):
    job: str
    pictures: tuple[Picture, ...]
    images: tuple[bytes, ...]
    details: dict[str, Any]
    run_s: float


class FilesDone(Message, frozen=True):
    """A function has returned, with files."""

    job: str
    output: ValueOutput
    contents: tuple[Content, ...]
    run_s: float


class RunFailed(Message, frozen=True):
    job: str
    kind: FailureKind
    reason: str
    code: str = ""
    field: str = ""


class RunCancelled(Message, frozen=True):
    """The engine has stopped computing."""

    job: str


FromRunner = ( Ready | Pong | Loaded | LoadProgress | Unloaded | LoadFailed | Described | Usage | Text | Step |
Drawn | Printed | ChildAsked | ChildLeft | PreviewImage | TextDone | ImagesDone | FilesDone | RunFailed |
RunCancelled )  # fmt: skip


async def messages(reader: asyncio.StreamReader, kind: Any) -> AsyncIterator[Any]:
    """Iterate over the messages of a stream until it ends."""
    frames = Frames(kind, MAX_FRAME_BYTES)
    while chunk := await reader.read(READ_BYTES):
        for message in frames.feed(chunk):
            yield message
