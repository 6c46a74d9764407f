"""deploy/compose.yaml on a real Docker Engine: it serves; everything is killed, upgraded and saved while clients
ask; the archive is another installation's start; and nothing is left.
"""

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from stoker.chaos.ledger import Ledger, judge
from stoker.chaos.run import look_at_all
from stoker.chaos.traffic import Prompt, Traffic, learn
from stoker.services.process.tasks import together
from stoker.sse import ENDS
from tests.conftest import wait_for
from tests.fixtures.compose_stack import IMAGES, SERVICES, Stack, local_wheels
from tests.fixtures.dialects import QUESTIONS, Survey
from tests.fixtures.docker_engine import base_image, docker, docker_engine
from tests.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
CLIENTS, ASKERS = 12, 3
LEAST_JOBS = 400
"""That clients have named, before the backup is made."""
UPGRADED = "next"
CLIENT = httpx.Client(timeout=30)
PROMPTS = [
    Prompt("demo-chat", sentence, 24, seed, is_chat)
    for seed, sentence in enumerate(("What is NATS?", "What is a worker?", "Why?"), 1)
    for is_chat in (False, True)
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An engine that has the images of this checkout, under two tags."""
    folder = tmp_path_factory.mktemp("engine")
    with docker_engine(folder), local_wheels():
        base_image(folder)
        Stack("stokerbuild").compose("build")
        for image in IMAGES:
            docker("tag", f"{image}:latest", f"{image}:{UPGRADED}")
        yield


def ask(url: str) -> str:
    body = {"model": "demo-chat", "stream": True, "messages": [{"role": "user", "content": "What is NATS?"}]}
    with httpx.stream("POST", url + "/v1/chat/completions", json=body, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        return "".join(answer.iter_lines())


def draw(url: str) -> bytes:
    body = {"model": "demo-image", "prompt": "red seven", "response_format": "b64_json"}
    answer = httpx.post(url + "/v1/images/generations", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


@dataclass(frozen=True, slots=True)
class Load:
    """What clients were told. accepted: jobs that were acknowledged before the archive was begun."""

    ledger: Ledger
    survey: Survey
    accepted: tuple[str, ...]
    archive: bytes


def disturb(stack: Stack) -> None:
    """Kill each container once, then recreate all of them from the new images."""
    for service in SERVICES:
        began = time.time()
        stack.kill(service)
        stack.wait_ready()
        if name := {"worker": "worker-1", "image-worker": "image-worker-1"}.get(service):
            wait_for(lambda: stack.workers().get(name, 0.0) > began, 60, f"the next life of {name}")  # noqa: B023  # called in this turn
        print(f"killed {service}: ready again after {time.time() - began:.1f} s")
    began = time.time()
    stack.env["STOKER_TAG"] = UPGRADED
    stack.compose("up", "-d", "--force-recreate")
    wait_for(lambda: min(stack.workers().values(), default=0.0) > began, 120, "new workers")
    stack.wait_ready()
    print(f"upgraded in {time.time() - began:.1f} s")


async def under_load(stack: Stack) -> Load:
    """Clients of every kind, while everything is killed, upgraded, and saved."""
    loop = asyncio.get_running_loop()
    ledger = Ledger()
    traffic = Traffic([stack.url], await learn(stack.url, PROMPTS), ledger, 1, loop.time(), pace_s=0.05)
    survey = Survey(stack.url, f"nats://127.0.0.1:{stack.nats_port}", stack.env["CLIENT_PASSWORD"])
    saved: list[bytes] = []
    accepted: list[str] = []

    async def operate() -> None:
        try:
            await asyncio.to_thread(disturb, stack)
            await eventually(lambda: len(named(ledger)) >= LEAST_JOBS, 240, "enough jobs")
            accepted.extend([*named(ledger), *survey.jobs])
            began = time.time()
            saved.append(await asyncio.to_thread(run_init, stack, "backup", "-"))
            print(f"saved {len(saved[0]) / 1e6:.1f} MB in {time.time() - began:.1f} s")
        finally:
            traffic.is_over.set()
            survey.is_over.set()

    askers = [lambda first=first: survey.over_http(first * len(QUESTIONS) // ASKERS) for first in range(ASKERS)]
    await together([operate, lambda: traffic.run(CLIENTS), survey.by_message, *askers])
    await look_at_all(traffic)
    return Load(ledger, survey, tuple(accepted), saved[0])


def named(ledger: Ledger) -> list[str]:
    """The jobs that were accepted under an id that clients know: they can be asked for."""
    return [
        job.id
        for job in ledger.jobs.values()
        if job.accepted_at is not None and not (job.ends and not job.ends[-1].gateway)
    ]


def run_init(stack: Stack, *arguments: str, given: bytes = b"") -> bytes:
    """What the operator's command prints, run in a container of the service `init`."""
    return stack.compose("run", "--rm", "-T", "--no-deps", "init", *arguments, given=given)


def ended(url: str, job: str) -> Any:
    """How a job ended, as soon as it has."""

    def look() -> Any:
        found = CLIENT.get(f"{url}/v1/jobs/{job}")
        assert found.status_code == 200, found.text
        return found.json() if found.json()["status"] in ENDS else None

    return wait_for(look, 120, f"the end of {job}")


def test_it_serves_as_nobody_with_nothing_to_write_to(engine: None) -> None:
    stack = Stack("stokertest")
    try:
        stack.compose("up", "-d")
        stack.wait_ready()
        assert "[DONE]" in ask(stack.url)
        assert draw(stack.url).startswith(b"\x89PNG")
        for service in SERVICES:
            form = "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}"
            assert docker("inspect", "-f", form, stack.container(service)).split() == ["65534:65534", "true"]
    finally:
        stack.down()


def test_nothing_is_lost_or_refused_while_all_is_killed_upgraded_and_saved_and_goes_on_elsewhere(
    engine: None,
) -> None:
    first = Stack("stokertest")
    try:
        first.compose("up", "-d")
        first.wait_ready()
        began = time.time()
        load = asyncio.run(under_load(first))
        broken = [one for one in judge(load.ledger, []) if one.promise != "silent"]
        told = Counter(status for (_, status), count in load.survey.answered.items() for _ in range(count))
        print(
            f"{load.ledger.requests} requests and {sum(told.values())} questions in {time.time() - began:.0f} s,"
            f" {sum(job.accepted_at is not None for job in load.ledger.jobs.values())} and"
            f" {len(load.survey.jobs)} jobs, {len(load.accepted)} before the backup; answered {json.dumps(dict(told))}"
        )
        print(sorted(load.survey.answered.items()))
        assert load.survey.refused == [], load.survey.refused
        assert broken == [], broken
        results = {job: ended(first.url, job) for job in load.survey.jobs}
        assert {one["status"] for one in results.values()} == {"completed"}
    finally:
        first.down()
    second = Stack("stokerelsewhere")
    try:
        second.compose("up", "-d", "nats")
        run_init(second, "restore", "-", given=load.archive)
        second.compose("up", "-d")
        second.wait_ready()
        for job in load.accepted:
            there = ended(second.url, job)
            assert there["status"] == "completed" or load.ledger.job(job).is_cancelled, there
            if job in results:
                assert there["result"] == results[job]["result"]
    finally:
        second.down()
