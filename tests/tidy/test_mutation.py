"""The mutation check counts right: what was not noticed counts against us, what was not run counts not at all."""

import json
from pathlib import Path

from tools.mutation import read_outcomes, sample, table


def write(folder: Path, module: str, outcomes: dict[str, int | None]) -> None:
    path = folder / f"{module}.py.meta"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"exit_code_by_key": outcomes}))


def test_outcomes_are_read_by_module(tmp_path: Path) -> None:
    write(tmp_path, "services/a/core", {"x1": 1, "x2": 0})
    write(tmp_path, "services/a/empty", {})
    assert read_outcomes(tmp_path) == {"services/a/core": {"x1": 1, "x2": 0}}
    assert read_outcomes(tmp_path / "none") == {}


def test_survivors_and_untested_code_count_and_what_was_not_run_does_not() -> None:
    shown, share = table({"a": {"x1": 1, "x2": 0, "x3": 33, "x4": None}, "b": {"y": None}, "c": {"z": -24}})
    assert share == 0.5
    assert shown.splitlines()[2:] == ["| a | 1 | 3 |", "| c | 1 | 1 |"]
    assert table({"b": {"y": None}})[1] == 0.0


def test_a_sample_is_the_same_again_and_takes_from_every_module() -> None:
    names = {"a": [f"a{number}" for number in range(100)], "b": ["b1", "b2"]}
    drawn = sample(names, 10)
    assert drawn == sample({"b": ["b2", "b1"], "a": names["a"][::-1]}, 10)
    assert len(set(drawn["a"])) == 10 and drawn["b"] == ["b1", "b2"]
    assert drawn["a"] != sample(names, 10, seed=14)["a"]
