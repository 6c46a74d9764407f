"""One runner at a time, and one loop that starts it, whenever it dies; nothing is left when the worker stops."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from stoker.services.process.tasks import LimitExceeded, TaskOwner
from stoker.services.worker.runner import process, supervisor
from stoker.services.worker.runner.messages import Prepare, Usage
from stoker.services.worker.runner.process import RunnerAway, RunnerProcess
from stoker.services.worker.runner.supervisor import TRANSITIONS, IllegalMove, RunnerSupervisor
from tests.waiting import eventually


class Watched(RunnerSupervisor):
    """Counts what it is told."""

    def __init__(self) -> None:
        super().__init__(self._note, self._on_ready_note, self._on_died_note)
        self.messages: list[object] = []
        self.events: list[str] = []
        self.killed: list[bool] = []

    def _note(self, message: object) -> None:
        self.messages.append(message)

    def _on_ready_note(self) -> None:
        self.events.append("ready")

    def _on_died_note(self, status: int, was_killed: bool) -> None:
        self.events.append(f"died {status}")
        self.killed.append(was_killed)


@asynccontextmanager
async def supervised() -> AsyncIterator[Watched]:
    found = Watched()
    async with TaskOwner("test") as tasks:
        tasks.start(found.run)
        yield found


def runners() -> list[psutil.Process]:
    """The runner processes of this test: those of a system that tests share are children of its workers."""
    children = psutil.Process().children()
    return [one for one in children if "stoker.services.worker.runner" in " ".join(one.cmdline())]


def dying(folder: Path, script: str) -> str:
    """A Python that does this instead of running a runner."""
    fake = folder / "python"
    fake.write_text(f"#!/bin/sh\necho started >> {folder}/starts\n{script}\n")
    fake.chmod(0o755)
    return str(fake)


def starts(folder: Path) -> int:
    path = folder / "starts"
    return len(path.read_text().splitlines()) if path.exists() else 0


async def test_it_is_ready_answers_and_is_gone_when_its_owner_leaves() -> None:
    async with supervised() as runner:
        await runner.wait_ready(30)
        assert runner.pid > 0
        runner.send(Prepare("synthetic"))
        assert len(runners()) == 1
    assert runner.state == "stopped"
    assert runner.pid == 0
    assert runners() == []
    assert runner.events == ["ready"]


async def test_one_that_is_stopped_for_a_moment_is_silent_and_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "PULSE_S", 0.05)
    monkeypatch.setattr(supervisor, "SILENT_S", 0.3)
    async with supervised() as runner:
        await runner.wait_ready(30)
        pid = runner.pid
        os.kill(pid, signal.SIGSTOP)
        await eventually(lambda: runner.state == "silent")
        assert runner.pid == 0, "nobody should count on it"
        runner.send(Prepare("synthetic"))
        os.kill(pid, signal.SIGCONT)
        await eventually(lambda: runner.state == "ready")
        assert (runner.pid, runner.starts, runner.events) == (pid, 1, ["ready"])


@pytest.mark.parametrize("is_loading", [False, True])
async def test_one_that_hangs_is_ended_later_where_weights_are_being_loaded(
    monkeypatch: pytest.MonkeyPatch, is_loading: bool
) -> None:
    monkeypatch.setattr(supervisor, "PULSE_S", 0.05)
    monkeypatch.setattr(supervisor, "SILENT_S", 0.2)
    monkeypatch.setattr(supervisor, "LOADING_LIMIT_S", 2.0)
    found = Watched()
    found._limit_s, found._is_loading = 0.5, lambda: is_loading
    async with TaskOwner("test") as tasks:
        tasks.start(found.run)
        await found.wait_ready(30)
        began = time.monotonic()
        os.kill(found.pid, signal.SIGSTOP)
        await eventually(lambda: found.starts == 2, 30)
        assert (time.monotonic() - began > 2.0) == is_loading
        await found.wait_ready(30)
        assert [event.split()[0] for event in found.events[:2]] == ["ready", "died"]
        assert found.killed == [False], "it was ended by us: what ran in it may be why"


async def test_one_that_is_killed_is_told_of_once_and_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.05)
    async with supervised() as runner:
        for lives in range(1, 4):
            await eventually(lambda lives=lives: runner.events.count("ready") == lives, 30)
            os.kill(runner.pid, signal.SIGKILL)
            await eventually(lambda lives=lives: len(runner.events) == 2 * lives)
        assert runner.events == ["ready", "died -9"] * 3
        assert len(runners()) <= 1


async def test_runners_that_die_before_they_are_ready_make_no_storm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is followed by one other, after a pause that doubles."""
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(supervisor, "MAX_PAUSE_S", 0.32)
    monkeypatch.setattr(sys, "executable", dying(tmp_path, "exit 3"))
    async with supervised() as runner:
        runner._pause_s = 0.01
        await eventually(lambda: starts(tmp_path) >= 5)
        begun = starts(tmp_path)
        await asyncio.sleep(1.0)
        assert starts(tmp_path) - begun <= 4, "0.32 s apart by now"
        assert runner.starts == starts(tmp_path)
        assert runner.events == []


