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
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "mutants"
"""A copy without links: mutmut follows none, and calls a mutant by its file, `stoker/services/…`."""
COPIED = ("stoker", "tests", "examples")
MUTANTS = SOURCES / "mutants"
MUTMUT = Path(sys.executable).parent / "mutmut"
GOAL = 0.85
"""Share of the mutants that the tests have to notice."""
EACH = 12
"""Mutants drawn of a module."""
PRINTED_CHARS = 4000
"""Of the end of what mutmut printed, where it ran nothing."""
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
    shutil.rmtree(SOURCES, ignore_errors=True)
    for folder in COPIED:
        shutil.copytree(ROOT / folder, SOURCES / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", SOURCES)
    subprocess.run([MUTMUT, "run", NOTHING], cwd=SOURCES, check=False, capture_output=True)


def _run_mutants(names: list[str]) -> str:
    """Run them; the end of what mutmut printed, which names the test that failed without any mutant."""
    done = subprocess.run([MUTMUT, "run", *names], cwd=SOURCES, check=False, text=True, capture_output=True)
    return (done.stdout + done.stderr)[-PRINTED_CHARS:]


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
    printed = _run_mutants([name for names in drawn.values() for name in names])
    outcomes = {
        module: {name: found[name] for name in drawn[module]}
        for module, found in read_outcomes(MUTANTS).items()
        if module in drawn
    }
    not_run = sum(code is None for found in outcomes.values() for code in found.values())
    if not_run:
        print(printed)
        print(f"mutmut did not run {not_run} of the mutants: see the end of what it printed, above")
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
