"""Simulations: the production cores in virtual time do what they promise, and place better than what
others published.

The ceilings here are those of the issue on placement, at a third of its size; the whole of it is in
`make test-all`.
"""

from collections import defaultdict
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from stoker.cli.main import app
from stoker.schemas.workers import Assignment
from stoker.simulation.making import plan
from stoker.simulation.outcome import Outcome, outcome, quantile
from stoker.simulation.policies import POLICIES, Stoker
from stoker.simulation.scenario import Arrivals, Ask, ModelRule, NamedModel, Scenario, Workers, load
from stoker.simulation.worker import SimWorker
from stoker.simulation.world import BEGAN_AT, World

EXAMPLES = Path(__file__).parents[3] / "examples" / "simulations"
PUBLISHED = ("round-robin", "least-loaded", "ray-multiplex", "chwbl", "swarmui", "serverlessllm")
SMALL = Scenario("small", (Workers(4),), ModelRule(12), Arrivals(300, load=0.6, tenants=3))


def simulated(
    scenario: Scenario, policy: str = "stoker", seed: int = 1, jobs: int = 0
) -> tuple[World, Outcome]:
    if jobs:
        arrivals = msgspec.structs.replace(scenario.arrivals, jobs=jobs)
        scenario = msgspec.structs.replace(scenario, arrivals=arrivals)
    world = World(plan(scenario, seed), POLICIES[policy]())
    world.run()
    return world, outcome(world, policy)


def example(name: str) -> Scenario:
    [found] = load(EXAMPLES / f"{name}.yaml")
    return found


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_serves_every_request_once_and_the_same_each_time(policy: str) -> None:
    world, first = simulated(SMALL, policy)
    _, again = simulated(SMALL, policy)
    assert first == again, "the same seed, the same answer to the last digit"
    assert (first.jobs, first.unfinished) == (300, 0)
    for worker in world.workers.values():
        worker.cache.validate()
        worker.core.validate()
        assert worker.core.is_idle
    for job in world.plan.jobs:
        assert job.at <= job.started_at < job.ended_at
        assert job.ended_at - job.started_at == pytest.approx(job.run_s)


def test_no_lane_ever_runs_more_than_its_slots_and_no_worker_loads_two_at_a_time() -> None:
    world, _ = simulated(example("mixed8"), jobs=400)
    changes: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for job in world.plan.jobs:
        where = world_of(world, job.id)
        changes[where, SimWorker.lane(job.model)] += [(job.started_at, 1), (job.ended_at, -1)]
    for (_, lane), steps in changes.items():
        running = 0
        for _, step in sorted(steps):
            running += step
            assert running <= (1 if lane == "lane:device" else 4)


def world_of(world: World, job: str) -> str:
    """Where a job ran, as the core remembers."""
    assert isinstance(world.policy, Stoker)
    view = world.policy.core.ledger.view(job)
    assert view is not None
    return view.worker


def test_the_core_gives_nothing_to_a_worker_where_the_model_is_not_hot(monkeypatch: pytest.MonkeyPatch) -> None:
    take, given = SimWorker.take, list[bool]()

    def watched(worker: SimWorker, assignment: Assignment) -> None:
        given.append(worker.is_hot(worker.world.models[assignment.job.model]))
        take(worker, assignment)

    monkeypatch.setattr(SimWorker, "take", watched)
    simulated(example("burst16"), jobs=600)
    assert len(given) == 600
    assert sum(given) >= 0.995 * len(given), "but for a model that went in the millisecond of the message"


def test_the_core_validates_its_books_all_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    feed, count = Stoker.feed, 0

    def checked(policy: Stoker, event: object) -> None:
        nonlocal count
        feed(policy, event)  # type: ignore[arg-type]
        count += 1
        if count % 20 == 0:
            policy.core.validate()

    monkeypatch.setattr(Stoker, "feed", checked)
    _, found = simulated(example("lora8"), jobs=300)
    assert found.unfinished == 0


