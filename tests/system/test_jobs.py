"""Jobs: submit, watch, resume, cancel, idempotency, explain, listing."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.conftest import System, events_of, free_port, is_ready, wait_for

WORDS = [f"t{index} " for index in range(100)]


def names(events: list[dict]) -> list[str]:
    return [event["event"] for event in events]


def text_of(events: list[dict]) -> str:
    return "".join(event["data"]["text"] for event in events if event["event"] == "delta")


def test_events_tell_the_whole_story_in_order(synthetic: System) -> None:
    job = synthetic.submit("slow", max_tokens=5)
    events = list(events_of(f"{synthetic.url}/v1/jobs/{job}/events"))
    order = [name for name in names(events) if name not in ("delta", "loading")]
    assert order[0] == "queued"
    assert order[-3:] == ["assigned", "started", "completed"]
    assert set(order[1:-3]) <= {"queued"}
    assert text_of(events) == "".join(WORDS[:5])
    assert all(event.get("id") for event in events)
    assert events[-1]["data"]["result"]["text"] == "".join(WORDS[:5])


def test_a_late_watcher_of_a_finished_job_sees_everything(synthetic: System) -> None:
    job = synthetic.submit("echo", max_tokens=4)
    synthetic.ended(job)
    events = list(events_of(f"{synthetic.url}/v1/jobs/{job}/events"))
    assert [n for n in names(events) if n != "loading"] == [
        "queued",
        "assigned",
        "started",
        "delta",
        "completed",
    ]
    assert text_of(events) == "".join(WORDS[:4])


def test_a_broken_stream_goes_on_without_gap_or_repeat(synthetic: System) -> None:
    job = synthetic.submit("slow", max_tokens=60)
    url = f"{synthetic.url}/v1/jobs/{job}/events"
    seen: list[dict] = []
    for _ in range(5):
        headers = {"Last-Event-ID": seen[-1]["id"]} if seen else {}
        seen += events_of(url, headers, limit=4)
    seen += events_of(url, {"Last-Event-ID": seen[-1]["id"]})
    assert text_of(seen) == "".join(WORDS[:60])
    assert names(seen).count("started") == 1
    assert names(seen).count("completed") == 1
    assert httpx.get(url, headers={"Last-Event-ID": "end"}).status_code == 204


def test_every_cut_can_be_resumed_after_the_end_too(synthetic: System) -> None:
    job = synthetic.submit("slow", max_tokens=6)
    url = f"{synthetic.url}/v1/jobs/{job}/events"
    whole = list(events_of(url))
    for index, event in enumerate(whole[:-1]):
        rest = list(events_of(url, {"Last-Event-ID": event["id"]}))
        assert text_of(whole[: index + 1]) + text_of(rest) == "".join(WORDS[:6])
        assert names(rest)[-1] == "completed"


def test_a_bad_event_id_is_refused(synthetic: System) -> None:
    job = synthetic.submit("echo")
    answer = httpx.get(f"{synthetic.url}/v1/jobs/{job}/events", headers={"Last-Event-ID": "1.2.x"})
    assert (answer.status_code, answer.json()["field"]) == (400, "Last-Event-ID")


def test_prefer_wait_gives_the_result_or_the_job(synthetic: System) -> None:
    body = {"model": "echo", "input": {"prompt": "x", "max_tokens": 2}}
    done = synthetic.post("/v1/jobs", body, headers={"Prefer": "wait=20"})
    assert (done.status_code, done.json()["status"]) == (200, "completed")
    assert done.json()["result"]["text"] == "t0 t1 "
    body = {"model": "slow", "input": {"prompt": "x", "max_tokens": 100}}
    begun = time.monotonic()
    late = synthetic.post("/v1/jobs", body, headers={"Prefer": "wait=1"})
    assert late.status_code == 202
    assert late.headers["location"] == late.json()["urls"]["self"]
    assert time.monotonic() - begun < 4
    synthetic.post(late.json()["urls"]["cancel"], {})


def test_the_same_key_is_the_same_job_and_another_body_a_conflict(synthetic: System) -> None:
    body = {"model": "echo", "input": {"prompt": "x"}}
    headers = {"Idempotency-Key": f"order-{time.time()}"}
    first = synthetic.post("/v1/jobs", body, headers=headers).json()["id"]
    assert synthetic.post("/v1/jobs", body, headers=headers).json()["id"] == first
    synthetic.ended(first)
    again = synthetic.post("/v1/jobs", body, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, first)
    other = synthetic.post("/v1/jobs", {"model": "echo", "input": {"prompt": "y"}}, headers=headers)
    assert other.status_code == 409


def test_a_chosen_id_is_used_once_even_by_many_at_once(synthetic: System) -> None:
    url = f"{synthetic.url}/v1/jobs/my.job {time.time()}"
    body = {"model": "echo", "input": {"prompt": "x"}}
    answers: list[httpx.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(httpx.put(url, json=body, timeout=30))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {200, 202}
    job = answers[0].json()["id"]
    assert synthetic.ended(job)["attempt"] == 1


def test_a_cancel_ends_a_running_job_and_a_second_one_is_late(synthetic: System) -> None:
    job = synthetic.submit("slow", max_tokens=100)
    wait_for(lambda: synthetic.job(job)["status"] == "running")
    assert synthetic.post(f"/v1/jobs/{job}/cancel", {}).status_code == 202
    assert synthetic.ended(job)["status"] == "cancelled"
    assert synthetic.post(f"/v1/jobs/{job}/cancel", {}).status_code == 409
    assert httpx.delete(f"{synthetic.url}/v1/jobs/nobody", timeout=10).status_code == 404


def test_what_a_cancel_is_told_of_its_job_is_how_it_ends(synthetic: System) -> None:
    """A job may complete while its cancel is on the way: it was told to be cancelled, and completed."""
    told: list[tuple[str, int, object]] = []

    def cancel(number: int) -> None:
        job = synthetic.submit("single", max_tokens=1)
        time.sleep(0.02 * (number % 10))
        answer = synthetic.post(f"/v1/jobs/{job}/cancel", {})
        told.append((job, answer.status_code, answer.json()["status"]))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cancel, range(60)))
    ends = {(status, said, synthetic.ended(job)["status"]) for job, status, said in told}
    assert ends <= {(202, "cancelled", "cancelled"), (409, 409, "completed")}
    assert ends


def test_a_queued_job_is_cancelled_before_it_runs(synthetic: System) -> None:
    blockers = [synthetic.submit("single", max_tokens=30) for _ in range(2)]
    waiting = [synthetic.submit("single", max_tokens=30) for _ in range(3)]
    assert httpx.delete(f"{synthetic.url}/v1/jobs/{waiting[-1]}", timeout=10).status_code == 202
    ended = synthetic.ended(waiting[-1])
    assert (ended["status"], ended.get("attempt", 0)) == ("cancelled", 0)
    for job in blockers + waiting[:-1]:
        synthetic.post(f"/v1/jobs/{job}/cancel", {})


def test_a_job_that_waited_too_long_expires(synthetic: System) -> None:
    blockers = [synthetic.submit("single", max_tokens=40) for _ in range(4)]
    body = {"model": "single", "input": {"prompt": "x"}, "timeout_s": 0.3}
    job = synthetic.post("/v1/jobs", body).json()["id"]
    ended = synthetic.ended(job)
    assert (ended["status"], ended["error"]["kind"]) == ("expired", "timeout")
    for blocker in blockers:
        synthetic.post(f"/v1/jobs/{blocker}/cancel", {})


def test_higher_priority_runs_first(synthetic: System) -> None:
    blockers = [synthetic.submit("single", max_tokens=10) for _ in range(4)]
    low = synthetic.submit("single", max_tokens=1)
    body = {"model": "single", "input": {"prompt": "x", "max_tokens": 1}, "priority": 5}
    high = synthetic.post("/v1/jobs", body).json()["id"]
    ends = {job: synthetic.ended(job)["finished_at"] for job in (low, high)}
    assert ends[high] <= ends[low]
    for blocker in blockers:
        synthetic.ended(blocker)


def test_jobs_are_listed_newest_first_by_pages(synthetic: System) -> None:
    made = [synthetic.submit("echo") for _ in range(5)]
    for job in made:
        synthetic.ended(job)
    wait_for(lambda: synthetic.get("/v1/jobs?model=echo&limit=1")["jobs"][0]["status"] == "completed")
    listed: list[str] = []
    cursor = ""
    while len(listed) < 5:
        page = synthetic.get(f"/v1/jobs?model=echo&limit=2&cursor={cursor}")
        listed += [job["id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
    assert listed[:5] == made[::-1]
    assert synthetic.get("/v1/jobs?limit=0")["status"] == 400


def test_explain_names_every_candidate_and_why(synthetic: System) -> None:
    job = synthetic.submit("echo")
    synthetic.ended(job)
    found = synthetic.get(f"/v1/jobs/{job}/explain")
    assert found["chosen"] in {"worker-1", "worker-2"}
    assert {candidate["worker"] for candidate in found["candidates"]} == {"worker-1", "worker-2"}
    assert found["candidates"][0]["verdict"].startswith("chosen")
    assert all(candidate["verdict"] for candidate in found["candidates"])
    assert httpx.get(f"{synthetic.url}/v1/jobs/nobody/explain").status_code == 404


def test_a_second_gateway_takes_a_stream_over(synthetic: System) -> None:
    import os
    import signal
    import subprocess
    import sys

    port = free_port()
    second = subprocess.Popen(
        [sys.executable, "-P", "-m", "stoker.services.gateway", "--nats", synthetic.nats, "--port", str(port)],
        stderr=subprocess.DEVNULL,
    )
    try:
        other = f"http://127.0.0.1:{port}"

        wait_for(lambda: is_ready(other), 20)
        job = synthetic.submit("slow", max_tokens=60)
        path = f"/v1/jobs/{job}/events"
        seen = list(events_of(synthetic.url + path, limit=8))
        seen += list(events_of(other + path, {"Last-Event-ID": seen[-1]["id"]}, limit=5))
        seen += list(events_of(synthetic.url + path, {"Last-Event-ID": seen[-1]["id"]}))
        assert text_of(seen) == "".join(WORDS[:60])
        assert names(seen).count("started") == 1
    finally:
        os.kill(second.pid, signal.SIGTERM)
        assert second.wait(15) == 0


@pytest.mark.slow
def test_two_models_that_fit_one_each_settle_without_another_load(tmp_path_factory) -> None:
    config = """\
