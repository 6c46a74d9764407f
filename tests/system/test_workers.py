"""Workers that hang, hiccup, say goodbye and share a name, in a whole system: no job is the worse for it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import System, wait_for

ONE_WORKER = """\
models:
  echo: {engine: synthetic, options: {tokens: 8}}
  slow: {engine: synthetic, options: {tokens: 100, token_interval_s: 0.03}, slots: 8}
workers:
  - {count: 1, memory: 512MB, engines: [synthetic]}
"""
TWO_WORKERS = ONE_WORKER.replace("count: 1", "count: 2")


@pytest.fixture
def single(tmp_path: Path) -> Iterator[System]:
    yield from started(tmp_path, ONE_WORKER)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[System]:
    yield from started(tmp_path, TWO_WORKERS, 2)


def started(folder: Path, config: str, count: int = 1) -> Iterator[System]:
    system = System(folder, config)
    try:
        system.wait_ready()
        wait_for(lambda: len(system.get("/v1/fleet")["workers"]) == count, what="all workers")
        yield system
    finally:
        system.stop()


def runner_of(system: System, worker: str) -> psutil.Process:
    def find() -> psutil.Process | None:
        children = psutil.Process(system.pid(worker)).children()
        return next(
            (one for one in children if "stoker.services.worker.runner" in " ".join(one.cmdline())), None
        )

    found: psutil.Process = wait_for(find, what="the runner")
    return found


def runs_on(system: System, job: str) -> str:
    worker: str = wait_for(
        lambda: (found := system.job(job))["status"] == "running" and found["worker"], what=f"{job} to run"
    )
    return worker


def test_a_job_that_loses_its_runner_holds_up_no_other_and_runs_again(single: System) -> None:
    victim = single.submit("slow")
    worker = runs_on(single, victim)
    runner_of(single, worker).kill()
    later = [single.submit("slow", max_tokens=5), single.submit("echo")]
    assert [single.ended(job)["status"] for job in later] == ["completed", "completed"]
    again = single.ended(victim)
    assert (again["status"], again["attempt"] > 1) == ("completed", True)


def test_a_worker_that_is_paused_turns_no_job_into_cancelled(pair: System) -> None:
    """SIGSTOP for longer than an assignment waits for its answer, while jobs come in."""
    pid = pair.pid("worker-1")
    os.kill(pid, signal.SIGSTOP)
    jobs = [pair.submit("slow", max_tokens=20) for _ in range(12)]
    time.sleep(3.0)  # the fault itself: how long it stands still
    os.kill(pid, signal.SIGCONT)
    assert {pair.ended(job, 60)["status"] for job in jobs} == {"completed"}


@pytest.mark.slow
def test_a_worker_that_is_paused_for_long_drops_what_has_moved_and_keeps_what_has_not(pair: System) -> None:
    jobs = [pair.submit("slow") for _ in range(6)]
    first = runs_on(pair, jobs[0])
    pid = runner_of(pair, first).pid
    for process in (pair.pid(first), pid):
        os.kill(process, signal.SIGSTOP)
    time.sleep(8.0)  # the fault itself: longer than a silent worker is waited for
    for process in (pair.pid(first), pid):
        os.kill(process, signal.SIGCONT)
    ends = {job: pair.ended(job, 60) for job in jobs}
    assert {end["status"] for end in ends.values()} == {"completed"}
    words = "".join(f"t{number} " for number in range(100))
    assert {end["result"]["text"] for end in ends.values()} == {words}


@pytest.mark.slow
def test_workers_that_are_updated_again_and_again_are_no_deaths(tmp_path: Path) -> None:
    """A job longer than any worker lives goes from one to the next, and completes on the last."""
    system = System(
        tmp_path, "models:\n  long: {engine: synthetic, options: {tokens: 100, token_interval_s: 0.05}}\n"
    )
    try:
        system.wait_for_gateway()
        with worker(system, "first"):
            wait_for(lambda: "first" in names_of(system), what="the first worker")
            job = system.submit("long")
        for life in range(3):
            with worker(system, f"w{life}") as process:
                wait_for(
                    lambda life=life: system.job(job).get("worker") == f"w{life}", what=f"w{life} to take it"
                )
                process.send_signal(signal.SIGTERM)
                process.wait(20)
        with worker(system, "last"):
            end = system.ended(job, 60)
        assert (end["status"], end["worker"]) == ("completed", "last")
    finally:
        system.stop()


def names_of(system: System) -> list[str]:
    return [one["worker"] for one in system.get("/v1/fleet")["workers"] if one["engines"]]


class worker:
    """A worker started by hand, which waits for no job when it is told to stop."""

    def __init__(self, system: System, name: str) -> None:
        command = [sys.executable, "-P", "-m", "stoker.services.worker", "--nats", system.nats, "--name", name]
        self._command = [*command, "--engines", "synthetic", "--drain-timeout-s", "0"]

    def __enter__(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)


@pytest.mark.slow
def test_of_two_workers_with_one_name_the_newer_stays(single: System) -> None:
    with worker(single, "twin") as older:
        wait_for(lambda: any(one["worker"] == "twin" for one in single.get("/v1/fleet")["workers"]))
        with worker(single, "twin") as newer:
            assert wait_for(lambda: older.poll() is not None, 20, "the older to stop") is True
            assert newer.poll() is None
            jobs = [single.submit("echo") for _ in range(10)]
            assert {single.ended(job)["status"] for job in jobs} == {"completed"}
            events = single.get("/v1/events", params={"subject": "twin"})
            lost = [event for event in events if event["kind"] == "lost"] if isinstance(events, list) else []
            assert len(lost) <= 2, "no ping-pong"