@pytest.mark.slow
def test_tenants_get_device_seconds_by_their_weights_while_all_wait() -> None:
    found = example("over8")
    arrivals = Arrivals(1500, load=1.5, tenants=3, is_even=True, weights=(4.0, 2.0, 1.0))
    weighted = msgspec.structs.replace(found, arrivals=arrivals)
    world, seen = simulated(weighted)
    assert seen.jain is not None and seen.jain >= 0.85, "nearly: a lane stays with what is hot"
    waited = {
        tenant: [job.ended_at - job.at for job in world.plan.jobs if job.tenant == tenant]
        for tenant in ("tenant0", "tenant2")
    }
    means = {tenant: sum(each) / len(each) for tenant, each in waited.items()}
    assert means["tenant0"] < means["tenant2"] / 2


# Against what was published -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["zipf16", pytest.param("over8", marks=pytest.mark.slow)])
def test_a_third_of_a_published_scenario_is_placed_better_than_by_any_published_policy(name: str) -> None:
    _, ours = simulated(example(name), jobs=1000)
    others = [simulated(example(name), policy, jobs=1000)[1] for policy in PUBLISHED]
    assert ours.mean_s <= min(one.mean_s for one in others)
    assert ours.full_loads <= next(one.full_loads for one in others if one.policy == "round-robin") / 4
    assert ours.loads_per_job <= 0.15


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["zipf16", "burst16", "diurnal16", "mixed8", "lora8", "cold16", "over8"])
def test_each_scenario_is_placed_better_than_by_any_published_policy(name: str) -> None:
    def means(policy: str) -> tuple[float, float, float]:
        found = [simulated(example(name), policy, seed)[1] for seed in (1, 2, 3)]
        return (
            sum(one.mean_s for one in found) / 3,
            sum(one.p99_s for one in found) / 3,
            sum(one.full_loads for one in found) / 3,
        )

    ours, others = means("stoker"), [means(policy) for policy in PUBLISHED]
    assert ours[0] <= min(mean for mean, _, _ in others)
    assert ours[1] <= min(p99 for _, p99, _ in others)
    assert ours[2] <= max(loads for _, _, loads in others) / 4


def test_an_overload_does_not_make_placement_collapse() -> None:
    """Load 1.2, then 0.5: the workers stay busy, loads stay few, and the queue drains nearly as if nothing
    had to load.
    """
    first = Arrivals(900, load=1.2, then=Arrivals(500, load=0.5))
    scenario = Scenario("overload", (Workers(8),), ModelRule(20, zipf=0.8), first)
    world, found = simulated(scenario)
    bound, _ = simulated(scenario, "bound")
    assert found.unfinished == 0
    assert found.waiting_utilisation >= 0.85
    assert found.loads_per_job <= 0.15
    assert drain_rate(world, 900) >= 0.8 * drain_rate(bound, 900)


def drain_rate(world: World, first: int) -> float:
    """Work a second from the end of the overload until hardly anything waits."""
    jobs = world.plan.jobs
    since = jobs[first - 1].at
    steps = sorted([(job.at, 1) for job in jobs] + [(job.ended_at, -1) for job in jobs])
    there, until = 0, since
    for at, step in steps:
        there += step
        if at > since and there <= 12:
            until = at
            break
    done_s = sum(job.run_s for job in jobs if since <= job.ended_at <= until)
    return done_s / (until - since)


# Fairness -----------------------------------------------------------------------------------------

ONE = (Workers(1),)
A, B = NamedModel("a", size_gb=8), NamedModel("b", size_gb=8)


def asked(*requests: tuple[str, str, int, float]) -> World:
    """Requests of one worker: tenant, model, units of 0.05 s, when."""
    asks = [Ask(at, model, float(units), tenant=tenant) for tenant, model, units, at in requests]
    scenario = Scenario("fair", ONE, (A, B), Arrivals(1, rate=1.0))
    world = World(plan(scenario, 1, sorted(asks, key=lambda ask: ask.at)), Stoker())
    world.run()
    return world


def device_s(world: World, since: float, until: float) -> dict[str, float]:
    given: dict[str, float] = defaultdict(float)
    for job in world.plan.jobs:
        overlap = min(job.ended_at, BEGAN_AT + until) - max(job.started_at, BEGAN_AT + since)
        given[job.tenant] += max(overlap, 0.0)
    return given


