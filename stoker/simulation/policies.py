"""Who places: Stoker's scheduler core as it is in production, and policies as others have published them.

The others see all workers at once and without error, which favours them: the core learns by heartbeats, and
predicts run times from those that it has seen. Each says where it is described.
"""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator

from stoker.schemas.fleet import ModelReplicas
from stoker.schemas.workers import Accepted, Assignment, Finished, Refused
from stoker.services.scheduler.core import Scheduler
from stoker.services.scheduler.placing.prefix_hash import HashRing
from stoker.services.scheduler.protocol import commands, events
from stoker.simulation.making import SimJob, SimModel
from stoker.simulation.worker import LORA_S, MESSAGE_S, SimWorker
from stoker.simulation.world import Policy, World

RAY_AT_ONCE, RAY_MATCH_S = 5, 1.0
CHWBL_LOAD_PERCENTAGE, CHWBL_REPLICATION = 125, 256
SWARM_GATHER_S, SWARM_AT_ONCE = 1.5, 2
HUGE_BYTES = 10**18


class Stoker:
    """The production core: every event that it would hear, every command carried out."""

    def begin(self, world: World) -> None:
        self.world = world
        self.core = Scheduler(1, world.now)
        self.ticks: list[float] = []
        for model in world.models.values():
            self.feed(events.ModelChanged(model.name, model.as_model(world.plan.scenario)))
        for worker in world.workers.values():
            self.feed(events.HeartbeatSeen(worker.heartbeat()))
        self.feed(events.EarlierJobsArrived())
        self.feed(events.Settled())

    def feed(self, event: events.Event) -> None:
        for command in self.core.handle(event, self.world.now):
            match command:
                case commands.Assign():
                    self.world.after(MESSAGE_S, self._assign, command.worker, command.assignment)
                case commands.LoadOnWorker():
                    evict = frozenset(command.evict)
                    model = self.world.models[command.model]
                    self.world.after(MESSAGE_S, self._load, command.worker, model, evict)
                case commands.Revoke():
                    self.world.after(MESSAGE_S, self._drop, command.worker, command.job, command.attempt)
                case commands.CheckResult():
                    is_stored = not math.isnan(self.world.jobs[command.job].ended_at)
                    found = events.ResultChecked(
                        command.job, command.attempt, "stored" if is_stored else "not_stored"
                    )
                    self.world.after(MESSAGE_S, self.feed, found)
                case commands.Notify():
                    self._note_eta(command)
                case commands.PublishDepth():
                    self.world.told_depth(command.depth)

    def _note_eta(self, told: commands.Notify) -> None:
        """What a job is told first of when it starts."""
        eta_s, job = getattr(told.event, "eta_s", None), self.world.jobs[told.job.id]
        if job.eta_s is None:
            job.eta_s, job.eta_p90_s = eta_s, getattr(told.event, "eta_p90_s", None)

    def _assign(self, name: str, assignment: Assignment) -> None:
        worker = self.world.workers.get(name)
        job, attempt = assignment.job.id, assignment.attempt
        if worker is None:
            self.feed(events.AssignmentFailed(job, attempt, name, is_gone=True))
        elif worker.is_draining:
            self.feed(events.AssignmentAnswered(job, attempt, name, Refused("it is draining")))
        else:
            worker.take(assignment)
            self.feed(events.AssignmentAnswered(job, attempt, name, Accepted()))

    def _load(self, name: str, model: SimModel, evict: frozenset[str]) -> None:
        worker = self.world.workers.get(name)
        if worker is not None:
            worker.want(model, evict)

    def _drop(self, name: str, job: str, attempt: int) -> None:
        worker = self.world.workers.get(name)
        if worker is not None:
            worker.drop(job, attempt)

    def arrived(self, job: SimJob) -> None:
        self.feed(events.JobArrived(job.as_job(), job.id, job.number + 1))

    def told(self, worker: SimWorker, finished: Finished) -> None:
        """The word of an end, as the worker sends it."""
        self.feed(events.JobFinished(worker.name, finished))

    def told_replicas(self, replicas: ModelReplicas) -> None:
        """What the autoscaler has launched."""
        self.feed(events.ReplicasChanged(replicas.model, replicas))

    def finished(self, worker: SimWorker, job: SimJob) -> None:
        pass

    def beat(self, worker: SimWorker) -> None:
        self.feed(events.HeartbeatSeen(worker.heartbeat()))

    def tick(self) -> None:
        self.feed(events.Ticked())


