"""Every panel and every alert, asked of a real Prometheus that scrapes a system with load and one failure of each kind.

What is asserted of a panel is that it had something to show, with each label that its legend names; of an alert
that what it compares was there, and that those alerts whose failures were caused here were raised.
"""

import asyncio
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import nats
import pytest

from tests.conftest import System, wait_for
from tests.fixtures.behaviours import BEHAVIOURS
from tests.system.prometheus import Prometheus, prometheus, queries, without_threshold
from tests.system.test_batches import Tenant, line
from tests.system.test_keys import keys

CONFIG = """\
models:
  chat: {engine: synthetic, options: {tokens: 8, token_interval_s: 0.001, memory_bytes: 60000000}, memory: 60MB}
  other: {engine: synthetic, options: {tokens: 8, memory_bytes: 60000000}, memory: 60MB}
  third: {engine: synthetic, options: {tokens: 8, memory_bytes: 60000000}, memory: 60MB}
  single: {engine: synthetic, options: {tokens: 4, token_interval_s: 0.1}, slots: 1}
  draw: {engine: synthetic, features: [ImageGeneration], options: {step_s: 0.01}}
  crash: {engine: synthetic, options: {crash: true}}
  liar: {engine: synthetic, options: {memory_bytes: 900000000}, memory: 20MB}
  huge: {engine: synthetic, memory: 900MB}
workers: [{count: 2, engines: [synthetic, function], memory: 100MB}]
resourceProfiles:
  sold-out: {launcher: process, inventory: 0}
  small: {launcher: process, inventory: 1}
---
kind: Model
metadata: {name: launched}
spec:
  features: [TextGeneration]
  engine: synthetic
  simultaneousScaleUpGroup: any
specs:
- {name: small, resourceProfile: "small:1"}
"""
CONFIG += "".join(f'- {{name: sold-out-{number}, resourceProfile: "sold-out:1"}}\n' for number in range(14))
CHAT = {"messages": [{"role": "user", "content": "x"}]}
ROUNDS = 260
"""Of three models on two workers that each have room for one: so many are evicted again and again."""
CROWD = 220
"""Jobs of 0.4 s for two workers: the last wait longer than half a minute."""


class Caller:
    """Somebody with a key who does what can be done."""

    def __init__(self, system: System, key: str) -> None:
        self.system = system
        self.key = key
        self.api = httpx.Client(base_url=system.url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    def chat(self, model: str, *, stream: bool = False) -> int:
        body = {"model": model, "stream": stream, **CHAT}
        return self.api.post("/v1/chat/completions", json=body).status_code

    def ended(self, job: str, seconds: float = 60.0) -> Any:
        def look() -> Any:
            answer = self.api.get(f"/v1/jobs/{job}")
            return answer.json() if answer.status_code == 200 and answer.json().get("finished_at") else None

        return wait_for(look, seconds, f"the end of {job}")

    def submit(self, model: str, **more: Any) -> str:
        answer = self.api.post("/v1/jobs", json={"model": model, "input": {"prompt": "x"}, **more})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "project").mkdir()
    (folder / "project" / "app.py").write_text(BEHAVIOURS)
    (folder / "project" / "pyproject.toml").write_text('[tool.stoker]\nmodules = ["app"]\n')
    system = System(folder, CONFIG, "--require-keys", "--functions", str(folder / "project"))
    try:
        system.wait_for_gateway()
        found = Caller(system, keys(system, "create", "ops", "--role", "admin", "--json")["key"])
        wait_for(lambda: found.api.get("/v1/models").status_code == 200, 10, "the key to be known")
        wait_for(lambda: len(found.api.get("/v1/fleet").json()["workers"]) == 2, 60, "the workers")
        yield found
    finally:
        system.stop()


