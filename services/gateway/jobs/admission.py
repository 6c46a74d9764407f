"""What is refused at once: jobs that could only fail later, and more work than may wait. No I/O.

Read from what the scheduler reports of its queues; without a report everything is admitted, and the scheduler
decides.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from stoker.schemas.fleet import QueueDepth
from stoker.schemas.jobs import Job, is_repeatable, work_units
from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError, disk_full

QUEUE_RETRY_S = 2


class Admission:
    """depths: queues by model, as they are now. queue_max: generations of modes that may wait (QUEUE_MAX).

    why_disk_full: see FleetView. count: more of a key's jobs; raises RequestError 429, 400.
    """

    def __init__(
        self,
        depths: Mapping[str, QueueDepth],
        queue_max: int,
        why_disk_full: Callable[[], str] = lambda: "",
        count: Callable[[Sequence[Job]], None] = lambda _: None,
    ) -> None:
        self._count = count
        self._depths = depths
        self._why_disk_full = why_disk_full
        self._queue_max = queue_max
        self.generations = 0

    def check(self, job: Job, impossible_status: int) -> None:
        """Refuse at once what could only fail later, and what is too much. Raises RequestError."""
        self.check_all((job,), impossible_status)

    def check_all(self, jobs: Sequence[Job], impossible_status: int) -> None:
        """The same of the jobs of one request: where one is refused none is counted. Raises RequestError."""
        for job in jobs:
            self._check_model(job, impossible_status)
        self._count(jobs)

    def _check_model(self, job: Job, impossible_status: int) -> None:
        if found := self._why_disk_full():
            raise disk_full(found)
        depth = self._depths.get(job.model)
        if depth is None:
            return
        if depth.impossible:
            retry_after_s = RETRY_AFTER_S if impossible_status == 503 else None
            raise RequestError(
                impossible_status, depth.impossible, code="impossible", retry_after_s=retry_after_s
            )
        if depth.limit and depth.queued >= depth.limit and not job.parent:  # what has begun is to end
            raise RequestError(
                429,
                f"{depth.queued} jobs wait for {job.model!r} already",
                code="queue_full",
                retry_after_s=max(int(depth.eta_s or RETRY_AFTER_S), RETRY_AFTER_S),
            )
        if job.deadline_s is not None and depth.best_s is not None:
            # what runs code of users says nothing of its size: who runs before it may end at any moment
            wait_s = (depth.eta_s or 0.0) if is_repeatable(job.input) else 0.0
            best_s = wait_s + depth.best_s * work_units(job.input)
            if best_s > job.deadline_s:
                raise RequestError(
                    422,
                    f"it takes {best_s:.1f} s at least and the deadline is {job.deadline_s:g} s",
                    field="deadline_s",
                    code="would_miss_deadline",
                )

    @contextmanager
    def generation(self, modes: Mapping[str, object]) -> Iterator[None]:
        """Inside, one more generation of a mode is under way. Raises RequestError 429 when too many wait."""
        depths = [self._depths[name] for name in modes if name in self._depths]
        running = sum(depth.running for depth in depths)
        waiting = max(sum(depth.queued for depth in depths), self.generations - running)
        if waiting >= self._queue_max:
            raise RequestError(
                429, f"{waiting} generations wait already", code="queue_full", retry_after_s=QUEUE_RETRY_S
            )
        self.generations += 1
        try:
            yield
        finally:
            self.generations -= 1
