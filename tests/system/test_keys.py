"""API keys on a running system."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from typer.testing import CliRunner

from stoker.cli.main import app
from tests.conftest import SYNTHETIC, System, free_port, is_ready, wait_for


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder: Path = tmp_path_factory.mktemp("keys")
    found = System(folder, SYNTHETIC, "--require-keys")
    try:
        wait_for(lambda: is_ready(found.url), 60, "a gateway")
        yield found
    finally:
        found.stop()


def keys(system: System, *arguments: str) -> Any:
    """What `stoker keys` prints. In this process: a process for each key takes longer than the test."""
    done = CliRunner().invoke(app, ["keys", *arguments, "--data", str(system.data)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


def client(system: System, *limits: str) -> tuple[httpx.Client, str]:
    made = keys(system, "create", "test", "--json", *limits)
    found = httpx.Client(base_url=system.url, headers={"Authorization": f"Bearer {made['key']}"}, timeout=30)
    wait_for(lambda: found.get("/v1/models").status_code == 200, 10, "the key to be known")
    return found, made["id"]


BODY = {"model": "echo", "input": {"prompt": "x"}}


def test_no_key_and_a_wrong_key_are_401_and_a_good_one_serves_the_openai_client(system: System) -> None:
    for headers in ({}, {"Authorization": "Bearer sk-stoker-wrong"}):
        answer = httpx.get(system.url + "/v1/models", headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert httpx.post(system.url + "/v1/jobs", json=BODY, headers=headers).status_code == 401
    assert httpx.get(system.url + "/health/live").status_code == 200
    secret = keys(system, "create", "openai", "--json")["key"]
    ask = openai.OpenAI(base_url=system.url + "/v1", api_key=secret, max_retries=5)

    def answers() -> Any:
        try:
            return ask.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])
        except openai.AuthenticationError:
            return None

    assert wait_for(answers, 10, "the key").choices[0].message.content
    assert secret not in keys(system, "list")
    cookie = httpx.get(system.url + "/v1/models", headers={"Cookie": f"stoker_key={secret}"})
    assert cookie.status_code == 200


def test_a_job_of_another_key_is_not_there(system: System) -> None:
    one, _ = client(system)
    other, _ = client(system)
    job = one.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "same"}).json()["id"]
    wait_for(lambda: one.get(f"/v1/jobs/{job}").json().get("finished_at"), 20, "its end")
    for path in ("", "/events", "/explain"):
        assert one.get(f"/v1/jobs/{job}{path}").status_code == 200
        assert other.get(f"/v1/jobs/{job}{path}").status_code == 404
    assert other.post(f"/v1/jobs/{job}/cancel").status_code == 404
    assert [found["id"] for found in one.get("/v1/jobs").json()["jobs"]] == [job]
    assert other.get("/v1/jobs").json()["jobs"] == []
    assert other.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "same"}).json()["id"] != job


def test_an_id_that_another_key_has_taken_is_a_conflict(system: System) -> None:
    one, other = client(system)[0], client(system)[0]
    assert one.put("/v1/jobs/order-7", json=BODY).status_code == 202
    for _ in range(2):
        taken = other.put("/v1/jobs/order-7", json=BODY)
        assert (taken.status_code, taken.json()["field"]) == (409, "id"), taken.text
        assert "another key" in taken.json()["detail"] and "location" not in taken.headers
        wait_for(lambda: one.get("/v1/jobs/order-7").json().get("finished_at"), 20, "its end")
    assert other.get("/v1/jobs/order-7").status_code == 404


def test_a_key_that_only_uses_models_does_not_unload_them_for_everybody(system: System) -> None:
    body = {"model": "echo", "prompt": "hi", "stream": False}
    user, _ = client(system)
    assert user.post("/api/generate", json=body).status_code == 200
    asked = user.post("/api/generate", json={"model": "echo", "keep_alive": 0})
    assert (asked.json()["done_reason"], asked.headers["stoker-ignored"]) == ("unload", "keep_alive")
    assert user.post("/api/generate", json=body | {"keep_alive": 0}).headers["stoker-ignored"] == "keep_alive"
    operator, _ = client(system, "--role", "operate")
    told = operator.post("/api/generate", json={"model": "echo", "keep_alive": 0})
    assert told.json()["done_reason"] == "unload" and "stoker-ignored" not in told.headers


def test_quotas_and_allow_lists(system: System) -> None:
    limited, _ = client(system, "--per-minute", "4", "--model", "echo")
    answers = [limited.post("/v1/jobs", json=BODY, headers={"Prefer": "wait=10"}) for _ in range(5)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) > 0
    assert answers[0].headers["x-ratelimit-limit-requests"] == "4"
    listed, _ = client(system, "--model", "echo")
    refused = listed.post("/v1/jobs", json={"model": "slow", "input": {"prompt": "x"}})
    assert (refused.status_code, refused.json()["field"]) == (403, "model")


def test_a_revoked_key_is_refused_at_once(system: System) -> None:
    held, key_id = client(system)
    keys(system, "revoke", key_id)
    wait_for(lambda: held.get("/v1/models").status_code == 401, 10, "the refusal")
    assert held.post("/v1/jobs", json=BODY).status_code == 401


def test_a_light_tenant_is_not_drowned_by_a_heavy_one(system: System) -> None:
    """Two keys, loads 10:1, on a model that runs one job at a time: the light one waits about as if alone."""
    heavy, _ = client(system)
    light, _ = client(system)
    body = {"model": "single", "input": {"prompt": "x", "max_tokens": 1}}

    def submit(one: httpx.Client) -> str:
        job: str = one.post("/v1/jobs", json=body).json()["id"]
        return job

    with ThreadPoolExecutor(8) as pool:
        flood = list(pool.map(lambda _: submit(heavy), range(40)))
        mine = [submit(light) for _ in range(4)]

    def ended(one: httpx.Client, job: str) -> Any:
        return wait_for(lambda: one.get(f"/v1/jobs/{job}").json().get("finished_at"), 60, job)

    last_of_mine = max(ended(light, job) for job in mine)
    behind = sum(ended(heavy, job) > last_of_mine for job in flood)
    assert behind >= 20, f"only {behind} of the heavy tenant's jobs came after the light one's last"


@pytest.mark.slow
def test_a_key_of_four_times_the_weight_is_served_four_times_as_often(system: System) -> None:
    heavy, light = (client(system, "--weight", weight)[0] for weight in ("4", "1"))
    body = {"model": "single", "input": {"prompt": "x", "max_tokens": 1}}
    with ThreadPoolExecutor(8) as pool:
        asked = list(
            pool.map(lambda n: (one := (heavy, light)[n % 2], one.post("/v1/jobs", json=body)), range(80))
        )
    ended: list[tuple[float, bool]] = []
    for one, answer in asked:
        job = answer.json()["id"]
        at = wait_for(lambda one=one, job=job: one.get(f"/v1/jobs/{job}").json().get("finished_at"), 60, job)
        ended.append((at, one is heavy))
    middle = sorted(ended)[10:40]
    assert 20 <= sum(is_heavy for _, is_heavy in middle) <= 27, "of 30 about 24"


SLOW = {"model": "slow", "input": {"prompt": "x"}}


def test_jobs_of_a_key_are_counted_however_and_wherever_they_were_submitted(system: System) -> None:
    limited, _ = client(system, "--concurrency", "2")
    port = free_port()
    second = subprocess.Popen(
        [sys.executable, "-P", "-m", "stoker", "gateway", "--port", str(port), "--require-keys"],
        env={**os.environ, "STOKER_NATS": system.nats},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        other = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=limited.headers, timeout=30)
        wait_for(lambda: is_ready(str(other.base_url)), 30, "a second gateway")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: limited.post("/v1/jobs", json=SLOW), range(30)))
        accepted = [answer.json()["id"] for answer in answers if answer.status_code == 202]
        assert len(accepted) == 2
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        chat = {"model": "slow", "messages": [{"role": "user", "content": "x"}]}
        assert limited.post("/v1/chat/completions", json=chat).status_code == 429
        wait_for(lambda: other.post("/v1/jobs", json=SLOW).status_code == 429, 10, "the refusal elsewhere")
        assert other.post(f"/v1/jobs/{accepted[0]}/cancel").status_code == 202
        wait_for(lambda: other.post("/v1/jobs", json=SLOW).status_code == 202, 10, "room again")
    finally:
        second.terminate()
        second.wait(20)


CHAT: Any = {"model": "echo", "messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize("asked", [{}, {"stream": True}, {"n": 2}, {"stream": True, "n": 2}])
def test_what_is_asked_again_is_no_further_job_of_its_key(system: System, asked: dict[str, Any]) -> None:
    """Neither is it refused at the key's limit, nor does it take the place of another."""
    ask, _ = client(system, "--concurrency", "2")
    named = {"Idempotency-Key": "order"}
    first = ask.post("/v1/chat/completions", json=CHAT | asked, headers=named)
    assert first.status_code == 200, first.text
    for _ in range(2):
        again = ask.post("/v1/chat/completions", json=CHAT | asked, headers=named)
        assert (again.status_code, again.headers["x-job-id"]) == (200, first.headers["x-job-id"]), again.text
    two = [ask.post("/v1/jobs", json=BODY | {"model": "slow"}) for _ in range(2)]
    assert [one.status_code for one in two] == [202, 202], "nothing of the key is under way"
    late = ask.post("/v1/chat/completions", json=CHAT | asked, headers=named)
    assert (late.status_code, late.headers["x-job-id"]) == (200, first.headers["x-job-id"]), late.text
    for one in two:
        ask.post(f"/v1/jobs/{one.json()['id']}/cancel")


