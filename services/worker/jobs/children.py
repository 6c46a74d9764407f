"""The calls that attempts make: a gateway is asked for each, again and again until it has ended.

An attempt that waits for calls of its own takes no slot (attempt.py): who waits keeps nobody from running, and
calls can call as deep as they may with one worker and one slot. The answer that it waits for last is handed
over when it has a slot again. Runs that wait keep a thread each: no more than MAX_WAITING do on a worker.

A gateway that dies takes nothing along: the question is the same to any other, and names the same job.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
from msgspec import Raw

from stoker.schemas import wire
from stoker.schemas.children import (
    MAX_CHILDREN,
    CallAnswer,
    CallAsked,
    CallLeft,
    ChildView,
    NotReturned,
    Returned,
    UnderWay,
    child_id,
)
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, Missing, NobodyThere, TooLarge
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import TaskOwner
from stoker.services.records.blobs import BlobGone, read_blob
from stoker.services.worker.engines.base import ChildEnd
from stoker.services.worker.jobs.attempt import Attempt
from stoker.services.worker.jobs.core import WorkerCore
from stoker.services.worker.runner.messages import ChildAsked, ChildEnded
from stoker.services.worker.runner.process import RunnerAway
from stoker.services.worker.runner.runners import Runners

log = get_logger("children")

MAX_WAITING = 1000
"""Attempts that wait for calls of theirs on one worker."""
ASK_S = 8.0
"""How long a gateway has to answer: it says after ANSWER_WITHIN_S that a call is under way."""
AGAIN_S, LONGEST_PAUSE_S = 0.1, 3.0
"""Before a question that nobody could answer is asked again; doubles."""


@dataclass(slots=True)
class _Asking:
    """One call that an attempt waits for. end: it has come, and waits for a slot to be handed over."""

    number: int
    job: str
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    end: ChildEnd | None = None


@dataclass(slots=True)
class _Family:
    """The calls of one attempt that have not been answered."""

    asking: dict[int, _Asking] = field(default_factory=dict)
    count: int = 0


class Children:
    """freed: is told of a lane in which a slot is free, or somebody waits for one."""

    def __init__(
        self, bus: Bus, core: WorkerCore, runners: Runners, tasks: TaskOwner, freed: Callable[[str], None]
    ) -> None:
        self._bus = bus
        self._core = core
        self._runners = runners
        self._tasks = tasks
        self._freed = freed
        self._families: dict[str, _Family] = {}

    def asked(self, attempt: Attempt, message: ChildAsked) -> None:
        """A run asks for a call."""
        family = self._families.get(attempt.key)
        if family is None:
            family = self._families[attempt.key] = _Family()
            if not attempt.hold(lambda: self._end(attempt.key)):
                return  # it has ended
        family.count += 1
        job = child_id(attempt.job, message.name, message.payload, message.nth)
        one = family.asking[message.number] = _Asking(message.number, job)
        if why := self._why_not(attempt, family):
            self._came(attempt, one, ChildEnd(kind="resource", message=f"{message.name}: {why}"))
            return
        self._note(attempt, job, message.name, "queued")
        self._wait(attempt)
        self._tasks.start_contained(self._ask, attempt, one, message)

    def _why_not(self, attempt: Attempt, family: _Family) -> str:
        if attempt.phase == "stopping":
            return "the call that asks was cancelled"
        if family.count > MAX_CHILDREN:
            return f"a call makes at most {MAX_CHILDREN} calls of its own"
        if attempt.phase == "running" and self._core.waiting >= MAX_WAITING:
            return f"{MAX_WAITING} calls of this worker wait for calls of their own already"
        return ""

    def _wait(self, attempt: Attempt) -> None:
        """It waits for a call: its slot is free."""
        if attempt.phase == "resuming":
            self._hand_over(attempt)
        if attempt.phase == "running":
            attempt.waits_since = time.monotonic()
        if attempt.phase in ("running", "resuming"):
            self._core.move(attempt, "waiting")
            self._freed(attempt.lane)

    def left(self, attempt: Attempt, number: int) -> None:
        """Nobody waits for a call any more: it is to be cancelled, and the run goes on."""
        family = self._families.get(attempt.key)
        one = family.asking.get(number) if family is not None else None
        if one is None or one.end is not None:
            return
        left = CallLeft(attempt.job, one.job, attempt.assignment.seal)
        self._bus.tell(self._bus.subjects.calls(), left)
        self._note(attempt, one.job, "", "cancelled")
        one.scope.cancel()
        self._came(
            attempt, one, ChildEnd(kind="cancelled", message="it was cancelled by the call that made it")
        )

    def resumed(self, attempt: Attempt) -> None:
        """It has a slot again."""
        attempt.waited_s += time.monotonic() - attempt.waits_since
        self._hand_over(attempt)

    def _hand_over(self, attempt: Attempt) -> None:
        family = self._families.get(attempt.key, _Family())
        for one in [one for one in family.asking.values() if one.end is not None]:
            self._deliver(attempt, family, one)

    def _deliver(self, attempt: Attempt, family: _Family, one: _Asking) -> None:
        assert one.end is not None
        del family.asking[one.number]
        try:
            self._runners.send(attempt.spec.engine, ChildEnded(attempt.key, one.number, one.end))
        except RunnerAway:
            pass  # the attempt was lost with it

    def _came(self, attempt: Attempt, one: _Asking, end: ChildEnd) -> None:
        """A call has ended: the run is told, or as the last one waits for a slot to be told."""
        family = self._families.get(attempt.key)
        if family is None or one.number not in family.asking:
            return
        one.end = end
        if attempt.phase != "waiting" or any(other.end is None for other in family.asking.values()):
            if attempt.phase != "resuming":
                self._deliver(attempt, family, one)
            return
        self._core.move(attempt, "resuming")
        self._freed(attempt.lane)

    def _end(self, key: str) -> None:
        """The attempt has left its engine."""
        family = self._families.pop(key, _Family())
        for one in family.asking.values():
            one.scope.cancel()

    @staticmethod
    def _note(attempt: Attempt, job: str, name: str, status: str) -> None:
        known = attempt.children.get(job)
        attempt.children[job] = ChildView(job, name or (known.model if known is not None else ""), status)

    # Asking ---------------------------------------------------------------------------------------

    async def _ask(self, attempt: Attempt, one: _Asking, message: ChildAsked) -> None:
        """Ask until it has ended, and tell the run. Cancelled when nobody waits for it any more."""
        with one.scope:
            await self._ask_on(attempt, one, message)

    async def _ask_on(self, attempt: Attempt, one: _Asking, message: ChildAsked) -> None:
        payload = Raw(message.payload)
        asked = CallAsked(attempt.job, message.name, payload, message.nth, attempt.assignment.seal)
        pause_s = AGAIN_S
        while True:
            answer: CallAnswer
            try:
                answer = await self._bus.ask(self._bus.subjects.calls(), asked, CallAnswer, ASK_S)
                end = await self._end_of(attempt, one, message.name, answer)
                if end is not None:
                    self._came(attempt, one, end)
                    return
                if isinstance(answer, UnderWay):
                    pause_s = AGAIN_S
                    continue
            except TooLarge as error:
                text = f"{message.name}: the payload fits no message ({error}); give large things as files"
                self._came(attempt, one, ChildEnd(kind="validation", message=text))
                return
            except (BusError, wire.UnreadableMessage) as error:
                if not isinstance(error, NobodyThere):
                    log.warning("child.not_asked", job=attempt.job, name=message.name, error=str(error))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _end_of(self, attempt: Attempt, one: _Asking, name: str, answer: CallAnswer) -> ChildEnd | None:
        """How a call has ended; None: it has not. Raises BusError."""
        match answer:
            case UnderWay(job):
                self._note(attempt, job, name, "running")
                return None
            case Returned(job, result, blob):
                self._note(attempt, job, name, "completed")
                try:
                    content = await read_blob(self._bus, blob) if blob else bytes(result)
                except (BlobGone, Missing) as error:
                    return ChildEnd(kind="internal", message=f"{name}: {error}", child=job)
                return ChildEnd(content, child=job)
            case NotReturned(may_pass=True):
                return None
            case NotReturned(kind, message, job, field):
                if job:
                    self._note(attempt, job, name, "cancelled" if kind == "cancelled" else "failed")
                else:
                    attempt.children.pop(one.job, None)  # it was not accepted
                return ChildEnd(kind=kind, message=f"{name}: {message}", field=field, child=job)
