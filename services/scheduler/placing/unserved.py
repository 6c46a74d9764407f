"""Models that nothing serves at this instant, though something may again: since when, why, who gives up. Pure.

A job waits for it as long as it may. One whose client waits for the answer on an open connection ends after its
`unserved_timeout_s`: its client is told when to try again, and why.
"""

import math

from stoker.schemas.fleet import ModelReplicas
from stoker.services.scheduler.placing.dispatch import Dispatcher
from stoker.services.scheduler.protocol.endings import GivenUp

LEAST_RETRY_S = 5.0
"""When to try again where nothing says when somebody will look again."""


class Unserved:
    """Reads the dispatcher's books. Its own state: since when nothing serves a model that jobs wait for."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._since: dict[str, float] = {}

    def look(
        self, launched: dict[str, ModelReplicas], impossible: dict[str, tuple[float, str]], now: float
    ) -> list[GivenUp]:
        """The jobs whose clients are told now. launched: what the autoscaler has recorded, by model;
        impossible: why no worker that is there can run a model.
        """
        found: list[GivenUp] = []
        since: dict[str, float] = {}
        ledger = self._dispatcher.ledger
        for queue in ledger.waiting_queues():
            reason, retry_at = self._why(queue.name, launched.get(queue.name), impossible)
            if not reason:
                continue
            began = since[queue.name] = self._since.get(queue.name, now)
            retry_after_s = max(retry_at - now, LEAST_RETRY_S)
            for record in ledger.waiting(queue.name):
                patience_s = record.job.unserved_timeout_s
                if patience_s is not None and now - max(began, record.job.created_at) >= patience_s:
                    found.append(GivenUp(record, reason, math.ceil(retry_after_s)))
        self._since = since
        return found

    def _why(
        self, name: str, launched: ModelReplicas | None, impossible: dict[str, tuple[float, str]]
    ) -> tuple[str, float]:
        """Why nothing serves a model, "" where something does or is about to; and when that is tried again."""
        model, fleet = self._dispatcher.models.get(name), self._dispatcher.fleet
        if model is None or len(fleet.replicas(name)):
            return "", 0.0
        specs = {spec.name for spec in model.specs if spec.launcher}
        if specs:
            recorded = launched.specs if launched is not None else ()
            conditions = {one.spec: one.condition for one in recorded if one.condition and one.spec in specs}
            if conditions.keys() != specs:
                return "", 0.0
            said = "; ".join(f"{spec}: {one.reason}, {one.message}" for spec, one in conditions.items())
            return f"no replica of {name} comes up ({said})", min(one.retry_at for one in conditions.values())
        if name in impossible:
            return f"no worker that can run {name} is there at this moment ({impossible[name][1]})", 0.0
        return ("" if fleet.workers else f"no worker is there at this moment that could run {name}"), 0.0
