"""The worker's state, published every second and soon after every change, whole or as changes (saying.py)."""

import asyncio
import os
import socket
import time
from dataclasses import dataclass

import psutil
from anyio import move_on_after

from stoker.schemas.heartbeats import Solicitation, in_tiers
from stoker.schemas.workers import HEARTBEAT_INTERVAL_S, Heartbeat, RunningJob
from stoker.services.bus.connection import Bus
from stoker.services.process.telemetry import gauge
from stoker.services.worker.jobs.attempt import WAITS
from stoker.services.worker.jobs.core import WorkerCore
from stoker.services.worker.models.loader import Loader
from stoker.services.worker.runner.runners import Runners
from stoker.services.worker.saying import Saying

CHANGE_DELAY_S = 0.02
"""Changes within this time share one heartbeat."""
GOES_ON_S = 5.0
"""A run goes on while its engine has said something of it within this time."""

MEMORY = gauge("stoker_memory_bytes", "For weights, as the worker counts it", "place", "of")
CACHED = gauge("stoker_cached_models", "Models by the tier in which the worker has them", "tier")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a worker is called, and what it runs on.

    spec: the only one it serves, or "". is_pinned: it serves it as it was when the worker started.
    """

    name: str
    profile: str
    spec: str
    device: str
    is_pinned: bool = False


class Heartbeats:
    """An engine whose runner takes nothing now is told as `coming`. started_at: names this process."""

    def __init__(
        self, bus: Bus, identity: Identity, core: WorkerCore, loader: Loader, runners: Runners
    ) -> None:
        self._bus = bus
        self._identity = identity
        self._core = core
        self._loader = loader
        self._runners = runners
        self.started_at = time.time()
        self._host = socket.gethostname()
        self._seq = 0
        self._saying = Saying()
        self._has_left = False
        self._change = asyncio.Event()

    def changed(self) -> None:
        """Something is different: say it soon."""
        self._change.set()

    def solicited(self, asked: Solicitation) -> None:
        """Somebody asks for all of it."""
        self._saying.solicited(asked)
        self.changed()

    def reconnected(self) -> None:
        """Who leads may be another now."""
        self._saying.disconnected()
        self.changed()

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            self.beat()
            with move_on_after(HEARTBEAT_INTERVAL_S) as scope:
                await self._change.wait()
            if not scope.cancelled_caught:
                await asyncio.sleep(CHANGE_DELAY_S)
            self._change.clear()

    def beat(self, *, is_leaving: bool = False) -> None:
        """Publish one now; after the one that says goodbye there is none.

        Whoever hears one would take the worker in again, and give it up once more when it falls silent.
        """
        if self._has_left:
            return
        self._has_left = is_leaving
        self._seq += 1
        made = self._heartbeat(is_leaving)
        _measure(made)
        kind, said = self._saying.next(made, time.monotonic())
        subjects, name = self._bus.subjects, self._identity.name
        self._bus.post(subjects.heartbeat(name) if kind is Heartbeat else subjects.change(name), said)

    def _heartbeat(self, is_leaving: bool) -> Heartbeat:
        cache = self._loader.cache
        models = tuple(self._loader.residents())
        away, now = self._runners.away(), time.monotonic()
        engines = self._core.engines.items()
        return Heartbeat(
            worker=self._identity.name,
            started_at=self.started_at,
            seq=self._seq,
            spec=self._identity.spec,
            profile=self._identity.profile,
            device=self._identity.device,
            host=self._host,
            engines={name: one for name, one in engines if name not in away},
            coming={name: one for name, one in engines if name in away},
            memory_total_bytes=cache.memory_bytes,
            memory_used_bytes=cache.used_bytes,
            ram_total_bytes=cache.ram_bytes,
            models=models,
            **in_tiers(models),
            running=tuple(
                RunningJob(
                    one.job,
                    one.model,
                    one.spec.name,
                    one.assignment.attempt,
                    one.assignment.term,
                    one.assignment.seal,
                    one.phase in WAITS,
                    one.phase == "running" and now - one.heard_at < GOES_ON_S,
                )
                for one in self._core.listed()
            ),
            is_draining=self._core.is_draining,
            is_leaving=is_leaving,
            failed_loads=self._loader.failures.lately(time.monotonic()),
            load_failures=dict(self._loader.failures.counts),
            rss_bytes=sum(map(_rss_bytes, (os.getpid(), *self._runners.pids().values()))),
            resources=self._runners.resources,
            may_change=self._saying.waits,
        )


def _measure(beat: Heartbeat) -> None:
    """What the heartbeat says, as metrics."""
    MEMORY.labels("device", "total").set(beat.memory_total_bytes)
    MEMORY.labels("device", "used").set(beat.memory_used_bytes)
    MEMORY.labels("ram", "total").set(beat.ram_total_bytes)
    for tier, models in (("hot", beat.vram_models), ("parked", beat.ram_models), ("disk", beat.disk_models)):
        CACHED.labels(tier).set(len(models))


def _rss_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
