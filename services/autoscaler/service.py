"""The shell around the autoscaler's core: heartbeats, depths and launchers in; records and launches out.

No policy here. One loop alone touches the core. A launch or a stop is ordered only after its record was written
(records.py: an earlier leader's write is refused) and only while the lease is trusted; it runs on the side, and
its outcome comes back as an event. A leader that finds that it leads no longer orders nothing more and sets
`lease.lost`.

The inbox is bounded and holds at most one tick: a core that lags is not given more of them.
"""

import asyncio
from functools import partial
from pathlib import Path

import msgspec
from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.catalog import Model, ResourceProfile
from stoker.schemas.fleet import ModelReplicas, QueueDepth
from stoker.schemas.subjects import ANY
from stoker.services.autoscaler.commands import Announce, Command, Forget, Launch, Record, Stop
from stoker.services.autoscaler.core import DRAIN_LIMIT_S, Autoscaler
from stoker.services.autoscaler.events import (
    DepthSeen,
    Event,
    HeartbeatSeen,
    Launched,
    LauncherLooked,
    LaunchFailed,
    ModelChanged,
    ProfileChanged,
    Restored,
    Settled,
    Ticked,
)
from stoker.services.autoscaler.launchers.base import Launcher, LaunchError, Order, Unavailable
from stoker.services.autoscaler.launchers.registry import create
from stoker.services.autoscaler.records import ReplicaRecords
from stoker.services.autoscaler.replaying import CORE, describe
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import Conflict
from stoker.services.bus.heartbeats import HeartbeatReader
from stoker.services.bus.leases import Lease
from stoker.services.catalog import store
from stoker.services.process.clock import steady_now
from stoker.services.process.logs import get_logger
from stoker.services.process.recording import Head, Recorder
from stoker.services.process.tasks import LimitExceeded, TaskOwner, limit, until
from stoker.services.process.telemetry import counter, gauge

log = get_logger("autoscaler")

TICK_S = 0.5
LOOK_EVERY_S = 0.5
LOOK_AGAIN_S = 2.0
"""After a launcher did not answer."""
LAUNCH_TIMEOUT_S, LOOK_TIMEOUT_S = 120.0, 60.0
"""How long a launcher may take for an order, and to say what it has."""
INBOX_LIMIT = 100_000
GIVE_UP_S = 60.0
"""A worker that cannot reach NATS for this long ends itself: nobody would ever stop it."""
STOP_ALL_TIMEOUT_S = 120.0
EMPTY_POLL_S = 0.1

SCALE_KINDS = ("launched", "ready", "kept", "downscaled", "failed", "backoff")
SCALE_EVENTS = counter("stoker_scale_events_total", "What happened to replicas", "kind", known=SCALE_KINDS)
PHASES = ("desired", "ready", "starting", "draining")
REPLICAS = gauge("stoker_replicas", "Replicas by what they do", "model", "spec", "phase")


class ReplicaMetrics:
    """The gauge of replicas; what is gone from the records is gone from it."""

    def __init__(self) -> None:
        self._specs: dict[str, set[str]] = {}

    def count(self, record: ModelReplicas) -> None:
        self._keep(record.model, {spec.spec for spec in record.specs})
        for spec in record.specs:
            for phase in PHASES:
                REPLICAS.labels(record.model, spec.spec, phase).set(getattr(spec, phase))

    def forget(self, model: str) -> None:
        self._keep(model, set())
        self._specs.pop(model, None)

    def _keep(self, model: str, specs: set[str]) -> None:
        for spec in self._specs.get(model, set()) - specs:
            for phase in PHASES:
                REPLICAS.remove(model, spec, phase)
        self._specs[model] = specs


class LeadsNoLonger(Exception):
    """The lease is over, or another leader has written: nothing more may be ordered."""


