"""Recordings: what was decided is decided again, and where it is not, the step is named."""

from pathlib import Path

import msgspec
import pytest

from stoker.services.process.recording import BadRecording, Head, Recorder, read_head, replay
from stoker.services.scheduler.core import Scheduler
from stoker.services.scheduler.protocol import commands, events
from stoker.services.scheduler.replaying import CORE, describe, replayed
from tests.unit.scheduler.test_worlds import live, unkind_world
from tests.unit.scheduler.world import World


class Recorded(World):
    """A world whose leaders are recorded, one file for each term."""

    folder: Path

    def decide(self, event: events.Event) -> list[commands.Command]:
        recorders: dict[int, Recorder] = self.__dict__.setdefault("recorders", {})
        term = self.core.term
        if term not in recorders:
            recorders[term] = Recorder(self.folder / "run", Head(CORE, term, self.now), describe)
        decided = super().decide(event)
        recorders[term].step(event, self.now, decided)
        return decided


def record(folder: Path, seed: int) -> list[Path]:
    """Recordings of an unkind world, the longest first."""
    Recorded.folder = folder
    world = unkind_world(seed, 3, Recorded)
    live(world, 120)
    for recorder in world.__dict__["recorders"].values():
        recorder.close()
    return sorted(folder.glob("run.*"), key=lambda path: -path.stat().st_size)


@pytest.mark.parametrize("seed", range(8))
def test_a_recorded_run_is_decided_as_it_was(tmp_path: Path, seed: int) -> None:
    paths = record(tmp_path, seed)
    assert sum(len(path.read_bytes().splitlines()) for path in paths) > 300
    for path in paths:
        with path.open("rb") as lines:
            assert list(replayed(read_head(lines), lines)) == []


def test_a_decision_that_is_not_the_same_is_named_with_its_step(tmp_path: Path) -> None:
    lines = record(tmp_path, 1)[0].read_bytes().splitlines(keepends=True)
    step = next(number for number, line in enumerate(lines) if b"Assign " in line)
    lines[step] = lines[step].replace(b" to w", b" to x", 1)
    reader = iter(lines)
    [difference] = replayed(read_head(reader), reader)
    assert (difference.step, difference.event) == (step, msgspec.json.decode(lines[step])["event"]["type"])
    assert difference.recorded != difference.replayed


def test_an_invariant_that_breaks_ends_the_replay_and_is_named(tmp_path: Path) -> None:
    lines = record(tmp_path, 2)[0].read_bytes().splitlines(keepends=True)
    head = read_head(iter(lines[:1]))

    class Broken(Scheduler):
        def validate(self) -> None:
            super().validate()
            assert not self.ledger.records, "there is a job"

    differences = list(replay(iter(lines[1:]), Broken(1, head.now), events.Event, describe))
    assert differences[-1].broken.startswith("AssertionError: there is a job")
    assert differences[-1].event == "JobArrived"


def test_a_line_that_was_cut_short_ends_the_replay_quietly(tmp_path: Path) -> None:
    content = record(tmp_path, 3)[0].read_bytes()
    reader = iter(content[:-20].splitlines(keepends=True))
    assert list(replayed(read_head(reader), reader)) == []


def test_what_is_no_recording_is_refused_with_its_line() -> None:
    with pytest.raises(BadRecording, match="line 1"):
        read_head(iter([b"hello\n"]))
    with pytest.raises(BadRecording, match="line 1"):
        read_head(iter([]))
    with pytest.raises(BadRecording, match="line 2"):
        list(replayed(Head(CORE, 1, 0.0), iter([b"{}\n"])))
