"""Placements a second and the time of a tick of the scheduler core alone, and how both grow with the fleet.

python -m bench.placement
"""

import gc
import random
import time

from bench.arguments import nothing
from stoker.schemas.catalog import Model, Spec
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.workers import Accepted, EngineCapability, Finished, Heartbeat, ResidentModel
from stoker.services.scheduler.core import Scheduler
from stoker.services.scheduler.protocol import commands, events

ENGINES = {"text": EngineCapability(slots=4, prefetch=2, features=("TextGeneration",))}
HOT_PER_WORKER = 4
MB = 10**6
PLACEMENTS = 20_000
FLEETS = ((10, 20), (100, 200), (1_000, 200), (5_000, 200), (1_000, 1_000))
FULL = ((10, 20, 1_000), (100, 200, 10_000), (1_000, 200, 10_000), (5_000, 200, 10_000))
"""Workers, models, and jobs that wait while every slot is taken."""
TICKS, TICK_S = 100, 0.05


def _beat(worker: int, models: list[str], seq: int, *, is_pinned: bool = False) -> Heartbeat:
    residents = tuple(ResidentModel(m, "default", "text", "hot", 100 * MB, 1.0, "warm") for m in models)
    return Heartbeat(
        worker=f"w{worker}",
        started_at=1.0,
        seq=seq,
        spec=f"{models[0]}/default" if is_pinned else "",
        profile="cpu",
        device="cpu",
        host="h",
        engines=ENGINES,
        memory_total_bytes=1_000 * MB,
        memory_used_bytes=len(models) * 100 * MB,
        models=residents,
    )


def _fleet(workers: int, models: int, *, is_pinned: bool = False) -> tuple[Scheduler, list[str]]:
    """is_pinned: each worker was started for one model, as replicas are."""
    core = Scheduler(term=1, now=1.0)
    names = [f"m{i}" for i in range(min(models, workers) if is_pinned else models)]
    for name in names:
        spec = Spec(name="default", engine="text", url=f"file:///{name}", memory_bytes=100 * MB)
        core.handle(
            events.ModelChanged(name, Model(name=name, features=("TextGeneration",), specs=(spec,))), 1.0
        )
    for worker in range(workers):
        count = 1 if is_pinned else HOT_PER_WORKER
        held = [names[(worker * count + i) % len(names)] for i in range(count)]
        core.handle(events.HeartbeatSeen(_beat(worker, held, 1, is_pinned=is_pinned)), 1.0)
    core.handle(events.Settled(), 1.0)
    return core, names


def placements_per_second(workers: int, models: int, *, is_pinned: bool = False) -> float:
    """Jobs of random models, each placed, accepted and finished; half the slots are busy on average."""
    core, names = _fleet(workers, models, is_pinned=is_pinned)
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
        if held and (len(held) >= limit or number % 2):
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


def ticks(workers: int, models: int, waiting: int) -> list[float]:
    """Seconds of each of some ticks, while every slot is taken and so many jobs wait; the shortest first."""
    core, names = _fleet(workers, models)
    chance, now = random.Random(7), 1.0
    slots = ENGINES["text"].slots + ENGINES["text"].prefetch
    for number in range(workers * HOT_PER_WORKER * slots + waiting):
        now += 0.00001
        job = Job(str(number), chance.choice(names), CompletionInput("x"), "gw", now, admission_timeout_s=1e6)
        core.handle(events.JobArrived(job, "handle", number), now)
    gc.collect()
    gc.freeze()
    took: list[float] = []
    for _ in range(TICKS):
        now += TICK_S
        began = time.perf_counter()
        core.handle(events.Ticked(), now)
        took.append(time.perf_counter() - began)
    gc.unfreeze()
    return sorted(took)


def report() -> list[str]:
    lines = ["| workers | models | placements/s | with pinned specs |", "|---|---|---|---|"]
    for workers, models in FLEETS:
        free, pinned = (
            placements_per_second(workers, models, is_pinned=is_pinned) for is_pinned in (False, True)
        )
        lines.append(f"| {workers:,} | {models:,} | {free:,.0f} | {pinned:,.0f} |")
    lines += [
        "",
        "| workers | models | jobs that wait | a tick, median | 9 of 10 within |",
        "|---|---|---|---|---|",
    ]
    for workers, models, waiting in FULL:
        took = ticks(workers, models, waiting)
        median, most = took[len(took) // 2] * 1000, took[len(took) * 9 // 10] * 1000
        lines.append(f"| {workers:,} | {models:,} | {waiting:,} | {median:.2f} ms | {most:.2f} ms |")
    return lines


if __name__ == "__main__":
    nothing(__doc__)
    print("\n".join(report()))
