"""One process that `stoker up` keeps running.

It is a state machine; `TRANSITIONS` is its table, `Child.move` the only way to change its state.

starting   its process is being made
running    it has a process
pausing    that ended by itself, or could not be made; the next is started after a pause
stopping   it was told to end
ended      it has no process and gets no other
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["starting", "running", "pausing", "stopping", "ended"]

TRANSITIONS: Mapping[State, frozenset[State]] = {
    "starting": frozenset({"running", "pausing", "ended"}),
    "running": frozenset({"pausing", "stopping"}),
    "pausing": frozenset({"starting", "ended"}),
    "stopping": frozenset({"ended"}),
    "ended": frozenset(),
}


class IllegalMove(RuntimeError):
    """A child was to change to a state that its own does not lead to."""


@dataclass(slots=True)
class Child:
    """One process that is kept running. is_wanted: False once all are to stop, whatever its state is.

    nats: the server's address with its password, which everybody would see in a command line.
    """

    name: str
    module: str
    arguments: list[str]
    colour: str
    state: State = "starting"
    is_wanted: bool = True
    nats: str = ""
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    has_ended: asyncio.Event = field(default_factory=asyncio.Event)
    stop_wanted: asyncio.Event = field(default_factory=asyncio.Event)

    def move(self, to: State) -> None:
        """Raises IllegalMove, and changes nothing, where the table has no such move."""
        if to not in TRANSITIONS[self.state]:
            raise IllegalMove(f"{self.name} is {self.state} and cannot become {to}")
        self.state = to
        if to == "ended":
            self.has_ended.set()

    def stop(self) -> None:
        """Have it end: now where it runs, else as soon as what is under way allows. Twice is once."""
        self.is_wanted = False
        self.stop_wanted.set()
        if self.state == "running":
            self.move("stopping")
            assert self.process is not None
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()

    def kill(self) -> None:
        """End a process that does not stop."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
