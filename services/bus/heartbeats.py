"""Whole heartbeats of workers, from what they say: all of it now and then, and in between what has changed.

Everybody who reads heartbeats reads them here. What is known of a worker is a whole heartbeat that it has said,
the `base`, and the newest that was heard:

    nothing known ──▶ known                     a whole heartbeat of it
    known ──▶ known, with a newer base          a newer whole one, of the same process or of a later one
    known ──▶ known, and heard                  a change that names this base and is newer than what was heard
    known, or nothing known ──▶ the same, asks  a change of a base that is not known here: it was lost, or said
                                                before this reader began, or by a later process of this name
    known ──▶ the same                          anything older: it came late, or from an earlier process
    known ──▶ nothing known                     its goodbye; or it has said nothing for FORGET_AFTER_S

A change is applied to its own base or not at all: so what is handed on is always a heartbeat that the worker
has said. Where that is not known nothing is handed on, and the worker is asked for a whole one, at most once in
ASK_EVERY_S; it says one every few seconds in any case.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.heartbeats import HeartbeatChange, Solicitation, joined
from stoker.schemas.subjects import ANY, last_name
from stoker.schemas.workers import Heartbeat
from stoker.services.bus.connection import Bus
from stoker.services.bus.quick_client import Handler
from stoker.services.process.logs import get_logger

log = get_logger("heartbeats")

ASK_EVERY_S = 1.0
FORGET_AFTER_S = 60.0


@dataclass(slots=True)
class _Known:
    """base: the last whole one. last: the newest that was heard, whole or not; at: when."""

    base: Heartbeat
    last: Heartbeat
    at: float


class Joining:
    """What is known of every worker. `now`: seconds of a clock that never steps. Pure.

    `whole` and `change` give the heartbeat to hand on; None where there is none.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._asked: dict[str, float] = {}
        self._tidied = 0.0

    def whole(self, beat: Heartbeat, now: float) -> Heartbeat | None:
        self._tidy(now)
        known = self._known.get(beat.worker)
        if known is not None and beat.started_at < known.base.started_at:
            return beat  # of an earlier process, which may still be there: who reads it knows what that means
        if known is not None and beat.started_at == known.base.started_at and beat.seq <= known.last.seq:
            return None
        if beat.is_leaving:
            self._known.pop(beat.worker, None)
        else:
            beat = _with_same_models(beat, known.last) if known is not None else beat
            self._known[beat.worker] = _Known(beat, beat, now)
        return beat

    def change(self, change: HeartbeatChange, now: float) -> Heartbeat | None:
        known = self._known.get(change.worker)
        if known is None or (change.started_at, change.base) != (known.base.started_at, known.base.seq):
            return None
        if change.seq <= known.last.seq:
            return None
        known.last, known.at = _with_same_models(joined(known.base, change), known.last), now
        return known.last

    def is_news(self, change: HeartbeatChange) -> bool:
        """Whether a change that gave nothing is of a base that is not known here."""
        known = self._known.get(change.worker)
        place = (known.base.started_at, known.base.seq) if known is not None else (0.0, 0)
        return (change.started_at, change.base) > place

    def may_ask(self, worker: str, now: float) -> bool:
        """Whether to ask a worker for a whole one: once in ASK_EVERY_S."""
        asked_at = self._asked.get(worker)
        if asked_at is not None and now - asked_at < ASK_EVERY_S:
            return False
        self._asked[worker] = now
        return True

    def _tidy(self, now: float) -> None:
        """Forget who has been silent for long: names come and go."""
        if now - self._tidied < FORGET_AFTER_S:
            return
        self._tidied = now
        self._known = {name: one for name, one in self._known.items() if now - one.at < FORGET_AFTER_S}
        self._asked = {name: at for name, at in self._asked.items() if now - at < FORGET_AFTER_S}


def _with_same_models(beat: Heartbeat, before: Heartbeat) -> Heartbeat:
    """The same heartbeat; where its models are as before, they are the same object: who has hundreds of them to
    look at sees at once that nothing has changed.
    """
    if beat.models is before.models or beat.models != before.models:
        return beat
    return msgspec.structs.replace(beat, models=before.models)


class HeartbeatReader:
    """`take` is given whole heartbeats. leads: this is the leading scheduler, which tells workers that it reads
    changes. not_known: is called where a worker said something, and what is not known.
    """

    def __init__(
        self,
        bus: Bus,
        take: Callable[[Heartbeat], None],
        *,
        leads: bool = False,
        not_known: Callable[[], None] = lambda: None,
    ) -> None:
        self._bus = bus
        self._take = take
        self._not_known = not_known
        self._leads = leads
        self._joining = Joining()

    def subscriptions(self) -> tuple[tuple[str, Handler], ...]:
        """What to listen to."""
        every = self._bus.subjects.every
        return (every("heartbeat", ANY), self._on_whole), (every("change", ANY), self._on_change)

    def _read(
        self, message: Msg, kind: type[Heartbeat] | type[HeartbeatChange]
    ) -> Heartbeat | HeartbeatChange | None:
        try:
            read: Heartbeat | HeartbeatChange = wire.decode(kind, message.data)
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))
            self._not_known()
            return None
        if read.worker != last_name(message.subject):
            log.warning("heartbeat.not_believed", subject=message.subject, worker=read.worker)
            return None
        return read

    def _on_whole(self, message: Msg) -> None:
        beat = self._read(message, Heartbeat)
        if not isinstance(beat, Heartbeat):
            return
        if self._leads and beat.may_change:
            self._ask(beat.worker, reads_changes=True)
        if (whole := self._joining.whole(beat, time.monotonic())) is not None:
            self._take(whole)

    def _on_change(self, message: Msg) -> None:
        change = self._read(message, HeartbeatChange)
        if not isinstance(change, HeartbeatChange):
            return
        now = time.monotonic()
        if (whole := self._joining.change(change, now)) is not None:
            self._take(whole)
        elif self._joining.is_news(change):
            self._not_known()
            if self._joining.may_ask(change.worker, now):
                self._ask(change.worker, reads_changes=None)

    def _ask(self, worker: str, *, reads_changes: bool | None) -> None:
        self._bus.tell(self._bus.subjects.solicit_one(worker), Solicitation(reads_changes))
