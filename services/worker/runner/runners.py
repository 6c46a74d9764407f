"""The runner processes of a worker: one for each family of engines, so that none can hurt another.

The runner of a family is started at the first message for one of its engines, and kept running from then on
(supervisor.py). Its death, its silence and its start concern the engines of its family: the others go on, and
their weights stay where they are. The table of families is in services/worker/engines/registry.py.
"""

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from stoker.schemas.workers import Resources
from stoker.services.process.tasks import TaskOwner
from stoker.services.worker.engines.registry import engines_of, family_of
from stoker.services.worker.limits import LIMIT_S
from stoker.services.worker.runner.messages import Message, Pace, Usage
from stoker.services.worker.runner.process import RunnerAway
from stoker.services.worker.runner.supervisor import RunnerSupervisor

Engines = frozenset[str]
Known = TypeVar("Known")


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told what runners say, and what becomes of them: `engines` are all of the runner's family.

    take: every message but Usage. died: with the exit status, and whether it was killed from outside.
    changed: a runner is started, falls silent, or speaks again. is_loading: whether weights of these engines
    are being loaded.
    """

    take: Callable[[Any], None]
    ready: Callable[[Engines], None]
    died: Callable[[Engines, int, bool], None]
    changed: Callable[[], None]
    is_loading: Callable[[Engines], bool]


class Runners:
    """`engines`: those that the worker offers. `tasks` owns every runner. limit_s: as in RunnerSupervisor."""

    def __init__(
        self, engines: Iterable[str], tasks: TaskOwner, listener: Listener, limit_s: float = LIMIT_S
    ) -> None:
        self._offered = tuple(engines)
        self._tasks = tasks
        self._listener = listener
        self._limit_s = limit_s
        self._runners: dict[str, RunnerSupervisor] = {}
        self._window_s = 0.0
        self._usage: dict[str, Resources] = {}
        """What each family's runner takes, the latest report last."""

    def start(self) -> None:
        """Start the runner of a worker that has one family: it will be needed. Others wait for a message."""
        if len({family_of(engine) for engine in self._offered}) == 1:
            self.of(self._offered[0])

    def of(self, engine: str) -> RunnerSupervisor:
        """The runner of an engine's family, started if it was not. Raises RunnerAway when the worker stops."""
        family = family_of(engine)
        found = self._runners.get(family)
        if found is None:
            if not self._tasks.is_open:
                raise RunnerAway("the worker stops")
            found = self._runners[family] = self._supervisor(family)
            self._tasks.start(found.run)
            self._listener.changed()
        return found

    def _supervisor(self, family: str) -> RunnerSupervisor:
        engines = engines_of(family)
        return RunnerSupervisor(
            partial(self._take, family),
            partial(self._listener.ready, engines),
            partial(self._died, family, engines),
            self._listener.changed,
            partial(self._listener.is_loading, engines),
            self._limit_s,
            family,
        )

    def _take(self, family: str, message: Any) -> None:
        if isinstance(message, Usage):
            self._usage.pop(family, None)
            self._usage[family] = message.resources
        else:
            self._listener.take(message)

    def _died(self, family: str, engines: Engines, status: int, was_killed: bool) -> None:
        self._usage.pop(family, None)
        self._listener.died(engines, status, was_killed)

    def send(self, engine: str, message: Message) -> None:
        """Raises RunnerAway when the engine's runner is not ready; it is being started then."""
        self.of(engine).send(message)

    def pace(self, window_s: float) -> None:
        """Text may wait in every runner for so long, from now on."""
        if window_s or self._window_s:
            for runner in self._runners.values():
                with suppress(RunnerAway):
                    runner.send(Pace(window_s))
        self._window_s = window_s

    async def wait_ready(self, engine: str, seconds: float) -> None:
        """Return when the engine's runner is ready. Raises LimitExceeded, RunnerAway."""
        await self.of(engine).wait_ready(seconds)

    def kill(self, engine: str) -> None:
        """End the engine's runner, with all that its family has there; another one is started."""
        if (found := self._runners.get(family_of(engine))) is not None:
            found.kill()

    def beside(self, engine: str) -> Engines:
        """The engines that live in the same process, itself included."""
        return engines_of(family_of(engine))

    def away(self) -> Collection[str]:
        """The offered engines that take nothing now: their runner is being started, or says nothing."""
        not_ready = {family for family, runner in self._runners.items() if not runner.is_ready}
        return {engine for engine in self._offered if family_of(engine) in not_ready}

    def pids(self) -> dict[str, int]:
        """The process ids of the runners that are ready, by family; of those that have one of their own."""
        return {family: runner.pid for family, runner in self._runners.items() if runner.pid}

    @property
    def resources(self) -> Resources:
        """What all of them take together."""
        return merged(self._usage.values())


def merged(reports: Iterable[Resources]) -> Resources:
    """What several processes on one machine take together, the latest report last.

    Processor time, memory and what torch has of the device add up; of the device itself all see the same, so
    the latest counts.
    """
    listed = list(reports)
    if len(listed) == 1:
        return listed[0]
    engine: dict[str, float] = {}
    for one in listed:
        engine |= one.engine
    return Resources(
        cpu_percent=sum(one.cpu_percent for one in listed),
        rss_bytes=sum(one.rss_bytes for one in listed),
        gpu_allocated_bytes=_sum(one.gpu_allocated_bytes for one in listed),
        gpu_reserved_bytes=_sum(one.gpu_reserved_bytes for one in listed),
        gpu_total_bytes=_last(one.gpu_total_bytes for one in listed),
        gpu_used_bytes=_last(one.gpu_used_bytes for one in listed),
        gpu_utilization_percent=_last(one.gpu_utilization_percent for one in listed),
        engine=engine,
    )


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _last(values: Iterable[Known | None]) -> Known | None:
    known = [value for value in values if value is not None]
    return known[-1] if known else None