class Baseline:
    """What the other policies have in common."""

    def begin(self, world: World) -> None:
        self.world = world
        self.workers = list(world.workers.values())
        self.prepare()

    def prepare(self) -> None:
        """Make what the policy keeps."""

    def beat(self, worker: SimWorker) -> None:
        pass

    def tick(self) -> None:
        pass

    def finished(self, worker: SimWorker, job: SimJob) -> None:
        pass

    def fitting(self, model: SimModel) -> list[SimWorker]:
        return [worker for worker in self.workers if worker.fits(model)]

    @staticmethod
    def give(worker: SimWorker, job: SimJob) -> None:
        worker.take(Assignment(job.as_job(), 1, 1, job.model.spec))

    @staticmethod
    def count(worker: SimWorker) -> int:
        return len(worker.core.listed())


class RoundRobin(Baseline):
    """The next worker in turn that is large enough."""

    def prepare(self) -> None:
        self._next = 0

    def arrived(self, job: SimJob) -> None:
        able = self.fitting(job.model)
        self._next += 1
        self.give(able[self._next % len(able)], job)


class LeastLoaded(Baseline):
    """The worker that has the fewest requests."""

    def arrived(self, job: SimJob) -> None:
        able = self.fitting(job.model)
        self.give(min(able, key=lambda worker: (self.count(worker), self.world.chance.random())), job)


class BoundedHash(Baseline):
    """KubeAI's consistent hashing with bounded loads (its documents, "Prefix Aware Load Balancing"), by
    model.
    """

    def prepare(self) -> None:
        self._ring = HashRing(CHWBL_REPLICATION)
        for worker in self.workers:
            self._ring.add(worker.name)

    def arrived(self, job: SimJob) -> None:
        loads = {worker.name: self.count(worker) for worker in self.workers}
        name = self._ring.pick(
            job.model.name, loads, CHWBL_LOAD_PERCENTAGE, lambda one: self.world.workers[one].fits(job.model)
        )
        assert name is not None
        self.give(self.world.workers[name], job)


class RayMultiplex(Baseline):
    """Ray Serve's model multiplexing: replicas that have the model id, by the power of two choices;
    after a second those with the fewest models, then any; `max_ongoing_requests` each.
    """

    def prepare(self) -> None:
        self._waiting: deque[SimJob] = deque()

    def arrived(self, job: SimJob) -> None:
        self._waiting.append(job)
        self._pump()

    def finished(self, worker: SimWorker, job: SimJob) -> None:
        self._pump()

    def tick(self) -> None:
        self._pump()

    def _pump(self) -> None:
        if all(self.count(worker) >= RAY_AT_ONCE for worker in self.workers):
            return
        left: deque[SimJob] = deque()
        for job in self._waiting:
            choices = self._choices(job)
            two = self.world.chance.sample(choices, 2) if len(choices) > 1 else choices
            worker = min(two, key=self.count)
            if self.count(worker) < RAY_AT_ONCE:
                self.give(worker, job)
            else:
                left.append(job)
        self._waiting = left

    def _choices(self, job: SimJob) -> list[SimWorker]:
        having = [one for one in self.workers if one.tier(job.model) in ("hot", "loading", "base")]
        is_matching = self.world.now - job.at < RAY_MATCH_S
        if having and is_matching:
            return having
        able = self.fitting(job.model)
        if having or not is_matching:
            return able
        fewest = min(_models_in_memory(worker) for worker in able)
        return [worker for worker in able if _models_in_memory(worker) == fewest]


def _models_in_memory(worker: SimWorker) -> int:
    return sum(entry.tier in ("hot", "loading") for entry in worker.cache.entries.values())


