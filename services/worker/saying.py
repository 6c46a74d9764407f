"""Whether a heartbeat is said whole, or only what has changed since a whole one. Pure.

| what | what is said next |
|---|---|
| no leading scheduler has said that it reads changes, or the connection was lost since | all of it, each time |
| one has; nothing whole was said since, or not for FULL_EVERY_S, or somebody asks | all of it |
| one has, but there is little that has not changed, or this is the goodbye | all of it |
| one has, otherwise | what has changed since the last that was whole |

A scheduler of the version before asks without saying that it reads changes. Gateways and autoscalers of that
version hear what is whole, each FULL_EVERY_S: they take a worker for gone after six seconds.
"""

from stoker.schemas import wire
from stoker.schemas.heartbeats import FULL_EVERY_S, HeartbeatChange, Solicitation, change_since
from stoker.schemas.workers import Heartbeat


class Saying:
    """`next` gives what to say of a heartbeat, in bytes. now: seconds of a clock that never steps.

    full_every_s: how long changes have the same base.
    """

    def __init__(self, full_every_s: float = FULL_EVERY_S) -> None:
        self._full_every_s = full_every_s
        self._may_change = False
        self._base: Heartbeat | None = None
        self._base_bytes = 0
        self._base_at = 0.0

    def solicited(self, asked: Solicitation) -> None:
        """Somebody wants a whole one."""
        self._base = None
        if asked.reads_changes is not None:
            self._may_change = asked.reads_changes

    def disconnected(self) -> None:
        """Who leads is not known any more."""
        self._base, self._may_change = None, False

    @property
    def waits(self) -> bool:
        """Whether nobody has said yet that changes are read."""
        return not self._may_change

    def next(self, beat: Heartbeat, now: float) -> tuple[type[Heartbeat] | type[HeartbeatChange], bytes]:
        is_due = not self._may_change or self._base is None or now - self._base_at >= self._full_every_s
        if not is_due and self._base is not None and not beat.is_leaving:
            change = change_since(self._base, beat)
            if change is not None and 2 * len(said := wire.encode(change)) < self._base_bytes:
                return HeartbeatChange, said
        whole = wire.encode(beat)
        self._base, self._base_bytes, self._base_at = beat, len(whole), now
        return Heartbeat, whole
