"""Which drawings are under way for whom: A1111's clients ask for their progress, and interrupt them."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from stoker.schemas.job_events import JobEvent, Preview, Progress, Terminal
from stoker.services.gateway.watching.resume import Cursor
from stoker.services.gateway.watching.watcher import Watcher


class Drawing(Watcher):
    """How far a job is. It is its job's watcher and keeps the last of what it is given: nothing waits in it.

    step, steps: None before the first step. preview: the last intermediate picture (PNG); b"" before it.
    is_interrupted: its owner has stopped it.
    """

    def __init__(self, job: str) -> None:
        super().__init__(job, Cursor())
        self.step: int | None = None
        self.steps = 0
        self.preview = b""
        self.is_interrupted = False
        self._first: tuple[int, float] | None = None

    def put(self, event: JobEvent, attached: bytes, size: int) -> None:
        match event:
            case Progress(step=step, steps=steps):
                if self._first is None or step < self._first[0]:  # another attempt begins anew
                    self._first = step, time.monotonic()
                self.step, self.steps = step, steps
            case Preview():
                self.preview = attached
            case _ if isinstance(event, Terminal):
                self.has_ended = True

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.step / self.steps if self.step is not None and self.steps else 0.0

    @property
    def remaining_s(self) -> float:
        """At the pace of the steps until now; 0 while there is no pace."""
        if self._first is None or self.step is None or self.step <= self._first[0]:
            return 0.0
        done = self.step - self._first[0]
        return (time.monotonic() - self._first[1]) / done * (self.steps - self.step)


class ActiveJobs:
    """Drawings by owner, in the order in which they began; those of this gateway.

    attached: gives a watcher its job's events while the block lasts.
    """

    def __init__(self, attached: Callable[[Watcher], AbstractContextManager[None]]) -> None:
        self._attached = attached
        self._drawings: dict[str, list[Drawing]] = {}

    @contextmanager
    def under_way(self, owner: str, job: str) -> Iterator[Drawing]:
        """Inside, the job is one of its owner's: how far it is."""
        drawing = Drawing(job)
        self._drawings.setdefault(owner, []).append(drawing)
        try:
            with self._attached(drawing):
                yield drawing
        finally:
            self._drawings[owner].remove(drawing)
            if not self._drawings[owner]:
                del self._drawings[owner]

    def of(self, owner: str) -> tuple[Drawing, ...]:
        return tuple(self._drawings.get(owner, ()))
