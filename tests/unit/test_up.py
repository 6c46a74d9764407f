"""`stoker up`: children are started, started again, and stopped in whatever state they are. Real processes."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from stoker import up as up_module
from stoker.child import TRANSITIONS, Child, IllegalMove, State
from stoker.services.bus.errors import BusError
from stoker.services.catalog.load import Configuration
from stoker.services.process.tasks import TaskOwner
from stoker.up import Up
from tests.conftest import free_port
from tests.fixtures.gateway_app import soon

SERVER = ("http.server", ["0", "--bind", "127.0.0.1"])
"""Runs until it is told to end."""
SHORT = ("this", list[str]())
"""Ends by itself at once."""


def child(name: str, kind: tuple[str, list[str]]) -> Child:
    return Child(name, kind[0], kind[1], "red")


@asynccontextmanager
async def kept(folder: Path, *children: Child) -> AsyncIterator[Up]:
    found = Up(Configuration(), folder)
    found._children = list(children)
    async with TaskOwner("test") as tasks:
        for one in children:
            tasks.start(found._keep, one)
        yield found
        await found._stop_children()
    assert all(one.state == "ended" for one in children)
    assert all(one.process is None or one.process.returncode is not None for one in children)


async def test_a_child_runs_until_it_is_stopped(tmp_path: Path) -> None:
    one = child("worker-1", SERVER)
    async with kept(tmp_path, one):
        await soon(lambda: (tmp_path / "worker-1.pid").exists())
        assert one.state == "running"
    assert one.restarts == 0
    assert not (tmp_path / "worker-1.pid").exists()


async def test_one_that_dies_is_started_again_and_again_with_pauses(tmp_path: Path) -> None:
    one = child("gateway", SHORT)
    async with kept(tmp_path, one):
        await soon(lambda: one.restarts >= 3)
    assert one.restarts < 30


async def test_where_its_number_cannot_be_written_down_a_child_runs_all_the_same(tmp_path: Path) -> None:
    one = child("worker-1", SERVER)
    async with kept(tmp_path / "removed", one):
        await soon(lambda: one.state == "running")
        await asyncio.sleep(0)
        assert one.restarts == 0


async def test_one_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    one, python = child("worker-1", SERVER), sys.executable
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    async with kept(tmp_path, one):
        await soon(lambda: one.restarts >= 2)
        assert one.state == "pausing"
        monkeypatch.setattr(sys, "executable", python)
        await soon(lambda: one.state == "running")
    assert "worker-1 could not be started: " in capfd.readouterr().err


async def test_whatever_ends_it_no_child_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here what it has to say cannot be said: the server it is given is none."""
    servers = [child("gateway", SERVER), child("worker-1", SERVER)]
    found = Up(Configuration(), tmp_path)
    monkeypatch.setattr(Up, "_plan", lambda self, url: servers)
    with pytest.raises((OSError, ValueError, BusError)):
        found.port = free_port()
        await found._serve("nats://127.0.0.1:notaport", asyncio.Event(), None)
    assert [one.state for one in servers] == ["ended", "ended"]
    assert all(one.process is None or one.process.returncode is not None for one in servers)


async def test_where_nobody_reads_what_is_said_all_goes_on(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    one = child("gateway", SHORT)
    found = Up(
        Configuration(), tmp_path, _console=Console(file=os.fdopen(writer, "w", buffering=1)), _children=[one]
    )
    async with TaskOwner("test") as tasks:
        tasks.start(found._keep, one)
        await soon(lambda: one.restarts >= 2)
        await found._stop_children()
    assert one.state == "ended"
    found._console.file.close()


async def test_where_what_is_said_is_not_read_at_the_moment_all_goes_on(tmp_path: Path) -> None:
    """A pager, a terminal after Ctrl-S: a process that says much is not held up, and what was missed is told."""
    reader, writer = os.pipe()
    code = "for n in range(30_000): print(n, 'x' * 80)\nopen('done', 'w')"
    (tmp_path / "talker.py").write_text(code)
    one = Child("worker-1", "talker", [], "red")
    found = Up(Configuration(), tmp_path, _console=Console(file=os.fdopen(writer, "w", buffering=1)))
    found._children = [one]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        patch.chdir(tmp_path)
        async with TaskOwner("test") as tasks:
            tasks.start(found._keep, one)
            await soon(lambda: (tmp_path / "done").exists())
            await found._stop_children()
    assert found._printer is not None
    os.set_blocking(reader, False)
    drained = b""
    while b"after" not in drained:
        with contextlib.suppress(BlockingIOError):
            drained += os.read(reader, 1_000_000)
        found._say("after")
    assert b"worker-1    0 xxx" in drained and b" lines are left out here: nobody read them" in drained
    found._printer.close()
    found._console.file.close()
    os.close(reader)


async def test_stopped_before_it_was_started_no_process_is_made(tmp_path: Path) -> None:
    one = child("gateway", SERVER)
    one.stop()
    async with kept(tmp_path, one):
        await asyncio.wait_for(one.has_ended.wait(), 5)
    assert one.process is None


async def test_stopped_while_its_process_is_being_made_the_process_ends(tmp_path: Path) -> None:
    one = child("gateway", SERVER)
    async with kept(tmp_path, one):
        await asyncio.sleep(0)
        assert one.state == "starting"
        one.stop()
        await asyncio.wait_for(one.has_ended.wait(), 20)


async def test_stopped_in_its_pause_it_is_not_started_again(tmp_path: Path) -> None:
    one = child("gateway", SHORT)
    async with kept(tmp_path, one):
        await soon(lambda: one.state == "pausing" and one.restarts >= 2)
        before = one.restarts
        one.stop()
        one.stop()
        await asyncio.wait_for(one.has_ended.wait(), 5)
        assert one.restarts == before


async def test_workers_end_before_the_others_are_told(tmp_path: Path) -> None:
    told: list[str] = []

    class Seen(Child):
        def stop(self) -> None:
            if self.is_wanted:
                told.append(self.name)
            super().stop()

    children = [Seen(name, SERVER[0], SERVER[1], "red") for name in ("scheduler", "gateway", "worker-1")]
    async with kept(tmp_path, *children):
        await soon(lambda: all(one.state == "running" for one in children))
    assert told == ["worker-1", "scheduler", "gateway"]


async def test_one_that_does_not_stop_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up_module, "STOP_TIMEOUT_S", 0.3)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"
    stubborn = child("worker-1", ("timeit", ["-n", "1", "-r", "1", code]))
    found = Up(Configuration(), tmp_path)
    found._children = [stubborn]
    async with TaskOwner("test") as tasks:
        tasks.start(found._keep, stubborn)
        await soon(lambda: stubborn.state == "running")
        await asyncio.sleep(0.5)  # until it has its handler; there is nothing to see from outside
        await found._stop_children()
        await asyncio.wait_for(stubborn.has_ended.wait(), 10)
    assert stubborn.process is not None and stubborn.process.returncode == -9


@given(st.lists(st.sampled_from(sorted(TRANSITIONS)), max_size=8))
def test_a_move_that_the_table_has_not_raises_and_changes_nothing(wanted: list[State]) -> None:
    one = child("a", SERVER)
    for to in wanted:
        before = one.state
        if to in TRANSITIONS[before]:
            one.move(to)
            assert one.state == to
        else:
            with pytest.raises(IllegalMove, match=f"a is {before} and cannot become {to}"):
                one.move(to)
            assert one.state == before
        assert one.has_ended.is_set() == (one.state == "ended")
