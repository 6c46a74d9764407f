"""Simulated hardware around the real autoscaler core: seeded, in virtual time, with faults.

Launchers that run out of stock, replicas that start slowly, crash or fail to load, demand that comes and goes.
After each event the invariants that services/autoscaler/plan.py promises are checked.
"""

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stoker.schemas.catalog import Model, ResourceProfile, Spec
from stoker.schemas.fleet import ModelReplicas, PlatformEvent, QueueDepth
from stoker.schemas.workers import EngineCapability, Heartbeat, ResidentModel
from stoker.services.autoscaler import commands, events
from stoker.services.autoscaler.core import Autoscaler

TICK_S = 0.5
LAUNCHER = "process"
ENGINES = {"text": EngineCapability(4, 2, ("TextGeneration",))}


@dataclass
class Hardware:
    """How replicas of one spec behave. stock: replicas that there are."""

    start_s: float = 2.0
    stock: int = 1000
    refuses: float = 0.0
    fails_to_load: float = 0.0
    crash_after_s: float = math.inf
    price_per_hour: float = 0.0


@dataclass
class SimReplica:
    id: str
    spec: str
    began_at: float
    is_hot: bool = False
    failure: str = ""
    has_ended: bool = False
    is_stopping: bool = False
    seq: int = 0


def make_spec(name: str, **fields: Any) -> Spec:
    return Spec(name=name, engine="text", url="file:///x", profile=name, launcher=LAUNCHER, **fields)


def make_model(*specs: Spec) -> Model:
    return Model(name="m", features=("TextGeneration",), specs=specs)


