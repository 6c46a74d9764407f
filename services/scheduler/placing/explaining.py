"""Why a job went where it went, in words. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import msgspec

from stoker.schemas.catalog import Spec
from stoker.schemas.fleet import Explanation, JobView
from stoker.schemas.jobs import Job
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.jobs.record import Record as JobRecord
from stoker.services.scheduler.placing.option import Option
from stoker.services.scheduler.placing.placement import Predictor

EXPLAINED_CANDIDATES = 8
"""Candidates that are shown, the chosen one included."""


EXPLAINED_WHEN_HOT = 3
"""Other candidates that are shown for a job that found a free slot of a hot replica."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a job went. others: what else there was, or how to find that out.

    considered: workers that there were.
    """

    job: Job
    attempt: int
    chosen: Option
    others: list[Option] | Callable[[], list[Option]]
    considered: int
    at: float

    def explanation(self, *, is_waiting: bool = False) -> Explanation:
        """The terms of the worker that got the job, and those of others."""
        chosen = self.chosen
        reason = _why_chosen(chosen)
        others = self.others if isinstance(self.others, list) else self.others()
        candidates = [chosen.candidate(("meant for: " if is_waiting else "chosen: ") + reason)]
        for other in others[: EXPLAINED_CANDIDATES - 1]:
            candidates.append(other.candidate(_why_lost(other, chosen)))
        return Explanation(
            job=self.job.id,
            model=self.job.model,
            attempt=self.attempt,
            decided_at=self.at,
            chosen=chosen.worker.id,
            reason=reason,
            considered=self.considered,
            candidates=tuple(candidates),
        )


def with_calls(found: Explanation | None, view: JobView | None) -> Explanation | None:
    """The same, with what has called the job and what it calls."""
    if found is None or view is None:
        return found
    return msgspec.structs.replace(found, parent=view.parent, children=view.children)


def others_now(predictor: Predictor, chosen: Worker, record: JobRecord, spec: Spec, now: float) -> list[Option]:
    """Some workers that did not get a job: their terms as they are when somebody asks, which few do."""
    model = record.job.model
    able = (
        one
        for one in predictor.fleet.by_burden
        if one is not chosen and one.is_open and one.can_run(model, spec)
    )
    return [predictor.option(one, model, spec, record.units, now) for one in islice(able, EXPLAINED_WHEN_HOT)]


def _why_chosen(chosen: Option) -> str:
    if chosen.tier != "hot":
        return f"{chosen.tier} here, and it ends first here, the load included"
    return (
        "hot here, and it ends first here, the wait included" if chosen.wait_s else "hot here, least burdened"
    )


def _why_lost(other: Option, chosen: Option) -> str:
    slower = other.total_s - chosen.total_s
    if slower > 0.0005:
        terms = {
            "waiting": other.wait_s - chosen.wait_s,
            "loading": other.load_s - chosen.load_s,
            "making room": other.eviction_s - chosen.eviction_s,
            "running": other.run_s - chosen.run_s,
        }
        return f"lost: {slower:.3g} s later, by {max(terms, key=lambda term: terms[term])}"
    return "lost: a tie that went to the hotter, then the less burdened"