async def test_one_that_never_says_it_is_ready_is_given_up_and_reaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "START_TIMEOUT_S", 0.2)
    monkeypatch.setattr(process, "STOP_TIMEOUT_S", 0.1)
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(sys, "executable", dying(tmp_path, "exec sleep 600"))
    before = set(psutil.Process().children())
    async with supervised() as runner:
        await eventually(lambda: starts(tmp_path) >= 2)
        assert len(set(psutil.Process().children()) - before) <= 1
        assert runner.events == []
    assert set(psutil.Process().children()) == before


async def test_a_python_that_is_not_there_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.02)
    python = sys.executable
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    async with supervised() as runner:
        runner._pause_s = 0.02
        await eventually(lambda: runner.starts >= 3)
        monkeypatch.setattr(sys, "executable", python)
        await runner.wait_ready(30)
        assert runner.events == ["ready"]


async def test_nothing_is_sent_while_none_is_ready() -> None:
    runner = Watched()
    with pytest.raises(RunnerAway):
        runner.send(Prepare("synthetic"))
    with pytest.raises(LimitExceeded, match="waiting for a runner"):
        await runner.wait_ready(0.05)
    runner.kill()
    assert runner.pid == 0


async def test_stubborn_processes_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_TIMEOUT_S", 0.1)
    async with supervised() as runner:
        await runner.wait_ready(30)
        os.kill(runner.pid, signal.SIGSTOP)
    assert runners() == []


async def test_frames_that_cannot_be_read_end_the_process() -> None:
    life = RunnerProcess(lambda _: None)
    await life.start()
    assert life._writer is not None
    life._writer.write(b"\xff" * 64)  # what a broken agent might send: the runner ends
    status = await asyncio.wait_for(life.serve(), 30)
    await life.reap()
    assert isinstance(status, int)
    with pytest.raises(RunnerAway):
        life.send(Prepare("synthetic"))


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 20, 100])
async def test_cancelled_at_any_await_it_leaves_no_process_and_no_task(turns: int) -> None:
    before = asyncio.all_tasks()
    runner = Watched()
    task = asyncio.create_task(runner.run())
    for _ in range(turns):
        await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runner.state == "stopped"
    assert runners() == []
    assert asyncio.all_tasks() == before
    again = asyncio.create_task(runner.run())
    await runner.wait_ready(30)
    again.cancel()
    with pytest.raises(asyncio.CancelledError):
        await again
    assert runners() == []


def test_the_table_decides_and_an_illegal_move_changes_nothing() -> None:
    for state, allowed in TRANSITIONS.items():
        for to in TRANSITIONS:
            runner = Watched()
            runner.state = state
            if to in allowed:
                runner._move(to)
                assert runner.state == to
            else:
                with pytest.raises(IllegalMove, match=f"{state} -> {to}"):
                    runner._move(to)
                assert runner.state == state


async def test_what_the_process_takes_is_reported_after_a_load() -> None:
    from stoker.services.worker.runner.messages import Load

    async with supervised() as runner:
        await runner.wait_ready(30)
        runner.send(Load("m", "synthetic", "", {"memory_bytes": 5}))
        await eventually(lambda: any(isinstance(one, Usage) for one in runner.messages))
        [usage, *_] = [one for one in runner.messages if isinstance(one, Usage)]
        assert usage.resources.rss_bytes > 10**6


async def test_one_that_needs_longer_than_the_first_limit_is_given_more_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow disk every start took too long, and was begun again, for ever."""
    monkeypatch.setattr(process, "START_TIMEOUT_S", 0.1)
    monkeypatch.setattr(process, "STOP_TIMEOUT_S", 0.05)
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.02)
    python = sys.executable
    monkeypatch.setattr(sys, "executable", dying(tmp_path, f'sleep 0.5\nexec {python} "$@"'))
    async with supervised() as runner:
        await runner.wait_ready(60)
        assert 2 <= runner.starts < 12
        assert runner.events == ["ready"]


async def test_engines_and_functions_do_not_get_the_credentials_of_their_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STOKER_NATS_PASSWORD", "secret")
    monkeypatch.setenv("STOKER_URL", "http://x")
    async with supervised() as found:
        assert await eventually(lambda: found.state == "ready")
        [runner] = runners()
        given = runner.environ()
    assert given["STOKER_URL"] == "http://x"
    assert not [name for name in given if name.startswith("STOKER_NATS")]
