"""Several gateway processes behind one port: any of them answers for any job, and one that dies loses nothing."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import System, wait_for

CONFIG = """\
models:
  echo: {engine: synthetic, options: {tokens: 4, token_interval_s: 0.05}}
workers: [{count: 1, engines: [synthetic]}]
"""


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    found = System(tmp_path, CONFIG, "--gateways", "2")
    try:
        found.wait_ready()
        yield found
    finally:
        found.stop()


def ask(system: System, _: int) -> int:
    """One request on a connection of its own, as the kernel spreads connections."""
    body = {"model": "echo", "messages": [{"role": "user", "content": "x"}]}
    return httpx.post(f"{system.url}/v1/chat/completions", json=body, timeout=60).status_code


@pytest.mark.slow
def test_two_gateways_share_a_port_and_one_that_is_killed_is_started_again(system: System) -> None:
    gateways = [_pid(system, name) for name in ("gateway", "gateway-2")]
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda n: ask(system, n), range(64))) == {200}
    used = [_cpu_s(pid) for pid in gateways]
    assert min(used) > 0.02 * sum(used), f"one did all the work: {used}"
    job = system.submit("echo", "What is a job?", max_tokens=40)
    os.kill(gateways[1], signal.SIGKILL)
    wait_for(lambda: _pid(system, "gateway-2") not in (0, gateways[1]), 30, "another gateway")
    wait_for(lambda: system.get(f"/v1/jobs/{job}")["status"] == "completed", 30, "the job's end")
    with ThreadPoolExecutor(8) as pool:
        wait_for(lambda: set(pool.map(lambda n: ask(system, n), range(16))) == {200}, 30, "both gateways")


def _pid(system: System, name: str) -> int:
    """0 where there is none at this moment."""
    file = system.data / f"{name}.pid"
    return int(file.read_text() or 0) if file.exists() else 0


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