def test_a_request_for_more_answers_than_its_key_may_have_takes_none_of_its_places(system: System) -> None:
    ask, _ = client(system, "--concurrency", "2")
    refused = ask.post("/v1/chat/completions", json=CHAT | {"n": 3})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")
    assert "2 jobs at a time" in refused.json()["error"]["message"]
    job = ask.post("/v1/jobs", json=BODY | {"model": "slow"}).json()["id"]
    for _ in range(2):
        assert ask.post("/v1/chat/completions", json=CHAT | {"n": 2}).status_code == 429
    assert ask.post("/v1/chat/completions", json=CHAT).status_code == 200
    ask.post(f"/v1/jobs/{job}/cancel")


def test_a_job_that_is_refused_after_it_was_counted_takes_no_place(system: System) -> None:
    ask, _ = client(system, "--concurrency", "1")
    lost = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/lost.png"}}
    seeing = CHAT | {"messages": [{"role": "user", "content": [lost]}]}
    refused = ask.post("/v1/chat/completions", json=seeing)
    assert refused.status_code == 400, refused.text
    assert ask.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_tokens_and_device_seconds_are_counted_at_the_end(system: System) -> None:
    tokens, _ = client(system, "--tokens-per-minute", "10")
    chat = {"model": "echo", "messages": [{"role": "user", "content": "x"}]}
    first = tokens.post("/v1/chat/completions", json=chat)
    assert (first.status_code, first.headers["x-ratelimit-limit-tokens"]) == (200, "10")
    wait_for(lambda: tokens.post("/v1/chat/completions", json=chat).status_code == 429, 10, "too many tokens")
    devices, _ = client(system, "--device-seconds", "0.2")
    assert devices.post("/v1/completions", json={"model": "single", "prompt": "x"}).status_code == 200
    wait_for(
        lambda: devices.post("/v1/completions", json={"model": "single", "prompt": "x"}).status_code == 429,
        10,
        "a day's use",
    )


