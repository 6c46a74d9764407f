"""Scenarios: what a file may say, what a seed makes of it, and what is refused with file, line and field."""

from pathlib import Path

import pytest

from stoker.simulation.making import BURST_EVERY_S, BURST_S, plan
from stoker.simulation.scenario import (
    Arrivals,
    Ask,
    BadScenario,
    ModelRule,
    NamedModel,
    Scenario,
    Shape,
    Workers,
    load,
    read_trace,
)

EXAMPLES = sorted((Path(__file__).parents[3] / "examples" / "simulations").glob("*.yaml"))


def scenario(**fields: object) -> Scenario:
    given = {"workers": (Workers(4),), "models": ModelRule(10), "arrivals": Arrivals(200, load=0.5), **fields}
    return Scenario("s", **given)  # type: ignore[arg-type]


def test_the_same_seed_makes_the_same_and_another_makes_another() -> None:
    one, again, other = (plan(scenario(), seed) for seed in (1, 1, 2))
    assert (one.models, one.jobs) == (again.models, again.jobs)
    assert one.jobs != other.jobs


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_can_be_read(path: Path) -> None:
    found = load(path)[0]
    assert found.name == path.stem
    assert len(plan(found, 1).jobs) >= 600


def test_the_scenario_of_the_documentation_is_one(tmp_path: Path) -> None:
    page = (EXAMPLES[0].parents[2] / "docs" / "simulation.md").read_text()
    path = tmp_path / "ours.yaml"
    path.write_text(page.split("```yaml\n")[1].split("```")[0])
    [found] = load(path)
    assert len(plan(found, 1).jobs) == 2500


def test_requests_come_at_the_rate_that_keeps_the_workers_so_busy() -> None:
    made = plan(scenario(arrivals=Arrivals(4000, load=0.5)), 3)
    work_s = sum(job.run_s for job in made.jobs)
    assert work_s / (4 * made.jobs[-1].at) == pytest.approx(0.5, rel=0.1)
    by_rate = plan(scenario(arrivals=Arrivals(1000, rate=20.0)), 3)
    assert by_rate.jobs[-1].at == pytest.approx(50.0, rel=0.15)


def test_the_most_popular_model_is_asked_for_most() -> None:
    made = plan(scenario(arrivals=Arrivals(3000, load=0.5)), 1)
    counts = [sum(job.model is model for job in made.jobs) for model in made.models]
    assert counts[0] == max(counts)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.5)


@pytest.mark.parametrize("shape", ["burst", "diurnal", "shift", "rotation"])
def test_shapes_of_arrivals_differ_from_a_flat_one(shape: Shape) -> None:
    shaped = plan(scenario(arrivals=Arrivals(1500, rate=5.0, shape=shape)), 1).jobs
    if shape == "burst":
        within = sum(job.at % BURST_EVERY_S < BURST_S for job in shaped)
        assert within / len(shaped) > 0.5
    elif shape == "diurnal":
        assert sum(job.at < 150 for job in shaped) > 1.3 * sum(150 <= job.at < 300 for job in shaped)
    elif shape == "rotation":
        assert [job.model.name for job in shaped[:3]] == ["image0", "image1", "image2"]
    else:
        early = [job.model.name for job in shaped if job.at < 120]
        late = [job.model.name for job in shaped if 120 <= job.at < 240]
        assert max(set(early), key=early.count) != max(set(late), key=late.count)


def test_what_follows_begins_where_the_first_part_ends() -> None:
    made = plan(scenario(arrivals=Arrivals(100, rate=10.0, then=Arrivals(50, rate=1.0))), 1)
    assert [job.at for job in made.jobs] == sorted(job.at for job in made.jobs)
    assert made.jobs[149].at - made.jobs[99].at > made.jobs[99].at


