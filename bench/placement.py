"""Placements a second of the scheduler core alone, and how that grows with the fleet.

python -m bench.placement
"""

import gc
import random
import time

from schemas.catalog import Model, Spec
from schemas.jobs import CompletionInput, Job
from schemas.workers import Accepted, EngineCapability, Finished, Heartbeat, ResidentModel
from services.scheduler.core import Scheduler
from services.scheduler.protocol import commands, events

ENGINES = {"text": EngineCapability(slots=4, prefetch=2, features=("TextGeneration",))}
HOT_PER_WORKER = 4
MB = 10**6
PLACEMENTS = 20_000
FLEETS = ((10, 20), (100, 200), (1_000, 200), (4_000, 200), (1_000, 1_000))


def _beat(worker: int, models: list[str], seq: int) -> Heartbeat:
    residents = tuple(ResidentModel(m, "default", "text", "hot", 100 * MB, 1.0, "warm") for m in models)
    return Heartbeat(
        worker=f"w{worker}",
        started_at=1.0,
        seq=seq,
        spec="",
        profile="cpu",
        device="cpu",
        host="h",
        engines=ENGINES,
        memory_total_bytes=1_000 * MB,
        memory_used_bytes=len(models) * 100 * MB,
        models=residents,
    )


def _fleet(workers: int, models: int) -> tuple[Scheduler, list[str]]:
    core = Scheduler(term=1, now=1.0)
    names = [f"m{i}" for i in range(models)]
    for name in names:
        spec = Spec(name="default", engine="text", url="file:///x", memory_bytes=100 * MB)
        core.handle(
            events.ModelChanged(name, Model(name=name, features=("TextGeneration",), specs=(spec,))), 1.0
        )
    for worker in range(workers):
        held = [names[(worker * HOT_PER_WORKER + i) % models] for i in range(HOT_PER_WORKER)]
        core.handle(events.HeartbeatSeen(_beat(worker, held, 1)), 1.0)
    core.handle(events.Settled(), 1.0)
    return core, names


def placements_per_second(workers: int, models: int) -> float:
    """Jobs of random models, each placed, accepted and finished; half the slots are busy on average."""
    core, names = _fleet(workers, models)
    chance = random.Random(7)
    held: list[commands.Assign] = []
    limit = max(workers * 2, 1)
    placed, now = 0, 1.0
    gc.collect()
    gc.freeze()
    began = time.perf_counter()
    for number in range(PLACEMENTS):
        now += 0.0001
        job = Job(str(number), chance.choice(names), CompletionInput("x"), "gw", now, admission_timeout_s=600.0)
        for command in core.handle(events.JobArrived(job, "handle", number), now):
            if isinstance(command, commands.Assign):
                placed += 1
                held.append(command)
                accepted = events.AssignmentAnswered(
                    job.id, command.assignment.attempt, command.worker, Accepted(1)
                )
                core.handle(accepted, now)
        if len(held) >= limit or number % 2:
            index = chance.randrange(len(held))
            held[index], held[-1] = held[-1], held[index]
            done = held.pop()
            work = done.assignment
            ended = Finished(work.job.id, work.job.model, work.attempt, "completed", run_s=0.1)
            for command in core.handle(events.JobFinished(done.worker, ended), now):
                if isinstance(command, commands.Assign):
                    placed += 1
                    held.append(command)
    elapsed = time.perf_counter() - began
    gc.unfreeze()
    return placed / elapsed


def report() -> list[str]:
    lines = ["| workers | models | placements/s |", "|---|---|---|"]
    for workers, models in FLEETS:
        lines.append(f"| {workers:,} | {models:,} | {placements_per_second(workers, models):,.0f} |")
    return lines


if __name__ == "__main__":
    print("\n".join(report()))
