"""`Idempotency-Key` on every route that makes jobs: asked again, one job and its answer; another body, a conflict."""

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from stoker.services.worker.engines.synthetic import ONE_PIXEL_PNG
from tests.conftest import System, wait_for

MODELS = """\
models:
  echo: {engine: synthetic, options: {tokens: 8}}
  slow: {engine: synthetic, options: {tokens: 40, token_interval_s: 0.05}}
  draw: {engine: synthetic, features: [ImageGeneration]}
workers:
  - {count: 2, engines: [synthetic, function]}
"""
FUNCTION = """\
import uuid
import msgspec
from stoker import ActionContext, ResourceRequirements, worker_function

class Ask(msgspec.Struct):
    name: str

class Ticket(msgspec.Struct):
    number: str

@worker_function(ResourceRequirements())
def ticket(ctx: ActionContext, payload: Ask) -> Ticket:
    return Ticket(str(uuid.uuid4()))
"""
CHAT: Any = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}]}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/openai/v1/chat/completions", CHAT | {"n": 3}),
    ("/v1/chat/completions", CHAT | {"stream": True}),
    ("/v1/chat/completions", CHAT | {"stream": True, "n": 2}),
    ("/v1/completions", {"model": "echo", "prompt": ["a", "b"]}),
    ("/v1/responses", {"model": "echo", "input": "Hi"}),
    ("/v1/responses", {"model": "echo", "input": "Hi", "stream": True}),
    ("/v1/responses", {"model": "echo", "input": "Hi", "background": True}),
    ("/v1/messages", CHAT | {"max_tokens": 5}),
    ("/api/chat", CHAT | {"stream": False}),
    ("/v1/images/generations", {"model": "draw", "prompt": "a cat", "size": "64x64"}),
    ("/v1/images/generations", {"model": "draw", "prompt": "a cat", "size": "64x64", "stream": True}),
    (
        "/sdapi/v1/txt2img",
        {"prompt": "a cat", "width": 64, "height": 64, "override_settings": {"sd_model_checkpoint": "draw"}},
    ),
    ("/v1/functions/ticket", {"name": "a"}),
]
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("idempotency")
    (folder / "project").mkdir()
    (folder / "project" / "app.py").write_text(FUNCTION)
    found = System(folder, MODELS, "--functions", str(folder / "project"))
    try:
        found.wait_ready()
        yield found
    finally:
        found.stop()


def fresh() -> dict[str, str]:
    return {"Idempotency-Key": f"order {next(NUMBERS)}"}


def jobs(system: System) -> int:
    return len(system.get("/v1/jobs?limit=200")["jobs"])


def said(answer: httpx.Response) -> str:
    """What an answer says, without when it was made."""
    return (
        answer.text
        if answer.headers["content-type"] != "application/json"
        else str({name: value for name, value in dict(answer.json()).items() if name not in TIMES})
    )


TIMES = ("created", "created_at", "total_duration", "load_duration", "eval_duration", "prompt_eval_duration")


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_the_same_key_and_body_give_the_same_jobs_answer(
    system: System, path: str, body: dict[str, Any]
) -> None:
    key = fresh()
    first = system.post(path, body, headers=key)
    assert first.status_code == 200, first.text
    assert "stoker-ignored" not in first.headers
    before = jobs(system)
    again = system.post(path, body, headers=key)
    assert (again.status_code, again.headers["x-job-id"]) == (200, first.headers["x-job-id"])
    assert jobs(system) == before
    if not body.get("stream"):
        assert said(again) == said(first)
    other = system.post(path, body | {"name": "another"}, headers=key)
    assert (other.status_code, jobs(system)) == (409, before), other.text


