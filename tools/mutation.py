"""The mutation check: small errors are put into the pure cores, one at a time; the unit tests have to notice.

python -m tools.mutation                        # a sample of every core; exit 1 under the goal
python -m tools.mutation --each 200 leaving     # more of what has "leaving" in its name

mutmut makes the errors and runs the tests (`[tool.mutmut]` in pyproject.toml says of what, and which). All of
them would take hours on two cores, so a sample is drawn, with a fixed seed, from every module alike. Survivors
are listed; `mutmut show NAME` shows one.
"""

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
MUTANTS = ROOT / "mutants"
MUTMUT = Path(sys.executable).parent / "mutmut"
GOAL = 0.85
"""Share of the mutants that the tests have to notice."""
EACH = 12
"""Mutants drawn of a module."""
SEED = 13
NOTHING = "nothing-is-called-so"
SURVIVED, NO_TESTS = 0, 33
"""Exit codes by which mutmut says that no test failed, and that none reaches the code."""


def sample(names: Mapping[str, list[str]], each: int, seed: int = SEED) -> dict[str, list[str]]:
    """So many mutants of every module, or all of them; the same for the same names and seed."""
    drawn = random.Random(seed)
    return {
        module: sorted(drawn.sample(sorted(known), min(each, len(known))))
        for module, known in sorted(names.items())
    }


def read_outcomes(folder: Path) -> dict[str, dict[str, int | None]]:
    """Exit code by mutant, by module; None: not run."""
    found: dict[str, dict[str, int | None]] = {}
    for path in sorted(folder.rglob("*.py.meta")):
        outcomes = json.loads(path.read_bytes())["exit_code_by_key"]
        if outcomes:
            found[str(path.relative_to(folder)).removesuffix(".py.meta")] = outcomes
    return found


def table(outcomes: Mapping[str, Mapping[str, int | None]]) -> tuple[str, float]:
    """A table of what was noticed by module, and the share of all (0.0 where nothing was run)."""
    lines = ["| module | noticed | of |", "|---|---|---|"]
    noticed = run = 0
    for module, found in outcomes.items():
        codes = [code for code in found.values() if code is not None]
        killed = sum(code not in (SURVIVED, NO_TESTS) for code in codes)
        noticed, run = noticed + killed, run + len(codes)
        if codes:
            lines.append(f"| {module} | {killed} | {len(codes)} |")
    return "\n".join(lines), noticed / run if run else 0.0


def _make_mutants() -> None:
    """mutmut makes them all before it finds that it is to run none, and ends with an error."""
    subprocess.run([MUTMUT, "run", NOTHING], cwd=ROOT, check=False, capture_output=True)


def _run_mutants(names: list[str]) -> None:
    subprocess.run([MUTMUT, "run", *names], cwd=ROOT, check=False, stdout=subprocess.DEVNULL)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="the mutation check")
    parser.add_argument("module", nargs="?", default="", help="part of a module's path; default: all")
    parser.add_argument("--each", type=int, default=EACH, help="mutants drawn of a module")
    chosen = parser.parse_args(arguments)
    _make_mutants()
    known = {module: list(found) for module, found in read_outcomes(MUTANTS).items() if chosen.module in module}
    if not known:
        print(f"no module has {chosen.module!r} in its name, or mutmut made no mutants of it: run `mutmut run`")
        return 2
    drawn = sample(known, chosen.each)
    _run_mutants([name for names in drawn.values() for name in names])
    outcomes = {
        module: {name: found[name] for name in drawn[module]}
        for module, found in read_outcomes(MUTANTS).items()
        if module in drawn
    }
    not_run = sum(code is None for found in outcomes.values() for code in found.values())
    if not_run:
        print(f"mutmut did not run {not_run} of the mutants: see what it printed")
        return 2
    shown, share = table(outcomes)
    print(shown)
    for found in outcomes.values():
        for name, code in found.items():
            if code in (SURVIVED, NO_TESTS):
                print("survived:", name)
    print(f"{share:.0%} noticed; the goal is {GOAL:.0%}")
    return 0 if share >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
