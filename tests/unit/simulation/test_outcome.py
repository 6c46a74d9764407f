"""What is said of a simulation: times, loads, utilisation, shares and etas, of requests that are made by hand."""

import math

import pytest

from stoker.simulation.making import SimJob, plan
from stoker.simulation.outcome import WINDOW_S, outcome
from stoker.simulation.policies import RoundRobin
from stoker.simulation.scenario import Arrivals, NamedModel, Scenario, Workers
from stoker.simulation.world import BEGAN_AT, World


def world(*jobs: tuple[str, float, float, float], workers: int = 1, etas: tuple[float, ...] = ()) -> World:
    """A world that has run: of each request the tenant, and when it came, started and ended."""
    scenario = Scenario("s", (Workers(workers),), (NamedModel("m"),), Arrivals(1, rate=1.0))
    found = World(plan(scenario, 1, []), RoundRobin())
    model = found.models["m"]
    for number, (tenant, at, started, ended) in enumerate(jobs):
        job = SimJob(number, BEGAN_AT + at, model, 20, ended - started, tenant)
        job.started_at, job.ended_at = BEGAN_AT + started, BEGAN_AT + ended
        job.eta_s = etas[number] if etas else None
        found.plan.jobs.append(job)
        found.workers["w000"].busy_s += ended - started
    return found


def test_times_are_from_the_arrival_to_the_end() -> None:
    found = outcome(world(*(("t", 0.0, 0.0, float(number)) for number in range(1, 101))), "p")
    assert (found.mean_s, found.p50_s, found.p90_s, found.p99_s, found.max_s) == (
        50.5,
        51.0,
        91.0,
        100.0,
        100.0,
    )
    assert (found.jobs, found.unfinished, found.policy, found.scenario) == (100, 0, "p", "s")


def test_what_never_ended_is_counted_and_has_no_time() -> None:
    given = world(("t", 0.0, 0.0, 4.0), ("t", 1.0, math.nan, math.nan))
    given.left = 1
    found = outcome(given, "p")
    assert (found.unfinished, found.mean_s) == (1, 4.0)


def test_loras_are_no_full_loads() -> None:
    given = world(("t", 0.0, 0.0, 1.0))
    given.workers["w000"].loads.update({"warm": 2, "cold": 1, "lora": 5})
    found = outcome(given, "p")
    assert (found.full_loads, found.loads["lora"], found.loads_per_job) == (3, 5, 3.0)


def test_the_worst_tenant_and_model_have_the_longest_mean() -> None:
    found = outcome(world(("a", 0.0, 0.0, 1.0), ("b", 0.0, 1.0, 9.0), ("b", 0.0, 9.0, 10.0)), "p")
    assert (found.worst_tenant, found.worst_tenant_s) == ("b", 9.5)
    assert found.worst_model == "m"


def test_utilisation_is_of_all_workers_until_the_last_request_ended() -> None:
    found = outcome(world(("t", 0.0, 0.0, 5.0), ("t", 5.0, 5.0, 10.0), workers=2), "p")
    assert found.utilisation == 0.5


def test_while_something_waits_only_windows_in_which_something_waits_count() -> None:
    busy = [("t", 0.0, 2.0 * number, 2.0 * number + 2.0) for number in range(10)]
    later = ("t", 5 * WINDOW_S, 5 * WINDOW_S, 5 * WINDOW_S + 1.0)
    found = outcome(world(*busy, later), "p")
    assert found.waiting_utilisation == 1.0
    assert found.utilisation < 0.5


def test_shares_are_compared_while_every_tenant_has_work() -> None:
    equal = [(tenant, 0.0, float(start), start + 1.0) for start in range(40) for tenant in ["ab"[start % 2]]]
    assert outcome(world(*equal), "p").jain == pytest.approx(1.0, abs=0.02)
    greedy = [("a" if start % 10 else "b", 0.0, float(start), start + 1.0) for start in range(40)]
    unequal = outcome(world(*greedy), "p").jain
    assert unequal is not None and unequal < 0.7


def test_of_one_tenant_or_of_those_that_never_wait_together_nothing_is_said() -> None:
    assert outcome(world(("a", 0.0, 0.0, 1.0)), "p").jain is None
    assert outcome(world(("a", 0.0, 3.0, 4.0), ("b", 10.0, 13.0, 14.0)), "p").jain is None


def test_an_eta_is_judged_by_how_long_the_request_waited() -> None:
    given = world(("t", 0.0, 10.0, 11.0), ("t", 0.0, 20.0, 21.0), ("t", 0.0, 0.05, 1.0), etas=(8.0, 30.0, 9.0))
    assert outcome(given, "p").eta_error == pytest.approx(0.5)
    assert outcome(world(("t", 0.0, 10.0, 11.0)), "p").eta_error is None