def test_a_key_does_what_its_role_allows(system: System) -> None:
    user, _ = client(system, "--model", "echo")
    operator, _ = client(system, "--role", "operate")
    admin, _ = client(system, "--role", "admin")
    job = user.post("/v1/jobs", json=BODY).json()["id"]
    for path in ("/v1/fleet", "/v1/events", "/metrics", "/v1/fleet/stream", "/v1/events/stream", "/api/vram"):
        answer = user.get(path)
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:stoker:role_not_allowed"), path
    for path in ("/v1/fleet", "/v1/events", "/metrics"):
        assert operator.get(path).status_code == admin.get(path).status_code == 200, path
    assert [card["id"] for card in user.get("/v1/models").json()["data"]] == ["echo"]
    assert user.get("/v1/models/slow").status_code == 403
    assert len(operator.get("/v1/models").json()["data"]) == 3
    assert operator.get(f"/v1/jobs/{job}").status_code == 200, "everybody's jobs"
    assert job in [found["id"] for found in operator.get("/v1/jobs").json()["jobs"]]
    assert user.post("/api/modes/reload").status_code == operator.post("/api/modes/reload").status_code == 403
    assert admin.post("/api/modes/reload").status_code != 403
    assert operator.post("/api/modes/switch", json={"mode": "none"}).status_code != 403
    trail = admin.get("/v1/events", params={"kind": "operated"}).json()["events"]
    actions = [(event["subject"], event["reason"]) for event in trail]
    assert any("@" in who and "made the key" in action for who, action in actions)
    assert {action for who, action in actions if "@" not in who} == {
        "POST /api/modes/reload",
        "POST /api/modes/switch",
    }
    wrong = subprocess.run(
        [sys.executable, "-P", "-m", "stoker", "keys", "create", "x", "--role", "king"],
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2 and "use, operate, admin" in wrong.stderr


def test_the_dashboards_cookie_is_out_of_reach_of_scripts(system: System) -> None:
    held, _ = client(system, "--role", "operate")
    begun = held.post("/dashboard/session")
    assert begun.status_code == 204
    cookie = begun.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    browser = httpx.Client(base_url=system.url, cookies={"stoker_key": cookie.split("=", 1)[1].split(";")[0]})
    assert browser.get("/v1/fleet").status_code == 200
    assert httpx.post(system.url + "/dashboard/session").status_code == 401
    assert "Max-Age=0" in browser.delete("/dashboard/session").headers["set-cookie"]