def test_what_a_tenant_was_served_alone_is_not_held_against_it() -> None:
    alone = [("old", "a", 10, 0.5 * number) for number in range(300)]
    both = [("old", "a", 10, 199.0)] * 200 + [("new", "a", 10, 200.0)] * 200
    world = asked(*alone, *both)
    given = device_s(world, 201.0, 290.0)
    assert given["old"] == pytest.approx(given["new"], rel=0.05)


def test_tenants_get_seconds_of_the_device_and_not_jobs() -> None:
    jobs = [("big", "a", 40, 0.01)] * 200 + [("small", "a", 4, 0.01)] * 600
    given = device_s(asked(*jobs), 0.0, 100.0)
    assert given["big"] == pytest.approx(given["small"], rel=0.1)


def test_a_long_queue_for_one_model_keeps_nobody_from_another_that_is_hot_beside_it() -> None:
    greedy = [("greedy", "a", 20, 0.01)] * 300
    small = [(f"u{number % 10}", "b", 20, 5.0 + 5 * number) for number in range(40)]
    world = asked(*greedy, *small)
    waits = [job.started_at - job.at for job in world.plan.jobs if job.tenant != "greedy"]
    assert max(waits[5:]) <= 2 * 1.1 + 0.5, "one that runs, and one that was sent ahead"


def test_tenants_of_equal_weight_get_equal_shares_while_all_have_work() -> None:
    arrivals = Arrivals(500, load=1.3, tenants=5, is_even=True)
    _, found = simulated(Scenario("shares", (Workers(4),), ModelRule(6), arrivals))
    assert found.jain is not None and found.jain >= 0.95


# What is shown ------------------------------------------------------------------------------------


def test_the_command_shows_a_table_the_same_as_json_and_plots(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("name: small\nworkers: [{count: 2}]\nmodels: {count: 4}\narrivals: {jobs: 60, load: 0.5}\n")
    run = CliRunner()
    given = ["simulate", str(path), "--policy", "stoker,bound", "--seed", "3", "--seed", "4"]
    shown = run.invoke(app, [*given, "--report", str(tmp_path / "plots")])
    assert shown.exit_code == 0, shown.output
    assert "stoker" in shown.output and "bound" in shown.output
    assert sorted(one.name for one in (tmp_path / "plots").iterdir()) == ["small-3.png", "small-4.png"]
    found = msgspec.json.decode(run.invoke(app, [*given, "--json"]).stdout, type=list[Outcome])
    assert [(one.policy, one.seed) for one in found] == [
        ("stoker", 3),
        ("bound", 3),
        ("stoker", 4),
        ("bound", 4),
    ]
    assert all(one.unfinished == 0 and one.mean_s > 0 for one in found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "best"], "there is no policy 'best'"),
        (["--trace", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_the_command_refuses_what_it_cannot_simulate(arguments: list[str], said: str) -> None:
    shown = CliRunner().invoke(app, ["simulate", str(EXAMPLES / "zipf16.yaml"), *arguments])
    assert shown.exit_code == 2
    assert said in shown.output


def test_quantiles_are_of_sorted_values() -> None:
    values = [float(number) for number in range(100)]
    assert [quantile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [0.0, 50.0, 99.0, 99.0]
    assert quantile([], 0.5) == 0.0


# Batches ------------------------------------------------------------------------------------------


def batched(batch: int, policy: str = "stoker") -> Outcome:
    model = NamedModel("m", size_gb=6, seconds_per_unit=0.1, batch=batch, batch_cost=0.3)
    scenario = Scenario("batches", (Workers(2),), (model,), Arrivals(400, load=1.3))
    return simulated(scenario, policy)[1]


def test_batches_keep_up_with_what_is_too_much_for_one_after_another() -> None:
    alone, four = batched(1), batched(4)
    assert four.unfinished == 0
    assert four.mean_s < alone.mean_s / 2
    assert four.eta_error is not None and four.eta_error < 0.5, "their gain is known to what is told"


def test_batches_are_of_more_alike_than_those_who_place_at_arrival_make_them() -> None:
    assert batched(4).mean_s <= 1.02 * min(
        batched(4, policy).mean_s for policy in ("serverlessllm", "least-loaded")
    )
