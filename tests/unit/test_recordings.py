"""Runs of real systems, recorded, are decided by today's cores as they were; and `stoker replay` says so.

A change that is meant to decide otherwise fails here: look at the difference with `stoker replay FILE`, then record again.
"""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stoker.cli.main import app
from stoker.cli.replay import cores
from stoker.services.process.recording import read_head

RECORDINGS = sorted((Path(__file__).parents[1] / "recordings").glob("*.jsonl"))


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_run_of_a_real_system_is_decided_as_it_was(path: Path) -> None:
    with path.open("rb") as lines:
        head = read_head(lines)
        assert list(cores()[head.core](head, lines)) == []


def test_the_recordings_hold_what_their_names_say() -> None:
    race, runner_dies, takeover = (path.read_text() for path in RECORDINGS)
    for decided in ("OutOfStock", "Launch echo-", "Announce downscaled", "Announce drained"):
        assert decided in race
    for kind in ("AssignmentFailed", "CancelRequested", "HeartbeatSeen"):
        assert f'"type":"{kind}"' in runner_dies
    assert '"Revoke ' in runner_dies and '"Probe ' in runner_dies
    assert takeover.index('"type":"JobArrived"') < takeover.index('"type":"Settled"')


def test_the_command_says_that_all_is_the_same() -> None:
    shown = CliRunner().invoke(app, ["replay", str(RECORDINGS[0])])
    assert (shown.exit_code, shown.stdout) == (0, "every decision is the same, and every invariant holds\n")


def test_the_command_shows_both_decisions_where_they_differ_and_exits_with_1(tmp_path: Path) -> None:
    lines = RECORDINGS[1].read_text().splitlines(keepends=True)
    step = next(number for number, line in enumerate(lines) if "Assign " in line)
    lines[step] = lines[step].replace("Assign ", "Asign ", 1)
    changed = tmp_path / "run.jsonl"
    changed.write_text("".join(lines))
    shown = CliRunner().invoke(app, ["replay", str(changed)])
    assert shown.exit_code == 1
    assert f"step {step}," in shown.stdout and "  - Asign " in shown.stdout and "  + Assign " in shown.stdout
    [difference] = json.loads(CliRunner().invoke(app, ["replay", str(changed), "--json"]).stdout)
    assert (difference["step"], difference["broken"]) == (step, "")


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        ("hello\n", 2, "line 1"),
        ('{"core": "kitchen", "term": 1, "now": 0.0}\n', 1, "known are autoscaler, scheduler"),
    ],
)
def test_the_command_refuses_what_it_cannot_replay(tmp_path: Path, content: str, code: int, said: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(content)
    shown = CliRunner().invoke(app, ["replay", str(path)])
    assert shown.exit_code == code and said in shown.output
    assert CliRunner().invoke(app, ["replay", str(tmp_path / "none")]).exit_code == 2
