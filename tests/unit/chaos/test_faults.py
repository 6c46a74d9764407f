"""Faults on real processes: killed, paused and let go, cut off and healed; and nothing where there is nobody."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

import psutil
import pytest

from stoker.chaos.faults import Faults
from stoker.chaos.plan import Fault, Kind, Role
from stoker.chaos.proxy import Proxy
from tests.waiting import eventually


class Processes:
    """Processes that only sleep, as an installation."""

    gateways: list[str]
    cuttable: Sequence[Role] = ("worker",)

    def __init__(self) -> None:
        self.gateways = []
        self.crashes: list[tuple[float, str]] = []
        self.running = [
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)
        ]
        self.lines_of_workers = [[Proxy(1), Proxy(1)], [Proxy(1), Proxy(1)]]
        self.away: list[tuple[int, float]] = []

    def pids(self, role: Role) -> list[int]:
        return [process.pid for process in self.running] if role == "worker" else []

    def lines(self, role: Role) -> list[list[Proxy]]:
        return self.lines_of_workers if role == "worker" else []

    def are_cut(self) -> list[list[bool]]:
        return [[proxy.is_cut for proxy in lines] for lines in self.lines_of_workers]

    def stay_away(self, pid: int, seconds: float) -> None:
        self.away.append((pid, seconds))


@pytest.fixture
def processes() -> Iterator[Processes]:
    found = Processes()
    yield found
    for process in found.running:
        process.kill()
        process.wait()


def fault(
    kind: Kind, role: Role = "worker", which: float = 0.9, seconds: float = 0.3, at: float = 0.0
) -> Fault:
    return Fault(at, kind, role, which, seconds)


def state(process: subprocess.Popen[bytes]) -> str:
    return psutil.Process(process.pid).status()


async def test_a_kill_kills_the_chosen_one_and_says_how_long_it_stays_away(processes: Processes) -> None:
    faults = Faults(processes, asyncio.get_running_loop().time())
    await faults.do(fault("kill"))
    assert processes.running[1].wait(5) == -signal.SIGKILL
    assert processes.running[0].poll() is None
    assert processes.away == [(processes.running[1].pid, 0.3)]
    assert [one.kind for one in faults.done] == ["kill"]


async def test_a_stop_asks_the_chosen_one_to_end(processes: Processes) -> None:
    faults = Faults(processes, asyncio.get_running_loop().time())
    await faults.do(fault("stop", which=0.0))
    assert processes.running[0].wait(5) == -signal.SIGTERM
    assert processes.away == [(processes.running[0].pid, 0.3)]


async def test_what_is_paused_goes_on_also_when_the_run_is_ended(processes: Processes) -> None:
    faults = Faults(processes, asyncio.get_running_loop().time())
    task = asyncio.create_task(faults.do(fault("pause", which=0.0, seconds=30.0)))
    await eventually(lambda: state(processes.running[0]) == psutil.STATUS_STOPPED)
    assert state(processes.running[1]) != psutil.STATUS_STOPPED
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await eventually(lambda: state(processes.running[0]) != psutil.STATUS_STOPPED)


async def test_what_is_cut_is_healed(processes: Processes) -> None:
    faults = Faults(processes, asyncio.get_running_loop().time())
    task = asyncio.create_task(faults.do(fault("cut", which=0.6)))
    await eventually(lambda: processes.are_cut() == [[False, False], [True, True]])
    await task
    assert processes.are_cut() == [[False, False], [False, False]]


async def test_where_there_is_nobody_nothing_is_done_and_nothing_is_noted(processes: Processes) -> None:
    faults = Faults(processes, asyncio.get_running_loop().time())
    for kind in ("kill", "stop", "pause", "cut"):
        await faults.do(fault(kind, "nats"))  # type: ignore[arg-type]
    assert faults.done == []


async def test_a_process_that_is_gone_by_then_is_no_error(processes: Processes) -> None:
    faults = Faults(processes, asyncio.get_running_loop().time())
    task = asyncio.create_task(faults.do(fault("pause", which=0.0, seconds=0.3)))
    await eventually(lambda: faults.done)
    os.kill(processes.running[0].pid, signal.SIGKILL)
    processes.running[0].wait(5)
    await task
    assert len(faults.done) == 1


async def test_a_plan_is_done_in_its_order_and_to_its_end(processes: Processes) -> None:
    began = asyncio.get_running_loop().time()
    faults = Faults(processes, began)
    await faults.run([fault("pause", which=0.0, at=0.1), fault("cut", at=0.2), fault("kill", at=0.3)])
    assert [one.kind for one in faults.done] == ["pause", "cut", "kill"]
    assert [one.at >= planned for one, planned in zip(faults.done, (0.1, 0.2, 0.3), strict=True)] == [True] * 3
    assert asyncio.get_running_loop().time() - began >= 0.5
    assert processes.are_cut() == [[False, False], [False, False]]