@dataclass
class HardwareSimulation:
    """One model on simulated hardware."""

    model: Model
    hardware: dict[str, Hardware]
    seed: int = 0
    drain_s: float = 0.5
    now: float = 1000.0
    demand: int = 0
    work_s: float = 0.0
    given_to: set[str] = field(default_factory=set)
    served: list[str] = field(default_factory=list)
    serving: set[str] = field(default_factory=set)
    """Replicas that were given a request by `serve`."""
    start_timeout_s: float = 30.0
    replicas: dict[str, SimReplica] = field(default_factory=dict)
    story: list[PlatformEvent] = field(default_factory=list)
    launches: list[tuple[float, str]] = field(default_factory=list)
    records: dict[str, ModelReplicas] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.term = 0
        self.start_autoscaler()
        self._tick()

    def start_autoscaler(self) -> None:
        """A new one, with what the bucket and the launchers have."""
        self.term += 1
        self.core = Autoscaler(self.term)
        for spec in self.model.specs:
            self.feed(events.ProfileChanged(spec.profile, self._profile(spec)))
        for record in list(self.records.values()):
            self.feed(events.Restored(record))
        self.feed(events.ModelChanged("m", self.model))
        self._look()
        self.feed(events.Settled())

    def _profile(self, spec: Spec) -> ResourceProfile:
        price = self.hardware[spec.name].price_per_hour
        return ResourceProfile(
            spec.profile, LAUNCHER, start_timeout_s=self.start_timeout_s, price_per_hour=price
        )

    def reconfigure(self, *specs: Spec) -> None:
        """Other specs; new ones have hardware of their own."""
        self.model = make_model(*specs)
        for spec in specs:
            if spec.name not in self.hardware:
                self.hardware[spec.name] = Hardware()
            self.feed(events.ProfileChanged(spec.profile, self._profile(spec)))
        self.feed(events.ModelChanged("m", self.model))

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (self.now + delay_s, self._count, action))

    def feed(self, event: events.Event) -> None:
        for command in self.core.handle(event, self.now):
            self._carry_out(command)
        self.check()

    def ask(self, requests: int, work_s: float = 0.0) -> None:
        """This many requests wait or run from now on; what they will take of a device."""
        self.demand, self.work_s = requests, work_s
        self._tell_depth()

    def _tell_depth(self) -> None:
        given, self.given_to = tuple(sorted(self.given_to)), set()
        self.feed(events.DepthSeen(QueueDepth("m", self.demand, 0, work_s=self.work_s, given_to=given)))

    def serve(self, run_s: float) -> str:
        """One request, which what is ready takes at once; the spec that does, a standby last. "" without any."""
        ready = [spec for spec in self.model.specs if self.ready(spec.name)]
        chosen = min(ready, key=lambda spec: spec.is_standby).name if ready else ""
        self.given_to |= {chosen} - {""}
        self.serving |= {one.id for one in self.ready(chosen)}
        self.ask(1)
        self.run_for(run_s)
        self.ask(0)
        return chosen

    def run_for(self, seconds: float) -> None:
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            self.now, _, action = heapq.heappop(self._due)
            action()
        self.now = until

    def _tick(self) -> None:
        self._tell_depth()
        for replica in list(self.replicas.values()):
            if not replica.has_ended and self.now - replica.began_at > 0.3:
                self.beat(replica)
        self._look()
        self.feed(events.Ticked())
        self.after(TICK_S, self._tick)

    def _look(self) -> None:
        seen = {
            one.id: events.Seen("ended", "it crashed") if one.has_ended else events.Seen("running")
            for one in self.replicas.values()
        }
        self.feed(events.LauncherLooked(LAUNCHER, self.now, seen))

    def beat(self, replica: SimReplica) -> None:
        replica.seq += 1
        models = (ResidentModel("m", replica.spec, "text", "hot"),) if replica.is_hot else ()
        self.feed(
            events.HeartbeatSeen(
                Heartbeat(
                    worker=replica.id,
                    started_at=replica.began_at,
                    seq=replica.seq,
                    spec=f"m/{replica.spec}",
                    profile=replica.spec,
                    device="cpu",
                    host="h",
                    engines=ENGINES,
                    memory_total_bytes=1,
                    memory_used_bytes=0,
                    models=models,
                    is_draining=replica.is_stopping,
                    failed_loads={"m": replica.failure} if replica.failure else {},
                )
            )
        )

    def _carry_out(self, command: commands.Command) -> None:
        match command:
            case commands.Launch():
                self._launch(command)
            case commands.Stop(replica, _, grace_s):
                self._stop(replica, grace_s)
            case commands.Announce(event):
                self.story.append(event)
            case commands.Record(record):
                self.records[record.model] = record
            case commands.Forget(model):
                self.records.pop(model, None)

    def _launch(self, command: commands.Launch) -> None:
        spec = command.spec.name
        self.launches.append((self.now, spec))
        behaviour = self.hardware[spec]
        in_use = sum(one.spec == spec and not one.has_ended for one in self.replicas.values())
        name = command.replica.id
        if in_use >= behaviour.stock or self.random.random() < behaviour.refuses:
            self.after(0.1, lambda: self.feed(events.LaunchFailed(name, "OutOfStock", "none left")))
            return
        self.replicas[name] = SimReplica(name, spec, self.now)
        self.after(0.05, lambda: self.feed(events.Launched(name)))
        self.after(behaviour.start_s * self.random.uniform(0.9, 1.1), lambda: self._come_up(name))

    def _come_up(self, name: str) -> None:
        replica = self.replicas.get(name)
        if replica is None or replica.has_ended:
            return
        behaviour = self.hardware[replica.spec]
        if self.random.random() < behaviour.fails_to_load:
            replica.failure = "no such weights"
        else:
            replica.is_hot = True
            if behaviour.crash_after_s < math.inf:
                self.after(self.random.expovariate(1 / behaviour.crash_after_s), lambda: self.crash(name))
        self.beat(replica)

    def crash(self, name: str) -> None:
        if name in self.replicas:
            self.replicas[name].has_ended = True

    def _stop(self, name: str, grace_s: float) -> None:
        replica = self.replicas.get(name)
        if replica is None:
            return
        if replica.has_ended or grace_s == 0:
            self.replicas.pop(name)
        elif not replica.is_stopping:
            replica.is_stopping = True
            self.after(self.drain_s, lambda: self.replicas.pop(name, None) and None)

    # What must hold ---------------------------------------------------------------------------------

    def running(self, spec: str) -> list[SimReplica]:
        return [one for one in self.replicas.values() if one.spec == spec and not one.has_ended]

    def ready(self, spec: str) -> list[SimReplica]:
        return [one for one in self.running(spec) if one.is_hot and not one.is_stopping]

    def capacity(self) -> float:
        return sum(len(self.ready(spec.name)) * spec.target_requests for spec in self.model.specs)

    def launched_of(self, spec: str) -> list[str]:
        """Every replica of a spec that was launched, in order."""
        return [one.worker for one in self.story if one.kind == "launched" and one.subject == f"m/{spec}"]

    def told(self) -> list[tuple[str, str]]:
        """The story as (kind, spec)."""
        return [(event.kind, event.subject.partition("/")[2]) for event in self.story]

    def check(self) -> None:
        running = [one.spec for one in self.replicas.values() if not one.has_ended]
        for spec in self.model.specs:
            count = running.count(spec.name)
            assert not spec.max_replicas or count <= spec.max_replicas, (
                f"seed {self.seed}: {count} of {spec.name}"
            )


def simulate(*specs: Spec, hardware: dict[str, Hardware] | None = None, seed: int = 0) -> HardwareSimulation:
    found = {spec.name: Hardware() for spec in specs} | (hardware or {})
    return HardwareSimulation(make_model(*specs), found, seed)
