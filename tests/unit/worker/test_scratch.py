"""Folders of attempts: none before it is asked for, none after its process."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.services.worker.jobs import scratch
from stoker.services.worker.jobs.scratch import LOCK, PREFIX, Scratch

LEAVES = """
import os, sys
from pathlib import Path
from stoker.services.worker.jobs.scratch import Scratch
found = Scratch()
Path(found.folder()).mkdir()
print(found.folder(), flush=True)
sys.stdin.read()
os._exit(9)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_folders_are_apart_and_go_with_their_owner(place: Path) -> None:
    found = Scratch()
    assert list(place.iterdir()) == []
    first, second = Path(found.folder()), Path(found.folder())
    assert first != second and first.parent == second.parent and not first.exists()
    first.mkdir()
    (first / "file").write_text("x")
    assert first.parent.stat().st_mode & 0o777 == 0o700
    del found
    gc.collect()
    assert list(place.iterdir()) == []


def test_what_a_process_that_was_killed_has_left_is_removed(place: Path) -> None:
    command = [sys.executable, "-P", "-c", LEAVES]
    environment = os.environ | {"TMPDIR": str(place)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        left = Path(other.stdout.readline().strip()).parent
        living = Scratch()
        living.folder()
        assert left.exists(), "its process lives"
        other.stdin.close()
        assert other.wait(20) == 9
    being_made = place / f"{PREFIX}new"
    being_made.mkdir()
    third = Scratch()
    mine = Path(third.folder()).parent
    assert not left.exists()
    assert being_made.exists() and not (being_made / LOCK).exists()
    assert mine.exists() and Path(living.folder()).parent.exists()
