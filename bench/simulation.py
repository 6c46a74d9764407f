"""Placement beside what others have published, in simulation: loads, mean and p99, means of three seeds.

python -m bench.simulation
"""

from collections.abc import Sequence
from pathlib import Path

from stoker.simulation.outcome import Outcome, outcome
from stoker.simulation.policies import POLICIES
from stoker.simulation.scenario import load, plan
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


if __name__ == "__main__":
    print("\n".join(report()))
