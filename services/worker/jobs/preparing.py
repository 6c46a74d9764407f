"""From accepted to ready: what an attempt brings along is fetched, and its models are brought into memory and
pinned.

All of it together is limited by what is left of the job's time to be started. Every error ends the attempt as
lost, with what it failed with here: whether another worker may do better is for the scheduler to judge. Only
what is missing everywhere fails the job.
"""

import time
from collections.abc import Callable
from typing import Literal

from stoker.schemas import wire
from stoker.schemas.catalog import Spec, weights_key
from stoker.schemas.job_events import FailureKind, Loading
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import LimitExceeded
from stoker.services.records.files import FileGone
from stoker.services.records.parts import PartsGone
from stoker.services.worker.jobs.attempt import Attempt
from stoker.services.worker.jobs.core import WorkerCore
from stoker.services.worker.jobs.endings import Endings
from stoker.services.worker.jobs.inputs import ask_sent, brings_more, can_go_on, companions_of, fetch
from stoker.services.worker.jobs.reports import Reports
from stoker.services.worker.models.asking import LoadError
from stoker.services.worker.models.loader import Loader
from stoker.services.worker.models.together import hold_together
from stoker.services.worker.models.weights.resolve import WeightsError

log = get_logger("attempts")

MIN_PREPARE_S = 30.0
"""An attempt has at least this long to become ready, however late it was assigned."""


class Preparing:
    """`ready(attempt)` is called when an attempt waits for nothing but a slot."""

    def __init__(
        self,
        bus: Bus,
        core: WorkerCore,
        loader: Loader,
        reports: Reports,
        endings: Endings,
        ready: Callable[[Attempt], None],
    ) -> None:
        self._bus = bus
        self._core = core
        self._loader = loader
        self._reports = reports
        self._endings = endings
        self._ready = ready

    def is_ready_at_once(self, attempt: Attempt) -> bool:
        """Whether an attempt needs nothing that is not here: no task is started for it then."""
        return (
            not _continues(attempt)
            and not brings_more(attempt.input)
            and self._loader.is_hot(attempt.model, attempt.spec)
        )

    def make_ready(self, attempt: Attempt) -> None:
        """Its models are hot: pin them, and let it wait for a slot."""
        attempt.ready_at = time.time()
        attempt.hold(self._loader.pin(attempt.model, attempt.spec))
        self._core.move(attempt, "ready")
        self._ready(attempt)

    async def prepare(self, attempt: Attempt) -> None:
        """Bring everything here; the attempt is ready then, or has ended."""
        try:
            await self._bring(attempt)
        except PartsGone as error:  # wherever it runs
            if attempt.phase == "preparing":
                self._core.move(attempt, "ending")
                kind: FailureKind = "validation" if isinstance(error, FileGone) else "load_failed"
                self._endings.failed(attempt, kind, str(error))
        except LoadError as error:
            self._end(attempt, str(error), "" if error.is_lost else "load_failed", was_killed=error.was_killed)
        except (LimitExceeded, BusError) as error:  # slow, or NATS: here it may do better in a moment
            self._end(attempt, str(error) or type(error).__name__, "", was_killed=True)
        except (WeightsError, wire.UnreadableMessage, ValueError, OSError) as error:
            self._end(attempt, str(error) or type(error).__name__, "load_failed")
        except Exception as error:
            log.exception("attempt.not_prepared", job=attempt.job)
            self._end(attempt, f"{type(error).__name__}: {error}", "load_failed")

    async def _bring(self, attempt: Attempt) -> None:
        if _continues(attempt):
            attempt.sent = await ask_sent(self._bus, attempt)
            attempt.log.start_after(attempt.sent)
        if brings_more(attempt.input):
            await fetch(self._bus, self._loader, attempt)
        if companions := companions_of(attempt):
            await self._hold_together(attempt, companions)
        if attempt.phase == "preparing" and not self._loader.is_hot(attempt.model, attempt.spec):
            tier = self._loader.tier(attempt.model, attempt.spec)
            self._reports.tell(attempt, Loading(tier=tier))
            await self._make_hot(attempt, attempt.model, attempt.spec)
            waited_s = time.time() - attempt.accepted_at
            weights = self._loader.cache.entries.get(weights_key(attempt.model, attempt.spec))
            attempt.fetch_s = min(weights.fetch_s, waited_s) if weights is not None else 0.0
        if attempt.phase == "preparing":
            self.make_ready(attempt)

    async def _hold_together(self, attempt: Attempt, companions: list[str]) -> None:
        """Its own model and the others that it is given: all of them, or none while it waits."""
        models = [(attempt.model, attempt.spec)]
        for model in companions:
            spec = self._loader.spec_of(model)
            if spec is None:
                raise LoadError(f"this worker does not serve the model {model!r}")
            models.append((model, spec))
        if not all(self._loader.is_hot(*one) for one in models):
            self._reports.tell(attempt, Loading(tier=self._loader.tier(attempt.model, attempt.spec)))
        evict, left_s = attempt.assignment.evict, _time_left_s(attempt)
        await hold_together(self._loader, models, evict, attempt.hold, left_s)

    async def _make_hot(self, attempt: Attempt, model: str, spec: Spec) -> None:
        await self._loader.make_hot(model, spec, attempt.assignment.evict, _time_left_s(attempt))

    def _end(
        self, attempt: Attempt, reason: str, kind: FailureKind | Literal[""], *, was_killed: bool = False
    ) -> None:
        if attempt.phase == "preparing":  # else it was stopped meanwhile
            self._endings.lost(attempt, reason, kind, was_killed=was_killed)


def _continues(attempt: Attempt) -> bool:
    """Whether it goes on with the text of an earlier attempt."""
    return attempt.assignment.attempt > 1 and can_go_on(attempt.input)


def _time_left_s(attempt: Attempt) -> float:
    job = attempt.assignment.job
    return max(job.created_at + job.admission_timeout_s - time.time(), MIN_PREPARE_S)