@pytest.fixture(scope="module")
def watched(caller: Caller, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scrapes while everything happens that this file is about."""
    target = f"127.0.0.1:{caller.system.port}"
    with prometheus(tmp_path_factory.mktemp("scrapes"), target, caller.key) as found:
        wait_for(lambda: found.series("stoker_build_info"), 30, "a scrape")
        load(caller)
        fail(caller, found)
        load(caller)
        crowd(caller)
        wait_for(lambda: found.raised() >= {"QueueGrows", "JobsWaitLong"}, 90, "jobs that wait long")
        yield found


def load(caller: Caller) -> None:
    """Text, pictures, functions, a batch with its files, a webhook, a schedule, launches; more than a worker holds."""
    assert {caller.chat(model, stream=stream) for model in ("chat", "other") for stream in (False, True)} == {
        200
    }
    drawn = caller.api.post("/v1/images/generations", json={"model": "draw", "prompt": "x"})
    assert drawn.status_code == 200, drawn.text
    said = caller.api.post("/v1/functions/echo", json={"text": "x"})
    assert said.status_code == 200, said.text
    tenant = Tenant(caller.system, caller.key)
    assert tenant.ended(tenant.start([line("a", model="chat"), line("b", model="chat")])).status == "completed"
    schedule = {"name": f"s{time.time_ns()}", "model": "chat", "cron": "0 6 * * *", "input": {"prompt": "x"}}
    assert caller.api.post("/v1/schedules", json=schedule).status_code == 201
    started = caller.api.post(f"/v1/schedules/{schedule['name']}/run")
    assert started.status_code == 202, started.text
    waiting = [caller.submit("single") for _ in range(8)]
    assert caller.chat("launched") == 200
    for job in waiting:
        caller.ended(job)


def crowd(caller: Caller) -> None:
    """More models than there is room for, and more jobs than can be run soon."""
    for number in range(ROUNDS):
        assert caller.chat(("chat", "other", "third")[number % 3]) == 200
    for _ in range(CROWD):
        caller.submit("single")


def fail(caller: Caller, watched: Prometheus) -> None:
    """One failure of each kind."""
    system = caller.system
    assert caller.chat("none") == 404
    assert caller.ended(caller.submit("crash"))["error"]["kind"] == "worker_lost"
    assert caller.chat("crash") >= 500
    caller.ended(caller.submit("liar"))
    for _ in range(10):
        assert caller.api.post("/v1/functions/misbehave", json={"text": "raise"}).status_code == 500
    wait_for(lambda: watched.series('stoker_http_answers_total{status="500"}'), 10, "a scrape of the 500s")
    for _ in range(10):
        assert caller.api.post("/v1/functions/misbehave", json={"text": "raise"}).status_code == 500
    caller.submit("chat", webhook="http://no-such-host.invalid/hook")
    running = caller.submit("single")
    system.kill("worker-1")
    system.kill("scheduler")
    assert caller.ended(running)["status"] == "completed"
    asyncio.run(poison(system))
    for stopped, pause_s in (("gateway", 3.0), ("nats", 2.0), ("nats", 12.0)):
        pid = system.pid(stopped)
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(pause_s)  # so long it is away
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: caller.chat("chat") == 200, 60, f"an answer after {stopped} was away")


async def poison(system: System) -> None:
    """A stored job that cannot be read."""
    connection = await nats.connect(system.nats)
    try:
        await connection.jetstream().publish("stoker.jobs.chat", b"{")
    finally:
        await connection.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_panel_has_something_to_show_with_the_labels_of_its_legend(watched: Prometheus) -> None:
    empty: list[str] = []
    for panel, targets in queries().items():
        for query, legend in targets:
            found = watched.series(query)
            named = set(re.findall(r"{{(\w+)}}", legend))
            if not found or any(not named <= one.keys() for one in found):
                empty.append(f"{panel}: {query} gave {found[:2]}, its legend is {legend}")
    assert empty == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_alert_has_something_to_compare_and_is_raised_by_its_failure(watched: Prometheus) -> None:
    rules = watched.rules()
    assert {rule["health"] for rule in rules} == {"ok"}
    silent = [rule["name"] for rule in rules if not watched.series(without_threshold(rule["query"]))]
    assert silent == []
    assert {rule["name"] for rule in rules} - watched.raised() == set()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_each_service_has_its_own_name_in_the_series(watched: Prometheus) -> None:
    found = {one["service"] for one in watched.series("stoker_process_resident_memory_bytes")}
    assert found >= {"gateway", "scheduler", "autoscaler", "worker-1", "worker-2"}
