"""Every row of the design's table "When things die"."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import SYNTHETIC, Shared, System, events_of, wait_for
from tests.system.test_jobs import WORDS, names, text_of

CONFIG = SYNTHETIC.replace("workers:", "  crash: {engine: synthetic, options: {crash: true}}\nworkers:")
CONFIG += "  - {count: 1, memory: 512MB, engines: [synthetic]}\n"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    found = Shared(tmp_path_factory, CONFIG, 3)
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture
def system(kept: Shared) -> System:
    """Three workers. Whatever the test before has killed is there again."""
    return kept.taken()


def watch(system: System, job: str) -> tuple[list[dict], threading.Thread]:
    """Collect a job's events in a thread that resumes by itself."""
    seen: list[dict] = []

    def follow() -> None:
        while not seen or seen[-1]["id"] != "end":
            headers = {"Last-Event-ID": seen[-1]["id"]} if seen else {}
            try:
                for event in events_of(f"{system.url}/v1/jobs/{job}/events", headers):
                    seen.append(event)
            except (httpx.HTTPError, AssertionError):
                time.sleep(0.05)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    return seen, thread


def started_on(seen: list[dict]) -> str | None:
    started = [event for event in seen if event["event"] == "started"]
    return started[-1]["data"]["worker"] if started else None


def test_a_stream_goes_on_elsewhere_when_its_worker_is_killed(system: System) -> None:
    job = system.submit("slow", max_tokens=60)
    seen, thread = watch(system, job)
    wait_for(lambda: names(seen).count("delta") > 10)
    first = started_on(seen)
    assert first is not None
    system.kill(first)
    thread.join(30)
    assert text_of(seen) == "".join(WORDS[:60])
    assert names(seen).count("completed") == 1
    assert started_on(seen) != first
    assert system.job(job)["attempt"] == 2
    starts = [event for event in seen if event["event"] == "started"]
    assert len(starts) == 2


def test_a_job_that_kills_two_runners_fails_and_is_not_tried_again(system: System) -> None:
    ended = system.ended(system.submit("crash"), 30)
    assert (ended["status"], ended["error"]["kind"]) == ("failed", "worker_lost")
    assert ended["attempt"] == 2
    assert system.ended(system.submit("echo"))["status"] == "completed"


def test_killing_the_scheduler_loses_no_job_and_no_stream(system: System) -> None:
    streamed = system.submit("slow", max_tokens=80)
    seen, thread = watch(system, streamed)
    wait_for(lambda: names(seen).count("delta") > 3)
    queued = [system.submit("single", max_tokens=1) for _ in range(200)]
    system.kill("scheduler")
    killed_at = time.monotonic()
    fresh = system.submit("echo")
    system.ended(fresh, 10)
    assert time.monotonic() - killed_at < 5
    for job in queued:
        assert system.ended(job, 60)["status"] == "completed"
    thread.join(30)
    assert text_of(seen) == "".join(WORDS[:80])
    assert names(seen).count("completed") == 1
    assert system.job(streamed)["attempt"] == 1


def test_killing_the_gateway_loses_no_job(system: System) -> None:
    job = system.submit("slow", max_tokens=60)
    seen, thread = watch(system, job)
    wait_for(lambda: names(seen).count("delta") > 5)
    system.kill("gateway")
    thread.join(30)
    assert text_of(seen) == "".join(WORDS[:60])
    assert names(seen).count("completed") == 1
    assert system.job(job)["attempt"] == 1


def test_restarting_nats_keeps_accepted_jobs(system: System) -> None:
    jobs = [system.submit("single", max_tokens=3) for _ in range(20)]
    streamed = system.submit("slow", max_tokens=80)
    seen, thread = watch(system, streamed)
    wait_for(lambda: names(seen).count("delta") > 3)
    system.kill("nats")
    for job in jobs:
        assert system.ended(job, 60)["status"] == "completed"
    thread.join(60)
    assert text_of(seen) == "".join(WORDS[:80])
    assert system.ended(system.submit("echo"), 30)["status"] == "completed"


@pytest.mark.parametrize("prompt_bytes", [1, 300_000], ids=["short", "beyond what the server reads at once"])
def test_a_client_that_goes_away_stops_the_computation(system: System, prompt_bytes: int) -> None:
    body = {"model": "slow", "prompt": "x" * prompt_bytes, "stream": True, "max_tokens": 100}
    with httpx.stream("POST", f"{system.url}/v1/completions", json=body, timeout=30) as answer:
        next(answer.iter_lines())
        job = answer.headers["x-job-id"]
    gone_at = time.time()
    ended = system.ended(job)
    assert ended["status"] == "cancelled"
    assert ended["finished_at"] - gone_at < 0.25


@pytest.mark.slow
def test_a_unary_client_that_goes_away_cancels_its_job_too(system: System) -> None:
    body = {"model": "slow", "prompt": "x", "max_tokens": 100}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{system.url}/v1/completions", json=body, timeout=0.5)
    gone_at = time.time()
    listed = wait_for(lambda: system.get("/v1/jobs?model=slow&status=cancelled")["jobs"])
    ended = system.job(listed[0]["id"])
    assert ended["finished_at"] - gone_at < 0.3


@pytest.mark.slow
def test_a_submitted_job_outlives_its_watcher(system: System) -> None:
    job = system.submit("slow", max_tokens=10)
    list(events_of(f"{system.url}/v1/jobs/{job}/events", limit=3))
    assert system.ended(job)["status"] == "completed"


def test_a_worker_told_to_stop_finishes_what_it_runs(system: System) -> None:
    job = system.submit("slow", max_tokens=30)
    worker = wait_for(lambda: system.job(job).get("worker"))
    os.kill(system.pid(worker), signal.SIGTERM)
    ended = system.ended(job)
    assert (ended["status"], ended["attempt"], ended["worker"]) == ("completed", 1, worker)


def test_stopping_leaves_no_process_behind(tmp_path: Path) -> None:
    started = System(tmp_path, SYNTHETIC)
    started.wait_ready()
    family = psutil.Process(started.process.pid).children(recursive=True)
    assert len(family) >= 7
    started.stop()
    assert started.process.returncode == 0
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


@pytest.mark.slow
def test_a_killed_parent_takes_its_children_along(tmp_path: Path) -> None:
    started = System(tmp_path, SYNTHETIC)
    started.wait_ready()
    family = psutil.Process(started.process.pid).children(recursive=True)
    started.process.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    started.stop()