class StartupAware(Baseline):
    """ServerlessLLM (Fu et al., OSDI 2024, section 6): the worker with the least predicted queueing and
    loading time, at arrival; first in, first out on the worker.
    """

    def arrived(self, job: SimJob) -> None:
        self.give(min(self.fitting(job.model), key=lambda one: (self._cost_s(one, job.model), one.name)), job)

    def _cost_s(self, worker: SimWorker, model: SimModel) -> float:
        tier, held = worker.tier(model), worker.held()
        slots = 1 if model.engine == "diffusers" else 4
        wait_s = sum(job.run_s for job in held) / slots
        if tier == "hot":
            return wait_s
        owed_s = sum(worker.load_time_s(self.world.models[one], "warm") for one in worker.wanted)
        if any(job.model is model for job in held):
            return wait_s + owed_s
        return wait_s + owed_s + (LORA_S if tier == "loading" else worker.load_time_s(model, tier))


class SwarmPressure(Baseline):
    """SwarmUI's backends: a request whose model is loaded goes there; else the model with the most
    pressure (requests x 10 + age) gets an idle backend, after 1.5 s of gathering unless it is the only
    one.
    """

    def prepare(self) -> None:
        self._waiting: dict[str, deque[SimJob]] = defaultdict(deque)

    def arrived(self, job: SimJob) -> None:
        self._waiting[job.model.name].append(job)
        self._pump()

    def finished(self, worker: SimWorker, job: SimJob) -> None:
        self._pump()

    def tick(self) -> None:
        self._pump()

    def _fill(self, worker: SimWorker, jobs: deque[SimJob]) -> None:
        while jobs and self.count(worker) < SWARM_AT_ONCE:
            self.give(worker, jobs.popleft())

    def _pump(self) -> None:
        for name, jobs in self._waiting.items():
            for worker in self.workers if jobs else ():
                if worker.tier(self.world.models[name]) in ("hot", "loading"):
                    self._fill(worker, jobs)
        idle = [worker for worker in self.workers if not self.count(worker)]
        for jobs in self._by_pressure() if idle else ():
            model, age_s = jobs[0].model, self.world.now - jobs[0].at
            able = [worker for worker in idle if worker.fits(model)]
            is_gathering = age_s < SWARM_GATHER_S and sum(map(bool, self._waiting.values())) > 1
            if able and not is_gathering:
                worker = min(able, key=_last_used)
                idle.remove(worker)
                self._fill(worker, jobs)

    def _by_pressure(self) -> Iterator[deque[SimJob]]:
        wanted = [jobs for jobs in self._waiting.values() if jobs]
        yield from sorted(wanted, key=lambda jobs: -(len(jobs) * 10 + self.world.now - jobs[0].at))


def _last_used(worker: SimWorker) -> float:
    return max((one.used_at for one in worker.cache.entries.values() if one.tier == "hot"), default=0.0)


class Bound(Baseline):
    """No policy: what there would be if every model were hot everywhere, with one queue for all."""

    def prepare(self) -> None:
        self._waiting: deque[SimJob] = deque()
        for worker in self.workers:
            worker.cache.memory_bytes = HUGE_BYTES
            for model in self.world.models.values():
                worker.cache.note(model.key, model.engine, "warm", model.size_bytes)
                worker.cache.entries[model.key].tier = "hot"
                worker._attached[model.key].add(model.name)

    def arrived(self, job: SimJob) -> None:
        self._waiting.append(job)
        self._pump()

    def finished(self, worker: SimWorker, job: SimJob) -> None:
        self._pump()

    def _pump(self) -> None:
        while self._waiting:
            model = self._waiting[0].model
            worker = min(self.workers, key=lambda one: one.running(model))
            if worker.running(model) >= model.slots:
                return
            self.give(worker, self._waiting.popleft())


POLICIES: dict[str, Callable[[], Policy]] = {
    "stoker": Stoker,
    "round-robin": RoundRobin,
    "least-loaded": LeastLoaded,
    "ray-multiplex": RayMultiplex,
    "chwbl": BoundedHash,
    "swarmui": SwarmPressure,
    "serverlessllm": StartupAware,
    "bound": Bound,
}
