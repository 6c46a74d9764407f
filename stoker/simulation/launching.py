"""Replicas that are launched: the production autoscaler in virtual time, hardware that may be out of stock.

An order is answered after half a second. A worker is there after its spec's time to start, give or take a
tenth; then it loads its model. One that is stopped ends when it has nothing more to do.
"""

import math
import random
from typing import TYPE_CHECKING

from stoker.schemas.catalog import ResourceProfile
from stoker.schemas.fleet import QueueDepth
from stoker.services.autoscaler import commands, events
from stoker.services.autoscaler.backoff import OUT_OF_STOCK
from stoker.services.autoscaler.core import Autoscaler
from stoker.simulation.scenario import LAUNCHER, Stock
from stoker.simulation.worker import SimWorker

if TYPE_CHECKING:
    from stoker.simulation.world import World

ANSWER_S = 0.5
LOOK_EVERY_S = 0.5
START_SPREAD = (0.9, 1.1)


class Spells:
    """When there is stock: spells with and without follow each other, of random lengths."""

    def __init__(self, stock: Stock, chance: random.Random, now: float) -> None:
        self._stock = stock
        self._chance = chance
        self._is_there = stock.share >= 1.0 or chance.random() < stock.share
        self._until = math.inf if stock.share >= 1.0 else now + self._length_s()

    def _length_s(self) -> float:
        share, spell_s = self._stock.share, self._stock.spell_seconds
        return self._chance.expovariate(1 / (spell_s * share / (1 - share) if self._is_there else spell_s))

    def has_stock(self, now: float) -> bool:
        while self._until <= now:
            self._is_there = not self._is_there
            self._until += self._length_s()
        return self._is_there


class Launching:
    """What the autoscaler hears, and what its commands do."""

    def __init__(self, world: "World") -> None:
        self.core = Autoscaler(1)
        self.ordered: list[tuple[float, str]] = []
        """Orders: when, and of which spec."""
        self.first_ready_s: float | None = None
        self._world = world
        self._began_at = self._looked_at = world.now
        self._chance = random.Random(f"{world.plan.seed} launching")
        self._specs = {spec.name: spec for spec in world.plan.scenario.specs}
        self._spells = {
            name: Spells(spec.stock, random.Random(f"{world.plan.seed} {name}"), world.now)
            for name, spec in self._specs.items()
        }
        self._taken: dict[str, SimWorker] = {}
        for name, spec in self._specs.items():
            profile = ResourceProfile(name, LAUNCHER, price_per_hour=spec.price_per_hour)
            self.feed(events.ProfileChanged(name, profile))
        for model in world.models.values():
            self.feed(events.ModelChanged(model.name, model.as_model(world.plan.scenario)))
        self.feed(events.Settled())

    def feed(self, event: events.Event) -> None:
        for command in self.core.handle(event, self._world.now):
            match command:
                case commands.Launch():
                    self._launch(command)
                case commands.Stop():
                    self._stop(command.replica)
                case commands.Record():
                    self._world.told_replicas(command.replicas)

    def told_depth(self, depth: QueueDepth) -> None:
        self.feed(events.DepthSeen(depth))

    def beat(self, worker: SimWorker) -> None:
        heartbeat = worker.heartbeat()
        if self.first_ready_s is None and any(one.tier == "hot" for one in heartbeat.models) and worker.only:
            self.first_ready_s = round(self._world.now - self._began_at, 3)
        self.feed(events.HeartbeatSeen(heartbeat))

    def tick(self) -> None:
        now = self._world.now
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            seen = {name: events.Seen("running") for name in self._taken}
            self.feed(events.LauncherLooked(LAUNCHER, now, seen))
            self.feed(events.Ticked())

    # Orders ---------------------------------------------------------------------------------------

    def _launch(self, command: commands.Launch) -> None:
        spec, name = self._specs[command.spec.name], command.replica.id
        self.ordered.append((self._world.now, spec.name))
        if not self._spells[spec.name].has_stock(self._world.now):
            refused = events.LaunchFailed(name, OUT_OF_STOCK, "none left")
            self._world.after(ANSWER_S, self.feed, refused)
            return
        worker = self._world.worker(name, spec)
        worker.only, worker.spec, worker.speed = command.model, spec.name, spec.speed
        self._taken[name] = worker
        self._world.after(ANSWER_S, self.feed, events.Launched(name))
        start_s = spec.start_seconds * self._chance.uniform(*START_SPREAD)
        self._world.after(start_s, self._there, worker)

    def _there(self, worker: SimWorker) -> None:
        if worker.ended_at == math.inf:
            self._world.join(worker)

    def _stop(self, name: str) -> None:
        worker = self._taken.get(name)
        if worker is None:
            return
        worker.is_draining = True
        if name in self._world.workers:
            worker.changed()
        self.has_ended(worker)

    def has_ended(self, worker: SimWorker) -> None:
        """A worker that was told to stop ends when it has no jobs."""
        if not worker.is_draining or worker.held() or worker.name not in self._taken:
            return
        del self._taken[worker.name]
        if worker.name in self._world.workers:
            self._world.leave(worker)
        else:
            worker.ended_at = self._world.now
            self._world.gone.append(worker)
