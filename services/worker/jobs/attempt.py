"""One attempt of a job on this worker, and the states that it goes through. Pure.

It is `preparing` while what it needs is brought here, `ready` while it waits for a slot of its lane,
`running` in the runner, `waiting` there for calls of its own without a slot, `resuming` when those have ended
and it waits for a slot again, `writing` there when the device is done with it and files are made of what was
drawn, without a slot too, `stopping` when it was told to stop and the engine has not yet, `ending` while
its terminal event is being stored, and then `gone`. An attempt that was revoked, or lost with its runner, goes
without a terminal event.

    preparing ──▶ ready ──▶ running ──▶ stopping          each of them ──▶ ending ──▶ gone
                          ▲    │  │         ▲             each of them ──▶ gone
                   resuming ◀──┼▶ waiting   │
                       │    writing  │      │
                       └───────┴─────┴──────┘

What an attempt holds (pins of models, the limit on its run, a slot) is registered with it (`hold`) and let go
by leaving, whichever way: `leave` is called by WorkerCore.move, the only writer of a state (core.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from stoker.schemas.catalog import Adapter, Spec
from stoker.schemas.children import ChildView
from stoker.schemas.jobs import JobInput
from stoker.schemas.workers import Assignment, SentText
from stoker.services.worker.jobs.event_log import EventLog

Phase = Literal["preparing", "ready", "running", "waiting", "resuming", "writing", "stopping", "ending", "gone"]

TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    "preparing": frozenset({"ready", "ending", "gone"}),
    "ready": frozenset({"running", "ending", "gone"}),
    "running": frozenset({"waiting", "writing", "stopping", "ending", "gone"}),
    "waiting": frozenset({"resuming", "stopping", "ending", "gone"}),
    "resuming": frozenset({"running", "waiting", "stopping", "ending", "gone"}),
    "writing": frozenset({"stopping", "ending", "gone"}),
    "stopping": frozenset({"ending", "gone"}),
    "ending": frozenset({"gone"}),
    "gone": frozenset(),
}
TAKES_SLOT: frozenset[Phase] = frozenset({"running", "stopping"})
IN_RUNNER: frozenset[Phase] = frozenset({"running", "waiting", "resuming", "writing"})
"""The states in which its engine has it and was not told to stop."""
WAITS: frozenset[Phase] = frozenset({"waiting", "resuming", "writing"})
"""The states in which it is in its engine and takes no slot."""
HOLDS: frozenset[Phase] = IN_RUNNER.union(frozenset[Phase]({"preparing", "ready", "stopping"}))
"""The states in which an attempt may hold something."""

StopReason = Literal["", "cancelled", "timeout", "revoked"]
Release = Callable[[], object]


class IllegalMove(Exception):
    """An attempt was to go from a state to one that the table does not allow; nothing was changed."""


@dataclass(slots=True)
class Attempt:
    """input, loras: the job's, once what it brings along is here. why_stopped: who told it to stop.

    trace: the context that it came with. ready_at, started_at: seconds since 1970, 0 until then. fetch_s: how
    long it waited for a download. runs: how often it was given to the runner. batch: how many attempts run as
    one, it included. too_many: so many did not fit the device's memory, 0 where they did. text_at, stepped_at:
    when it last made text or ended a step, on the monotonic clock; heard_at: when its engine last said
    anything of it; first_text_at: when it first made text, seconds since 1970. failed_as: what
    went wrong, in a word. told: what its span says of what came of it. wants_events: somebody watches.
    batches_text: as in Job. children: the calls that it has made.
    waited_s: how long it took no slot while it waited for them; waits_since: since when it does, monotonic.
    device_s: how long it had the device, where that was said before its end.
    files, folder: as in services.worker.engines.base.Request.
    """

    assignment: Assignment
    input: JobInput
    log: EventLog
    lane: str
    accepted_at: float
    phase: Phase = "preparing"
    why_stopped: StopReason = ""
    wants_events: bool = False
    batches_text: bool = False
    sent: SentText = field(default_factory=SentText)
    loras: tuple[Adapter, ...] = ()
    ready_at: float = 0.0
    started_at: float = 0.0
    fetch_s: float = 0.0
    runs: int = 0
    batch: int = 1
    too_many: int = 0
    trace: str = ""
    text_at: float = 0.0
    first_text_at: float = 0.0
    failed_as: str = ""
    told: dict[str, Any] = field(default_factory=dict)
    stepped_at: float = 0.0
    heard_at: float = 0.0
    tokens: tuple[int, int] = (0, 0)
    """Of a text that is whole: read, made."""
    children: dict[str, ChildView] = field(default_factory=dict)
    waited_s: float = 0.0
    waits_since: float = 0.0
    device_s: float = 0.0
    files: dict[str, str] = field(default_factory=dict)
    folder: str = ""
    when_gone: list[Release] = field(default_factory=list)
    """What is let go when the attempt is gone: what it has made has been stored by then, or never will be."""
    key: str = field(init=False)
    """Names this attempt to the runner: another of the same job may still be stopping there."""
    _held: list[Release] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key = f"{self.job}/{self.assignment.term}.{self.assignment.attempt}"

    @property
    def job(self) -> str:
        return self.assignment.job.id

    @property
    def is_sealed(self) -> bool:
        return bool(self.assignment.seal)

    @property
    def order(self) -> tuple[int, int]:
        """Later attempts of a job are greater."""
        return self.assignment.term, self.assignment.attempt

    @property
    def model(self) -> str:
        return self.assignment.job.model

    @property
    def spec(self) -> Spec:
        return self.assignment.spec

    def hold(self, release: Release) -> bool:
        """Something is held until the attempt ends; when it has ended already (False) it is let go at once."""
        if self.phase in HOLDS:
            self._held.append(release)
            return True
        release()
        return False

    def leave(self) -> None:
        """Let go of everything, the last first."""
        while self._held:
            self._held.pop()()

    @property
    def is_held(self) -> bool:
        """Whether anything is held."""
        return bool(self._held)
