"""Recordings: every event that a core took in, when, and what it answered; one JSON line each.

A recording is replayed through the core of today (`stoker replay FILE`), which says where it decides otherwise.
So a run that went wrong on somebody's machine becomes a test here. The first line says which core it was, and
of which term.

A recording holds the jobs as they came, prompts and files included: treat it as you treat those.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from stoker.services.process.logs import get_logger

log = get_logger("recording")

MAX_RECORDING_BYTES = 1024**3
"""A recording that has grown to this is closed: it is made for minutes, not for days."""
FLUSH_EVERY = 256
"""Steps that may be lost when the process is killed."""


class Head(msgspec.Struct, frozen=True):
    """The first line. core: scheduler or autoscaler. now: when it began, on the core's clock."""

    core: str
    term: int
    now: float


class Step(msgspec.Struct, frozen=True):
    """One event and what the core answered, in words (`describe`)."""

    now: float
    event: msgspec.Raw
    commands: tuple[str, ...] = ()


class Core(Protocol):
    """What can be recorded and replayed."""

    def handle(self, event: Any, now: float) -> Sequence[Any]: ...

    def validate(self) -> None: ...


Describe = Callable[[Any], str]
"""A command in a few words: its kind, and what it is about."""


class Recorder:
    """Writes the steps of one term into `path` with the core and the term appended."""

    def __init__(self, path: Path, head: Head, describe: Describe) -> None:
        self._path = path.with_name(f"{path.name}.{head.core}.{head.term}")
        self._describe = describe
        self._encode = msgspec.json.Encoder().encode
        self._file = self._path.open("wb")
        self._file.write(self._encode(head) + b"\n")
        self._written = self._steps = 0
        log.info("recording.began", path=str(self._path))

    def step(self, event: object, now: float, commands: Sequence[object]) -> None:
        """Keep one step."""
        if self._file.closed:
            return
        described = tuple(self._describe(command) for command in commands)
        self._written += self._file.write(
            self._encode(Step(now, msgspec.Raw(self._encode(event)), described)) + b"\n"
        )
        self._steps += 1
        if self._steps % FLUSH_EVERY == 0:
            self._file.flush()
        if self._written > MAX_RECORDING_BYTES:
            log.warning("recording.full", path=str(self._path), steps=self._steps)
            self._file.close()

    def close(self) -> None:
        self._file.close()


class Difference(msgspec.Struct, frozen=True):
    """Where a replay departs from what was recorded. step: from 1. broken: an invariant that does not hold."""

    step: int
    now: float
    event: str
    recorded: tuple[str, ...] = ()
    replayed: tuple[str, ...] = ()
    broken: str = ""


class BadRecording(ValueError):
    """The file is not a recording, or of another version; says where."""


def read_head(lines: Iterator[bytes]) -> Head:
    """The first line. Raises BadRecording."""
    try:
        return msgspec.json.decode(next(lines), type=Head)
    except (msgspec.DecodeError, StopIteration) as error:
        raise BadRecording(f"line 1 is not the head of a recording: {error}") from error


def replay(lines: Iterator[bytes], core: Core, events: Any, describe: Describe) -> Iterator[Difference]:
    """Run a core over what follows the head; every difference, and every invariant that is broken.

    events: the union of the core's events. Raises BadRecording. A last line that was cut short is left out.
    """
    decoder = msgspec.json.Decoder(events)
    step_decoder = msgspec.json.Decoder(Step)
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return
        try:
            step = step_decoder.decode(line)
            event = decoder.decode(step.event)
        except msgspec.DecodeError as error:
            raise BadRecording(f"line {number + 1}: {error}") from error
        name = type(event).__name__
        try:
            replayed = tuple(describe(command) for command in core.handle(event, step.now))
            core.validate()
        except Exception as error:
            yield Difference(number, step.now, name, broken=f"{type(error).__name__}: {error}")
            return
        if replayed != step.commands:
            yield Difference(number, step.now, name, step.commands, replayed)