models:
  a: {engine: synthetic, memory: 60MB, options: {memory_bytes: 60000000, load_s: 0.2, token_interval_s: 0.002}}
  b: {engine: synthetic, memory: 60MB, options: {memory_bytes: 60000000, load_s: 0.2, token_interval_s: 0.002}}
workers:
  - {count: 2, memory: 100MB, engines: [synthetic]}
"""
    system = System(tmp_path_factory.mktemp("affinity"), config)
    try:
        system.wait_ready()
        wait_for(lambda: len(system.get("/v1/fleet")["workers"]) == 2)
        for model in "ab":
            system.ended(system.submit(model, max_tokens=2))
        hot = {w["worker"]: w["vram_models"] for w in system.get("/v1/fleet")["workers"]}
        assert sorted(models for [models] in hot.values()) == ["a", "b"]
        workers: dict[str, set[str]] = {"a": set(), "b": set()}
        for index in range(100):
            model = "ab"[index % 2]
            ended = system.ended(system.submit(model, max_tokens=2))
            workers[model].add(ended["worker"])
            assert ended["timings"]["load_s"] < 0.1
        assert len(workers["a"]) == len(workers["b"]) == 1
        assert workers["a"] != workers["b"]
        assert system.log.read_text().count("model.loaded") == 2
        found = system.get(f"/v1/jobs/{ended['id']}/explain")
        assert found["reason"].startswith("hot")
        [loser] = [c for c in found["candidates"] if c["worker"] != found["chosen"]]
        assert "loading" in loser["verdict"] or "room" in loser["verdict"]
    finally:
        system.stop()