def test_tenants_ask_less_by_their_rank_or_all_alike() -> None:
    ranked = plan(scenario(arrivals=Arrivals(2000, load=0.5, tenants=4)), 1).jobs
    even = plan(scenario(arrivals=Arrivals(2000, load=0.5, tenants=4, is_even=True)), 1).jobs
    count = [sum(job.tenant == f"tenant{number}" for job in ranked) for number in range(4)]
    assert count == sorted(count, reverse=True) and count[0] > 2.5 * count[3]
    assert min(sum(job.tenant == f"tenant{number}" for job in even) for number in range(4)) > 400


def test_tenants_have_the_weights_that_are_said_and_one_where_none_is() -> None:
    jobs = plan(scenario(arrivals=Arrivals(300, load=0.5, tenants=3, weights=(4.0, 2.0))), 1).jobs
    assert {job.tenant: job.as_job().weight for job in jobs} == {"tenant0": 4.0, "tenant1": 2.0, "tenant2": 1.0}


def test_models_with_loras_share_the_weights_of_their_base() -> None:
    ruled = plan(scenario(models=ModelRule(16, mix="lora")), 1).models
    assert len({model.key for model in ruled}) == 2
    named = (NamedModel("base", size_gb=6), NamedModel("styled", base="base", size_gb=1))
    base, styled = plan(scenario(models=named), 1).models
    assert (styled.key, styled.size_bytes, styled.has_lora) == (base.key, base.size_bytes, True)


def test_a_trace_says_who_asks_what_and_when(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        '{"at": 2.0, "model": "image1", "units": 20, "tenant": "t"}\n\n{"at": 1.0, "model": "image0"}\n'
    )
    asks = read_trace(path)
    assert asks == [Ask(1.0, "image0"), Ask(2.0, "image1", 20.0, tenant="t")]
    jobs = plan(scenario(), 1, asks).jobs
    assert [(job.at, job.model.name, job.units, job.tenant) for job in jobs] == [
        (1.0, "image0", 24, ""),
        (2.0, "image1", 20, "t"),
    ]


def test_a_trace_of_a_load_test_is_one_too(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at": 0.5, "model": "image1", "prompt": "red seven", "max_tokens": 32}\n')
    [job] = plan(scenario(), 1, read_trace(path)).jobs
    assert (job.at, job.units) == (0.5, 32)


def test_a_trace_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at": 1.0, "model": "image0"}\n{"at": "soon"}\n')
    with pytest.raises(BadScenario, match=r"trace\.jsonl:2"):
        read_trace(path)
    with pytest.raises(BadScenario, match="'nobody', which is no model"):
        plan(scenario(), 1, [Ask(0.0, "nobody")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("workers: []\n", "`name`"),
        ("name: x\n", "no workers, and no specs"),
        ("name: x\nspecs: [{name: a}, {name: a}]\narrivals: {rate: 1}\n", "two specs have the same name"),
        ("name: x\nspecs: [{name: a, stock: {share: 0}}]\narrivals: {rate: 1}\n", "share"),
        ("name: x\nworkers: [{count: 0}]\nmodels: {count: 3}\n", ":2: "),
        ("name: x\nworkers: [{count: 1, memory: 3}]\nmodels: {count: 3}\n", "memory"),
        ("name: x\nworkers: [{}]\nmodels: {count: 3}\narrivals: {jobs: 5}\n", "either load or rate"),
        ("name: x\nworkers: [{}]\nmodels: {count: 3}\narrivals: {load: 1, rate: 2}\n", "either load or rate"),
        ("name: x\nworkers: [{}]\nmodels: [{name: a}, {name: a}]\narrivals: {load: 1}\n", "the same name"),
        ("name: x\nworkers: [{}]\nmodels: [{name: a, base: b}]\narrivals: {load: 1}\n", "no model 'b'"),
        ("name: [\n", "not valid YAML"),
    ],
)
def test_a_scenario_that_cannot_be_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(BadScenario, match=r"s\.yaml") as refused:
        load(path)
    assert said in str(refused.value)
