"""What workers say of themselves, by worker and by the models that are hot on them. Pure."""

from collections.abc import Mapping

from stoker.schemas.workers import Heartbeat

SILENT_S = 6.0
"""A worker that has not reported for this long, while others have, does not count as ready."""
LOST_S = 60.0
"""One that stays silent this long is forgotten here; its launcher is told to stop it."""

_NOWHERE: Mapping[str, str] = {}


class Workers:
    """The last heartbeat of each. reported_at: when anybody said anything last, seconds since 1970."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Heartbeat, float]] = {}
        self._hot: dict[str, dict[str, str]] = {}
        """By model the workers on which it is hot, and as which spec; without those that drain."""
        self.reported_at = 0.0

    def take(self, heartbeat: Heartbeat, now: float) -> bool:
        """A worker speaks; whether what it says of its models is new."""
        self.reported_at = now
        found = self._last.get(heartbeat.worker)
        known = found[0] if found is not None else None
        if heartbeat.is_leaving:
            self._forget(heartbeat.worker)
        else:
            self._last[heartbeat.worker] = (heartbeat, now)
            if known is None or not _is_as_before(known, heartbeat):
                self._note_hot(heartbeat.worker, _hot_on(known), _hot_on(heartbeat))
        return known is None or (known.models, known.failed_loads) != (heartbeat.models, heartbeat.failed_loads)

    def reported(self, worker: str) -> Heartbeat | None:
        """What a worker said last; None where it is silent."""
        found = self._last.get(worker)
        return found[0] if found is not None and self.reported_at - found[1] <= SILENT_S else None

    def hot(self, model: str) -> Mapping[str, str]:
        """Workers on which a model is hot, and as which spec; silent ones too."""
        return self._hot.get(model, _NOWHERE)

    def forget_lost(self) -> None:
        """Those that were silent for too long."""
        for worker in [name for name, (_, at) in self._last.items() if self.reported_at - at > LOST_S]:
            self._forget(worker)

    def _forget(self, worker: str) -> None:
        found = self._last.pop(worker, None)
        if found is not None:
            self._note_hot(worker, _hot_on(found[0]), {})

    def _note_hot(self, worker: str, were: Mapping[str, str], are: Mapping[str, str]) -> None:
        for model in were.keys() - are.keys():
            del self._hot[model][worker]
            if not self._hot[model]:
                del self._hot[model]
        for model, spec in are.items():
            self._hot.setdefault(model, {})[worker] = spec


def _is_as_before(known: Heartbeat, heartbeat: Heartbeat) -> bool:
    """Whether the same is hot for certain: readers of heartbeats keep the models where nothing has changed."""
    return known.models is heartbeat.models and known.is_draining == heartbeat.is_draining


def _hot_on(heartbeat: Heartbeat | None) -> dict[str, str]:
    """Models that are hot on a worker, and as which spec; none where it drains."""
    if heartbeat is None or heartbeat.is_draining:
        return {}
    return {one.model: one.spec for one in heartbeat.models if one.tier == "hot"}