def test_a_form_is_the_same_whatever_its_boundary(system: System) -> None:
    key = fresh()
    asked: Any = {"data": {"model": "draw", "prompt": "x"}, "files": {"image": ("a.png", ONE_PIXEL_PNG)}}
    url = f"{system.url}/v1/images/edits"
    first, again = (httpx.post(url, headers=key, timeout=30, **asked) for _ in range(2))
    assert first.request.headers["content-type"] != again.request.headers["content-type"]
    assert (first.status_code, again.status_code) == (200, 200), (first.text, again.text)
    assert first.headers["x-job-id"] == again.headers["x-job-id"]
    asked["files"] = {"image": ("a.png", ONE_PIXEL_PNG + b" ")}
    assert httpx.post(url, headers=key, timeout=30, **asked).status_code == 409


def test_who_leaves_and_asks_again_gets_the_stream_of_the_same_job(system: System) -> None:
    key, body = fresh(), CHAT | {"model": "slow", "stream": True}
    url = f"{system.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=key, timeout=30) as left:
        job = left.headers["x-job-id"]
        assert next(line for line in left.iter_lines() if "t0" in line)
    assert system.job(job)["status"] in ("assigned", "running")
    with httpx.stream("POST", url, json=body, headers=key, timeout=30) as again:
        assert again.headers["x-job-id"] == job
        found = again.read().decode()
    assert [f"t{index} " in found for index in (0, 20, 39)] == [True, True, True]
    assert found.endswith("data: [DONE]\n\n")
    assert system.ended(job)["status"] == "completed"


def test_many_at_once_are_one_job(system: System) -> None:
    key, answers = fresh(), list[httpx.Response]()
    before = jobs(system)

    def ask() -> None:
        answers.append(system.post("/v1/chat/completions", CHAT, headers=key))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["x-job-id"] for answer in answers}) == 1
    assert jobs(system) == before + 1


def test_a_job_is_run_again_once_however_often_that_is_asked(system: System) -> None:
    long = {"model": "slow", "input": {"prompt": "x"}}
    jobs_of_it = [system.post("/v1/jobs", long).json()["id"] for _ in range(2)]
    for job in jobs_of_it:
        assert httpx.delete(f"{system.url}/v1/jobs/{job}").status_code == 202
        wait_for(lambda job=job: system.get(f"/v1/jobs/{job}")["status"] == "cancelled", 10, "its end")
    path, other = (f"/v1/jobs/{job}/retry" for job in jobs_of_it)
    key, before = fresh(), jobs(system)
    first = system.post(path, {}, headers=key)
    if first.status_code == 503:
        assert "not kept yet; try again" in first.text and int(first.headers["retry-after"]) > 0
        wait_for(lambda: system.post(path, {}, headers=key).status_code == 202, 10, "it is kept")
    again = [system.post(path, {}, headers=key) for _ in range(3)]
    assert {(one.status_code, one.headers["x-job-id"]) for one in again} == {
        (202, again[0].headers["x-job-id"])
    }
    assert "stoker-ignored" not in again[0].headers
    assert jobs(system) == before + 1
    assert system.post(other, {}, headers=key).status_code == 409
    wait_for(
        lambda: system.get(f"/v1/jobs/{again[0].headers['x-job-id']}")["status"] == "completed", 20, "its end"
    )
    late = system.post(path, {}, headers=key)
    assert (late.json()["id"], late.json()["status"]) == (again[0].json()["id"], "completed")
    assert system.post(path, {}).headers["x-job-id"] != again[0].headers["x-job-id"]
    chained = system.post(f"/v1/jobs/{again[0].json()['id']}/retry", {}, headers=fresh())
    assert chained.status_code == 409 and "has completed; submit it anew" in chained.json()["detail"]


def test_a_key_where_no_job_is_made_is_told_and_one_too_long_refused(system: System) -> None:
    told = system.post("/v1/batches", {}, headers=fresh())
    assert told.headers["stoker-ignored"] == "Idempotency-Key"
    long = system.post("/v1/chat/completions", CHAT, headers={"Idempotency-Key": "k" * 256})
    assert (long.status_code, long.json()["error"]["param"]) == (400, "Idempotency-Key")
