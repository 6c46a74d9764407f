"""Simulations on the command line."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stoker.cli.app import Json, app, console, fail, print_json

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from stoker.simulation.outcome import Outcome, Run
    from stoker.simulation.scenario import Ask, Scenario

POLICY_NAMES = (
    "stoker", "round-robin", "least-loaded", "ray-multiplex", "chwbl", "swarmui", "serverlessllm", "bound",
)  # fmt: skip
"""Of stoker/simulation/policies.py, which is not imported to print help."""


@app.command()
def simulate(
    scenarios: Annotated[list[Path], typer.Argument(help="Scenarios, YAML.", exists=True, dir_okay=False)],
    trace: Annotated[
        Path | None, typer.Option(help="Requests as they were recorded, instead of arrivals.")
    ] = None,
    policy: Annotated[str, typer.Option(help=f"Separated by commas: {', '.join(POLICY_NAMES)}.")] = "stoker",
    seed: Annotated[list[int] | None, typer.Option(help="May be given several times.")] = None,
    json: Json = False,
    out: Annotated[Path | None, typer.Option("--report", help="A folder for plots.")] = None,
) -> None:
    """What would happen: the production scheduler in virtual time.

    Beside it, policies as others published them.
    """
    from stoker.simulation.policies import POLICIES
    from stoker.simulation.scenario import BadScenario, load, read_trace

    names = [name.strip() for name in policy.split(",")]
    for name in names:
        if name not in POLICIES:
            fail(f"there is no policy {name!r}; there are: {', '.join(POLICIES)}", 2)
    try:
        found = [one for path in scenarios for one in load(path)]
        for one in found:
            if one.specs and not one.workers and names != ["stoker"]:
                fail(f"{one.name} has no workers but what is launched: only --policy stoker launches any", 2)
        asks = read_trace(trace) if trace is not None else None
        runs = _run(found, asks, names, seed or [1], is_quiet=json)
    except (BadScenario, OSError) as error:
        fail(str(error), 2)
    if json:
        print_json([run.outcome for run in runs])
    else:
        _show([run.outcome for run in runs])
    if out is not None:
        from stoker.simulation import report

        try:
            written = report.write(out, runs)
        except ImportError as error:
            fail(f"plots need {error.name}: pip install 'stoker[bench]'", 2)
        except OSError as error:
            fail(str(error), 2)
        if not json:
            console.print(f"plots: {', '.join(str(path) for path in written)}")


def _run(
    scenarios: list[Scenario], asks: list[Ask] | None, policies: list[str], seeds: list[int], *, is_quiet: bool
) -> list[Run]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from stoker.simulation.making import plan
    from stoker.simulation.outcome import Run, outcome
    from stoker.simulation.policies import POLICIES
    from stoker.simulation.world import World

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    runs: list[Run] = []
    with Progress(*columns, console=console, disable=is_quiet, transient=True) as bar:
        for scenario in scenarios:
            for seed in seeds:
                for name in policies:
                    made = plan(scenario, seed, asks)
                    task = bar.add_task(f"{scenario.name}, seed {seed}, {name}", total=len(made.jobs))
                    world = World(made, POLICIES[name]())
                    world.run(partial(_advance, bar, task, len(made.jobs)))
                    bar.remove_task(task)
                    runs.append(Run(outcome(world, name), made.jobs, world.loaded))
    return runs


def _table() -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    return Table(box=SIMPLE, padding=(0, 1), show_edge=False)


def _show_replicas(outcomes: list[Outcome]) -> None:
    table = _table()
    for head in ("scenario", "policy", "seed", "first", "orders", "replicas", "unused", "money"):
        table.add_column(head, justify="left" if head in ("scenario", "policy") else "right", no_wrap=True)
    for one in outcomes:
        ready = "" if one.first_ready_s is None else f"{one.first_ready_s:.1f}"
        cells = (ready, str(one.orders), f"{one.replica_s:.0f}", f"{one.surplus:.0%}", f"{one.money:.2f}")
        table.add_row(one.scenario, one.policy, str(one.seed), *cells)
    console.print(table)
    console.print("first: seconds until one was ready; replicas: seconds of all, and unused ones", style="dim")


def _advance(bar: Progress, task: TaskID, count: int, left: int) -> None:
    bar.update(task, completed=count - left)


def _show(outcomes: list[Outcome]) -> None:
    table = _table()
    for head in ("scenario", "policy"):
        table.add_column(head, no_wrap=True)
    for head in ("seed", "mean", "p50", "p90", "p99", "loads", "busy", "Jain"):
        table.add_column(head, justify="right", no_wrap=True)
    for one in outcomes:
        table.add_row(
            one.scenario,
            one.policy,
            str(one.seed),
            *(f"{seconds:.2f}" for seconds in (one.mean_s, one.p50_s, one.p90_s, one.p99_s)),
            str(one.full_loads),
            f"{one.utilisation:.3f}",
            "" if one.jain is None else f"{one.jain:.3f}",
        )
    console.print(table)
    if any(one.first_ready_s is not None or one.money for one in outcomes):
        _show_replicas(outcomes)
    console.print("mean to p99: seconds from arrival to end; busy: share of all workers' time", style="dim")
    for one in outcomes:
        if one.unfinished:
            console.print(f"[bold red]{one.scenario}, {one.policy}: {one.unfinished} requests never ended[/]")
