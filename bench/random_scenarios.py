"""Scenarios by chance, which nothing was tuned to: Stoker beside the two policies that come closest to it.

python -m bench.random_scenarios [SEED [COUNT]]
"""

import random

from bench.arguments import numbers
from stoker.simulation.making import plan
from stoker.simulation.outcome import Outcome, outcome
from stoker.simulation.policies import POLICIES
from stoker.simulation.scenario import Arrivals, Mix, ModelRule, Scenario, Shape, Workers
from stoker.simulation.world import World

OTHERS = ("serverlessllm", "swarmui")
MIXES: tuple[Mix, ...] = ("image", "text", "mixed", "lora")
SHAPES: tuple[Shape, ...] = ("flat", "burst", "diurnal", "shift", "rotation")
JOBS = 1000
LEAST_GB = {"lora": 14.0}
"""So much memory a worker needs for the largest model of a mix; 26 for the others."""


def drawn(chance: random.Random) -> Scenario:
    workers, memory = chance.choice([2, 4, 8, 16, 24]), chance.choice([8, 16, 24, 48, 80])
    ram, disk = chance.choice([0, 16, 32, 64]), chance.choice([0.0, 0.3, 0.7, 1.0])
    mix, count = chance.choice(MIXES), chance.choice([4, 8, 16, 32, 64])
    zipf, load = chance.choice([0.0, 0.5, 1.0, 1.5]), chance.choice([0.4, 0.6, 0.8, 0.95, 1.2])
    shape, tenants = chance.choice(SHAPES), chance.choice([1, 5])
    memory_gb = max(float(memory), LEAST_GB.get(mix, 26.0))
    kind = Workers(workers, memory_gb=memory_gb, ram_gb=ram, on_disk=disk)
    name = f"{workers} x {memory_gb:g} GB, RAM {ram}, disk {disk:g}, {count} {mix} z{zipf:g}, {shape} {load:g}"
    arrivals = Arrivals(JOBS, load=load, shape=shape, tenants=tenants)
    return Scenario(name, (kind,), ModelRule(count, mix=mix, zipf=zipf), arrivals)


def _run(scenario: Scenario, policy: str, seed: int) -> Outcome:
    world = World(plan(scenario, seed), POLICIES[policy]())
    world.run()
    return outcome(world, policy)


def report(seed: int = 1, count: int = 12) -> list[str]:
    chance = random.Random(seed)
    lines = ["| scenario | mean s | best other | p99 s | best other | loads |", "|---" * 6 + "|"]
    for number in range(count):
        scenario = drawn(chance)
        ours = _run(scenario, "stoker", number)
        others = [_run(scenario, policy, number) for policy in OTHERS]
        mean_s, p99_s = min(one.mean_s for one in others), min(one.p99_s for one in others)
        cells = (
            f"{ours.mean_s:.2f}",
            f"{mean_s:.2f}",
            f"{ours.p99_s:.1f}",
            f"{p99_s:.1f}",
            str(ours.full_loads),
        )
        lines.append(f"| {scenario.name} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    print("\n".join(report(*numbers(__doc__, (), 2))))