class AutoscalerService:
    """One term of a leader. `environment`: how workers reach NATS. record: a file for a recording."""

    def __init__(
        self,
        bus: Bus,
        lease: Lease,
        cluster: str,
        folder: Path,
        environment: dict[str, str],
        record: Path | None = None,
    ) -> None:
        self.bus = bus
        self.lease = lease
        self.core = Autoscaler(lease.term)
        head = Head(CORE, lease.term, steady_now())
        self._recorder = Recorder(record, head, describe) if record is not None else None
        self._cluster = cluster
        self._folder = folder
        self._environment = environment
        self._launchers: dict[str, Launcher] = {}
        self._inbox: asyncio.Queue[Event] = asyncio.Queue(INBOX_LIMIT)
        self._tasks = TaskOwner("autoscaler")
        self._catalog_read = asyncio.Event()
        self._records = ReplicaRecords(bus)
        self._metrics = ReplicaMetrics()
        self._stopping: set[str] = set()
        self._has_tick = False

    async def serve(self, stopping: asyncio.Event) -> None:
        """Keep the replicas as they should be until `stopping`, or until the lease is lost."""
        every = self.bus.subjects.every
        heartbeats = HeartbeatReader(self.bus, lambda heartbeat: self._put(HeartbeatSeen(heartbeat)))
        reports = ((every("queue", ANY), self._on_depth), *heartbeats.subscriptions())
        watching = partial(store.watch, self.bus, self._on_model, self._catalog_read, self._on_note)
        async with self.bus.listening(*reports), self._tasks:
            await until(stopping, self.lease.lost.wait, self._work, self._tick, watching)

    def _put(self, event: Event) -> None:
        try:
            self._inbox.put_nowait(event)
        except asyncio.QueueFull:
            log.error("inbox.full", dropped=type(event).__name__)
            self.lease.lost.set()  # the next term begins with what is recorded and what is there

    def _on_depth(self, message: Msg) -> None:
        try:
            depth: QueueDepth = wire.decode(QueueDepth, message.data)
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))
            return
        self._put(DepthSeen(depth))

    def _on_model(self, name: str, model: Model | None) -> None:
        self._put(ModelChanged(name, model))

    def _on_note(self, kind: str, name: str, content: bytes) -> None:
        if kind != store.PROFILE_NOTE:
            return
        try:
            profile = wire.decode(ResourceProfile, content) if content else None
        except wire.UnreadableMessage as error:
            log.error("profile.unreadable", profile=name, error=str(error))
            return
        self._put(ProfileChanged(name, profile))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if not self._has_tick:
                self._has_tick = True
                self._put(Ticked())

    async def _work(self) -> None:
        try:
            await self._restore()
            while True:
                await self._step(await self._inbox.get())
        except (Conflict, LeadsNoLonger) as error:
            log.warning("leadership.over", term=self.lease.term, reason=str(error))
            self.lease.lost.set()

    async def _step(self, event: Event) -> None:
        if isinstance(event, Ticked):
            self._has_tick = False
        await self._handle(event)
        if isinstance(event, ProfileChanged) and event.profile is not None:
            await self._use_launcher(event.profile.launcher)
        if not self.core.is_settled and self._catalog_read.is_set() and self._inbox.empty():
            await self._handle(Settled())

    async def _handle(self, event: Event) -> None:
        now = steady_now()
        commands = self.core.handle(event, now)
        if self._recorder is not None:
            self._recorder.step(event, now, commands)
        for command in commands:
            await self._carry_out(command)

    async def _restore(self) -> None:
        """Read what an earlier autoscaler recorded, and ask its launchers what is there."""
        await self._records.take_over()
        for record in await self._records.read():
            await self._handle(Restored(record))
            for replica in record.replicas:
                await self._use_launcher(replica.launcher)

    # Commands -------------------------------------------------------------------------------------

    async def _carry_out(self, command: Command) -> None:
        """Raises Conflict and LeadsNoLonger when this leader leads no longer, BusError."""
        match command:
            case Record(replicas):
                await self._records.write(replicas)
                self._metrics.count(replicas)
            case Forget(name):
                await self._records.remove(name)
                self._metrics.forget(name)
            case Launch():
                self._check_trust()
                self._tasks.start(self._launch, command)
            case Stop():
                self._check_trust()
                if command.grace_s == 0 or command.replica not in self._stopping:
                    self._tasks.start(self._stop, command)
            case Announce(event):
                SCALE_EVENTS.labels(event.kind).inc()
                log.info(f"replica.{event.kind}", replica=event.worker, reason=event.reason)
                self.bus.tell(self.bus.subjects.event(event.kind, event.subject), event)

    def _check_trust(self) -> None:
        """Raises LeadsNoLonger when the lease may be another's by now."""
        if not self.lease.is_trusted():
            raise LeadsNoLonger("the lease was not renewed in time")

    async def _launch(self, command: Launch) -> None:
        replica = command.replica
        try:
            launcher = self._launcher(replica.launcher)
            with limit(f"launching {replica.id}", LAUNCH_TIMEOUT_S):
                await launcher.launch(self._order(command))
        except LimitExceeded as error:  # if it comes up after all, nobody knows it, and it is stopped
            self._put(LaunchFailed(replica.id, "LauncherTimeout", str(error)))
        except LaunchError as error:
            self._put(LaunchFailed(replica.id, error.reason, str(error)))
        except Exception as error:  # a launcher may be anybody's
            log.exception("launcher.broken", launcher=replica.launcher, replica=replica.id)
            self._put(LaunchFailed(replica.id, LaunchError.reason, repr(error)))
        else:
            self._put(Launched(replica.id))

    def _order(self, command: Launch) -> Order:
        spec, profile = command.spec, command.profile
        arguments = ["--name", command.replica.id, "--profile", profile.name]
        arguments += ["--spec", f"{command.model}/{spec.name}", "--pinned", "--engines", spec.engine]
        arguments += ["--give-up-s", f"{GIVE_UP_S:g}", "--drain-timeout-s", f"{DRAIN_LIMIT_S:g}"]
        if profile.gpu is not None:  # whose memory the worker measures
            arguments += ["--gpus", str(profile.gpu.count * spec.profile_count)]
        elif profile.memory_bytes:
            arguments += ["--memory", str(profile.memory_bytes * spec.profile_count)]
        return Order(
            replica=command.replica.id,
            model=command.model,
            spec=spec,
            profile=profile,
            arguments=tuple(arguments),
            env={**self._environment, **profile.env, **spec.env},
        )

    async def _stop(self, command: Stop) -> None:
        self._stopping.add(command.replica)
        try:
            launcher = self._launcher(command.launcher)
            await launcher.stop(command.replica, command.grace_s)
        except LaunchError as error:  # it stays listed and is stopped again
            log.warning("replica.not_stopped", replica=command.replica, error=str(error))
        except Exception:
            log.exception("launcher.broken", launcher=command.launcher, replica=command.replica)
        finally:
            self._stopping.discard(command.replica)

    # Launchers ------------------------------------------------------------------------------------

    def _launcher(self, name: str) -> Launcher:
        found = self._launchers.get(name)
        if found is None:
            found = self._launchers[name] = create(name, self._cluster, self._folder)
        return found

    async def _use_launcher(self, name: str) -> None:
        """Watch a launcher from now on; the first look comes before anything is decided."""
        if name == "static" or name in self._launchers:
            return
        try:
            launcher = self._launcher(name)
        except Unavailable as error:
            log.error("launcher.unknown", launcher=name, error=str(error))
            return
        await self._look(launcher)
        self._tasks.start(self._watch, launcher)

    async def _look(self, launcher: Launcher) -> bool:
        began_at = steady_now()
        try:
            with limit(f"looking at {launcher.name}", LOOK_TIMEOUT_S):
                seen = await launcher.look()
        except (LaunchError, LimitExceeded) as error:
            log.warning("launcher.unavailable", launcher=launcher.name, error=str(error))
            return False
        except Exception:
            log.exception("launcher.broken", launcher=launcher.name)
            return False
        self._put(LauncherLooked(launcher.name, began_at, seen))
        return True

    async def _watch(self, launcher: Launcher) -> None:
        while True:
            pause_s = LOOK_EVERY_S if await self._look(launcher) else LOOK_AGAIN_S
            await asyncio.sleep(pause_s)

    async def stop_all(self) -> None:
        """Have every replica finish and end, and record that none is there. Raises BusError, LeadsNoLonger."""
        self._check_trust()
        try:
            with limit("stopping all replicas", STOP_ALL_TIMEOUT_S):
                async with TaskOwner("stopping") as tasks:
                    for launcher in self._launchers.values():
                        await self._empty(launcher, tasks)
        except LimitExceeded as error:
            log.warning("replicas.left", reason=str(error))
        for record in self.core.records():
            await self._records.write(msgspec.structs.replace(record, replicas=()))

    async def _empty(self, launcher: Launcher, tasks: TaskOwner) -> None:
        """Stop everything that a launcher has; returns when it has nothing any more, or cannot be asked."""
        told: set[str] = set()
        try:
            while seen := await launcher.look():
                for replica, found in seen.items():
                    if found.state == "ended":
                        await launcher.stop(replica, 0.0)
                    elif replica not in told:
                        told.add(replica)
                        tasks.start_contained(launcher.stop, replica, STOP_ALL_TIMEOUT_S)
                await asyncio.sleep(EMPTY_POLL_S)
        except LaunchError as error:
            log.warning("launcher.unavailable", launcher=launcher.name, error=str(error))

    async def close(self) -> None:
        if self._recorder is not None:
            self._recorder.close()
        for launcher in self._launchers.values():
            await launcher.close()
