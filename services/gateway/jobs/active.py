"""Which drawings are under way for whom: A1111's clients ask for their progress, and interrupt them."""

from collections.abc import Iterator
from contextlib import contextmanager


class ActiveJobs:
    """Job ids by owner, in the order in which they began; those of this gateway."""

    def __init__(self) -> None:
        self._jobs: dict[str, list[str]] = {}

    @contextmanager
    def under_way(self, owner: str, job: str) -> Iterator[None]:
        """Inside, the job is one of its owner's."""
        self._jobs.setdefault(owner, []).append(job)
        try:
            yield
        finally:
            self._jobs[owner].remove(job)
            if not self._jobs[owner]:
                del self._jobs[owner]

    def of(self, owner: str) -> tuple[str, ...]:
        return tuple(self._jobs.get(owner, ()))
