"""What came of a simulation: loads, times, utilisation, fairness, and how true what was predicted was."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from stoker.simulation.making import SimJob
from stoker.simulation.worker import SimWorker
from stoker.simulation.world import BEGAN_AT, Hot, World

WINDOW_S = 10.0
"""Shares of tenants are compared within windows of this length."""


class Outcome(msgspec.Struct, frozen=True):
    """Of one run. Times are from a request's arrival to its end, seconds; utilisation: of the busiest
    lanes of all workers, until the last request ended.

    loads: by tier that they came from; lora: LoRAs laid on hot weights, which are no full loads.
    waiting_utilisation: while anything waits, without the time after the last arrival. jain: of device
    seconds over weight that tenants got in windows in which all of them had work; 1 is equal. eta_error: the
    median of |predicted - waited| / waited. eta_covered: the share of waits within their 90th percentile.
    replica_s: seconds of all workers, from the order on where they were launched. surplus: the share of
    those that served nothing. money: of all workers, by their prices. first_ready_s: until the first that was
    launched had its model. orders: to launch a replica.
    """

    scenario: str
    policy: str
    seed: int
    jobs: int
    unfinished: int
    loads: dict[str, int]
    full_loads: int
    loads_per_job: float
    load_s: float
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float
    span_s: float
    utilisation: float
    waiting_utilisation: float
    jain: float | None
    worst_tenant: str
    worst_tenant_s: float
    worst_model: str
    worst_model_s: float
    eta_error: float | None
    eta_covered: float | None
    replica_s: float
    surplus: float
    money: float
    first_ready_s: float | None
    orders: int


@dataclass(frozen=True, slots=True)
class Run:
    """An outcome, and what plots are made of."""

    outcome: Outcome
    jobs: Sequence[SimJob]
    loaded: Sequence[Hot]


def quantile(values: Sequence[float], share: float) -> float:
    """Of sorted values; 0 where there are none."""
    return values[min(int(len(values) * share), len(values) - 1)] if values else 0.0


def outcome(world: World, policy: str) -> Outcome:
    """Of a world that has run."""
    done = [job for job in world.plan.jobs if not math.isnan(job.ended_at)]
    times = sorted(job.ended_at - job.at for job in done)
    span = max((job.ended_at for job in done), default=BEGAN_AT) - BEGAN_AT
    there_s = {one.name: _there_s(one, BEGAN_AT + span) for one in world.everyone()}
    served = {job.worker for job in done}
    loads = {
        tier: sum(one.loads[tier] for one in world.everyone()) for tier in ("parked", "warm", "cold", "lora")
    }
    full = sum(count for tier, count in loads.items() if tier != "lora")
    tenant, tenant_s = _worst((job.tenant, job.ended_at - job.at) for job in done)
    model, model_s = _worst((job.model.name, job.ended_at - job.at) for job in done)
    return Outcome(
        scenario=world.plan.scenario.name,
        policy=policy,
        seed=world.plan.seed,
        jobs=len(world.plan.jobs),
        unfinished=world.left,
        loads=loads,
        full_loads=full,
        loads_per_job=round(full / max(len(world.plan.jobs), 1), 4),
        load_s=round(sum(one.load_s for one in world.everyone()), 1),
        mean_s=round(sum(times) / max(len(times), 1), 3),
        p50_s=round(quantile(times, 0.5), 3),
        p90_s=round(quantile(times, 0.9), 3),
        p99_s=round(quantile(times, 0.99), 3),
        max_s=round(max(times, default=0.0), 3),
        span_s=round(span, 1),
        utilisation=round(sum(one.busy_s for one in world.everyone()) / max(sum(there_s.values()), 1e-9), 4),
        waiting_utilisation=round(_while_waiting(done, len(world.workers)), 4),
        jain=_jain(done),
        worst_tenant=tenant,
        worst_tenant_s=round(tenant_s, 3),
        worst_model=model,
        worst_model_s=round(model_s, 3),
        eta_error=_eta_error(done),
        eta_covered=_eta_covered(done),
        replica_s=round(sum(there_s.values()), 1),
        surplus=round(
            sum(seconds for name, seconds in there_s.items() if name not in served)
            / max(sum(there_s.values()), 1e-9),
            4,
        ),
        money=round(sum(there_s[one.name] * one.kind.price_per_hour / 3600 for one in world.everyone()), 4),
        first_ready_s=world.launching.first_ready_s if world.launching is not None else None,
        orders=len(world.launching.ordered) if world.launching is not None else 0,
    )


def _there_s(worker: SimWorker, now: float) -> float:
    """How long a worker was there, from its order on."""
    return max(min(worker.ended_at, now) - worker.began_at, 0.0)


def _worst(times: Iterable[tuple[str, float]]) -> tuple[str, float]:
    """The name with the longest mean."""
    by_name: dict[str, list[float]] = defaultdict(list)
    for name, seconds in times:
        by_name[name].append(seconds)
    means = [(sum(found) / len(found), name) for name, found in by_name.items()]
    longest, name = max(means, default=(0.0, ""))
    return name, longest


def _windows(since: float, until: float, each_s: float = WINDOW_S) -> Iterable[tuple[int, float]]:
    """How much of a time lies in each window."""
    at = since
    while at < until:
        number = int((at - BEGAN_AT) // each_s)
        end = min(BEGAN_AT + (number + 1) * each_s, until)
        if end <= at:  # rounding
            return
        yield number, end - at
        at = end


def _device_s(done: Sequence[SimJob], each_s: float = WINDOW_S) -> dict[int, dict[str, float]]:
    """Device seconds by window and tenant."""
    found: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for job in done:
        for number, seconds in _windows(job.started_at, job.ended_at, each_s):
            found[number][job.tenant] += seconds / job.model.slots
    return found


def _while_waiting(done: Sequence[SimJob], workers: int) -> float:
    """Utilisation in the windows in which something waits all the time, and more is to come."""
    last = max((job.at for job in done), default=BEGAN_AT)
    waiting: dict[int, float] = defaultdict(float)
    for job in done:
        for number, seconds in _windows(job.at, job.started_at):
            waiting[number] += seconds
    used = _device_s(done)
    full = [
        sum(used[number].values()) / (WINDOW_S * workers)
        for number, seconds in waiting.items()
        if seconds >= WINDOW_S * workers and BEGAN_AT + (number + 1) * WINDOW_S <= last
    ]
    return sum(full) / len(full) if full else 1.0


def _jain(done: Sequence[SimJob]) -> float | None:
    """Jain's index over the seconds in which every tenant has work that waits; None where there are none."""
    tenants = {job.tenant: job.weight for job in done}
    if len(tenants) < 2:
        return None
    waiting: dict[int, set[str]] = defaultdict(set)
    for job in done:
        for number, seconds in _windows(job.at, job.started_at, 1.0):
            if seconds > 0.5:
                waiting[number].add(job.tenant)
    used = _device_s(done, 1.0)
    given: dict[str, float] = defaultdict(float)
    for number, those in waiting.items():
        if those == tenants.keys():
            for tenant, weight in tenants.items():
                given[tenant] += used[number].get(tenant, 0.0) / weight
    squares = sum(seconds**2 for seconds in given.values())
    return round(sum(given.values()) ** 2 / (len(tenants) * squares), 4) if squares else None


def _eta_error(done: Sequence[SimJob]) -> float | None:
    errors = sorted(
        abs(job.eta_s - (job.started_at - job.at)) / (job.started_at - job.at)
        for job in done
        if job.eta_s is not None and job.started_at - job.at > 0.1
    )
    return round(quantile(errors, 0.5), 4) if errors else None


def _eta_covered(done: Sequence[SimJob]) -> float | None:
    within = [
        job.started_at - job.at <= job.eta_p90_s
        for job in done
        if job.eta_p90_s is not None and job.started_at - job.at > 0.1
    ]
    return round(sum(within) / len(within), 4) if within else None
