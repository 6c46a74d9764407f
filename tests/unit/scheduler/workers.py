"""Workers of the simulated world: what production workers do with models and attempts, in virtual time.

A worker is a process (`life` is when it began) with a runner inside. It can be paused (SIGSTOP), cut off from the
network, killed, and started again; its runner can die alone, as can that of one engine (`away`). It holds attempts as the protocol says: an older one gives
way to a newer one, a revoked one ends without a word, the first terminal event of a job is the one that counts.
"""

from dataclasses import dataclass, field

from stoker.schemas.catalog import Spec
from stoker.schemas.workers import (
    Accepted,
    Assignment,
    AssignmentAnswer,
    EngineCapability,
    Heartbeat,
    Refused,
    ResidentModel,
    RunningJob,
)

ENGINES = {
    "text": EngineCapability(4, 2, ("TextGeneration",)),
    "image": EngineCapability(1, 1, ("ImageGeneration",), lane="device"),
}
MB = 10**6


@dataclass
class SimWorker:
    """Keeps models in `memory_mb` of memory and runs what it is given, `run_s` for each job."""

    name: str
    memory_mb: int = 250
    load_s: float = 0.5
    run_s: float = 0.1
    life: float = 0.0
    seq: int = 0
    term: int = 0
    models: dict[str, ResidentModel] = field(default_factory=dict)
    running: dict[str, RunningJob] = field(default_factory=dict)
    fences: dict[RunningJob, int] = field(default_factory=dict)
    """What each attempt believes to be the last record of its job."""
    loads: int = 0
    is_alive: bool = True
    has_runner: bool = True
    away: set[str] = field(default_factory=set)
    is_paused: bool = False
    is_hung: bool = False
    is_cut_off: bool = False
    is_draining: bool = False

    @property
    def listens(self) -> bool:
        """Whether the server knows a subscription of it: a paused one is subscribed."""
        return self.is_alive and not self.is_cut_off

    def heartbeat(self, *, is_leaving: bool = False) -> Heartbeat:
        self.seq += 1
        used = sum(m.memory_bytes for m in self.models.values() if m.tier in ("hot", "loading"))
        return Heartbeat(
            worker=self.name,
            started_at=self.life,
            seq=self.seq,
            spec="",
            profile="cpu",
            device="cpu",
            host="h",
            engines={name: one for name, one in ENGINES.items() if name not in self.away}
            if self.has_runner
            else {},
            coming={name: one for name, one in ENGINES.items() if name in self.away},
            memory_total_bytes=self.memory_mb * MB,
            memory_used_bytes=used,
            models=tuple(self.models.values()),
            running=tuple(self.running.values()),
            is_draining=self.is_draining,
            is_leaving=is_leaving,
        )

    def assign(self, assignment: Assignment) -> AssignmentAnswer | None:
        """The answer to an assignment; None when another process of this name is meant."""
        job, attempt = assignment.job, assignment.attempt
        if assignment.life not in (0.0, self.life):
            return None
        if assignment.term < self.term:
            return Refused("a newer leader has spoken", is_permanent=True)
        self.term = assignment.term
        if self.is_draining or not self.has_runner or assignment.spec.engine in self.away:
            return Refused("not now")
        known = self.running.get(job.id)
        if known is not None and (known.term, known.attempt) > (assignment.term, attempt):
            return Refused("a newer attempt is here")
        self.running[job.id] = RunningJob(job.id, job.model, assignment.spec.name, attempt, assignment.term)
        return Accepted(len(self.running))

    def make_hot(self, model: str, spec: Spec) -> bool:
        """Whether a load was needed; evicts idle models, the oldest first."""
        known = self.models.get(model)
        if known is not None and known.tier == "hot":
            return False
        in_use = {job.model for job in self.running.values()}

        def used() -> int:
            return sum(m.memory_bytes for m in self.models.values() if m.tier == "hot")

        for name in [n for n, m in self.models.items() if m.tier == "hot" and n not in in_use]:
            if used() + spec.memory_bytes <= self.memory_mb * MB:
                break
            self._to_disk(name)
        self.models.pop(model, None)
        self.models[model] = ResidentModel(model, spec.name, spec.engine, "hot", spec.memory_bytes)
        self.loads += 1
        return True

    def _to_disk(self, model: str) -> None:
        old = self.models[model]
        self.models[model] = ResidentModel(model, old.spec, old.engine, "warm", old.memory_bytes)

    def lose_memory(self, engine: str = "") -> list[RunningJob]:
        """The runner is dead ("": of all engines): what it had in memory is gone, and what it ran."""
        gone = {name for name, one in self.models.items() if engine in ("", one.engine)}
        for name in gone:
            self._to_disk(name)
        lost = [job for job in self.running.values() if not engine or job.model in gone]
        for job in lost:
            del self.running[job.job]
        return lost

    def start_again(self, now: float) -> None:
        """A new process under the same name."""
        self.lose_memory()
        self.life, self.seq, self.term = now, 0, 0
        self.is_alive, self.has_runner, self.away = True, True, set()
        self.is_paused = self.is_cut_off = self.is_draining = self.is_hung = False
