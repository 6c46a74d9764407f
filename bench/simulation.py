"""Placement beside what others have published, in simulation: loads, mean and p99, means of three seeds. Then
the race of two specs that are out of stock half of the time, beside one of them alone: means of twenty seeds.

python -m bench.simulation
"""

from collections.abc import Sequence
from pathlib import Path

from bench.arguments import nothing
from stoker.simulation.making import plan
from stoker.simulation.outcome import Outcome, outcome
from stoker.simulation.policies import POLICIES
from stoker.simulation.scenario import Scenario, load
from stoker.simulation.world import World

EXAMPLES = Path(__file__).parents[1] / "examples" / "simulations"
SCENARIOS = ("zipf16", "burst16", "diurnal16", "mixed8", "lora8", "cold16", "over8")
SEEDS = (1, 2, 3)


def outcomes(scenario: str, policy: str, seeds: Sequence[int] = SEEDS) -> list[Outcome]:
    [found] = load(EXAMPLES / f"{scenario}.yaml")
    runs: list[Outcome] = []
    for seed in seeds:
        world = World(plan(found, seed), POLICIES[policy]())
        world.run()
        runs.append(outcome(world, policy))
    return runs


def _cell(runs: Sequence[Outcome]) -> str:
    loads, mean_s, p99_s = (
        sum(getattr(one, name) for one in runs) / len(runs) for name in ("full_loads", "mean_s", "p99_s")
    )
    return f"{loads:,.0f} / {mean_s:.2f} / {p99_s:.1f}"


def report() -> list[str]:
    lines = [f"| loads / mean s / p99 s | {' | '.join(SCENARIOS)} |", "|---" * (len(SCENARIOS) + 1) + "|"]
    for policy in POLICIES:
        lines.append(f"| {policy} | {' | '.join(_cell(outcomes(one, policy)) for one in SCENARIOS)} |")
    return lines


def races() -> list[str]:
    lines = [
        "| | first ready s | mean s | p99 s | orders | replica seconds | unused | money |",
        "|---" * 8 + "|",
    ]
    for scenario in load(EXAMPLES / "race.yaml"):
        runs = [_raced(scenario, seed) for seed in range(1, 21)]
        names = ("first_ready_s", "mean_s", "p99_s", "orders", "replica_s")
        means = [sum(getattr(one, name) for one in runs) / len(runs) for name in names]
        unused = sum(one.surplus * one.replica_s for one in runs) / sum(one.replica_s for one in runs)
        money = sum(one.money for one in runs) / len(runs)
        cells = [f"{mean:.1f}" for mean in means] + [f"{unused:.1%}", f"{money:.2f}"]
        lines.append(f"| {scenario.name} | {' | '.join(cells)} |")
    return lines


def _raced(scenario: Scenario, seed: int) -> Outcome:
    world = World(plan(scenario, seed), POLICIES["stoker"]())
    world.run()
    return outcome(world, "stoker")


if __name__ == "__main__":
    nothing(__doc__)
    print("\n".join([*report(), "", *races()]))
