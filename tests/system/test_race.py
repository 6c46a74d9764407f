"""One model, several specs: the race of document 004 on real workers, from zero and back to zero."""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from stoker.services.autoscaler.launchers.process import REPLICA
from tests.conftest import DEMO, System, wait_for
from tests.fixtures.kubernetes_server import TOKEN as POD_TOKEN
from tests.fixtures.kubernetes_server import KubernetesStub
from tests.fixtures.nomad_server import TOKEN, NomadStub
from tests.fixtures.serving import serving
from tests.system.launched import ask, model_of, replicas_of, specs_of, story_of, wait_up

RACE = """\
resourceProfiles:
  a: {{launcher: process, inventory: 0}}
  b: {{launcher: process, inventory: 2}}
  c: {{launcher: process, inventory: 2}}
---
kind: Model
metadata: {{name: llama}}
spec:
  features: [TextGeneration]
  engine: LlamaCpp
  url: file://{chat}
  options: {{n_ctx: 256}}
  scaleDownDelaySeconds: {delay}
  simultaneousScaleUpGroup: any
specs:
- {{name: a, resourceProfile: "a:1"}}
- {{name: b, resourceProfile: "b:1"}}
- {{name: c, resourceProfile: "c:1"}}
"""


def make_system(folder: Path, delay: float = 4.0) -> System:
    return System(folder, RACE.format(chat=DEMO / "chat.gguf", delay=delay), "--workers", "0")


@pytest.fixture
def race(tmp_path: Path) -> Iterator[System]:
    system = make_system(tmp_path)
    try:
        wait_up(system)
        yield system
    finally:
        system.stop()
        assert replicas_of(system) == []


def test_fifty_requests_at_once_start_a_race_and_lose_nothing(race: System) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda index: ask(race, f"What is a job? {index}"), range(50)))
    assert [answer.status_code for answer in answers] == [200] * 50
    assert {answer.headers["x-stoker-spec"] for answer in answers} <= {"b", "c"}
    assert all(answer.json()["model"] == "llama" for answer in answers)

    wait_for(lambda: ("drained", "c") in story_of(race) or ("drained", "b") in story_of(race), 20, "the end")
    story = story_of(race)
    assert story[:3] == [("launched", "a"), ("launched", "b"), ("launched", "c")]
    assert story[3:5] == [("failed", "a"), ("backoff", "a")]
    order = [kind for kind, spec in story if spec in "bc"]
    assert order.index("ready") < order.index("downscaled") < order.index("drained")
    assert ("kept", "b") in story or ("kept", "c") in story
    condition = specs_of(race)["a"]["condition"]
    assert (condition["reason"], condition["failures"] >= 1) == ("OutOfStock", True)
    assert "0 of 0 units are in use" in condition["message"]

    wait_for(lambda: replicas_of(race) == [], 30, "zero")
    wait_for(lambda: all(not spec["ready"] for spec in specs_of(race).values()), 10, "zero in the fleet")
    assert ask(race).status_code == 200


@pytest.mark.slow
def test_a_waiting_job_hears_of_the_start_and_its_measured_time(race: System) -> None:
    assert ask(race).status_code == 200
    wait_for(lambda: replicas_of(race) == [], 40, "zero")
    wait_for(lambda: all(not spec["ready"] for spec in specs_of(race).values()), 10, "zero in the fleet")
    assert any(spec["start_s"] for spec in specs_of(race).values())
    job = race.submit("llama", "What is a worker?", max_tokens=4)
    heard: list[tuple[str, Any]] = []
    with httpx.stream("GET", f"{race.url}/v1/jobs/{job}/events", timeout=60) as answer:
        event = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: "):
                heard.append((event, httpx.Response(200, content=line.removeprefix("data: ")).json()))
    kinds = [kind for kind, _ in heard]
    assert kinds[-1] == "completed"
    assert kinds.count("completed") == 1
    waiting = [data for kind, data in heard if kind in ("queued", "provisioning")]
    assert any(data.get("eta_s") is not None for data in waiting), heard


def test_the_openai_client_names_the_model_only(race: System) -> None:
    client = openai.OpenAI(base_url=race.url + "/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["llama"]
    stream = client.chat.completions.create(
        model="llama", stream=True, max_tokens=32, messages=[{"role": "user", "content": "What is NATS?"}]
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text.startswith("NATS is the messaging server")


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_killing_the_autoscaler_during_a_race_neither_doubles_nor_orphans(tmp_path: Path) -> None:
    """Twenty kills at random moments while requests come; then exactly the desired replicas run."""
    system = make_system(tmp_path, delay=30.0)
    stop = threading.Event()
    failures: list[str] = []

    def keep_asking() -> None:
        while not stop.is_set():
            answer = ask(system)
            if answer.status_code != 200:
                failures.append(answer.text)

    try:
        wait_up(system)
        askers = [threading.Thread(target=keep_asking) for _ in range(4)]
        for asker in askers:
            asker.start()
        rng = random.Random(4)
        for _ in range(20):
            time.sleep(rng.uniform(0.05, 1.2))  # the moments are random on purpose
            pid = system.pid("autoscaler")
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda dead=pid: system.pid("autoscaler") != dead, 30, "another autoscaler")

        def is_settled() -> bool:
            specs = specs_of(system)
            desired = sum(spec["desired"] for spec in specs.values())
            ready = sum(spec["ready"] for spec in specs.values())
            others = sum(spec["starting"] + spec["draining"] for spec in specs.values())
            running = {process.environ()[REPLICA] for process in replicas_of(system)}
            known = {replica["id"] for replica in model_of(system)["replicas"]}
            return desired == ready == len(running) == 1 and not others and running == known

        wait_for(is_settled, 90, "exactly the desired replicas")
        assert failures == []
    finally:
        stop.set()
        for asker in askers:
            asker.join()
        system.stop()
    assert replicas_of(system) == []


@pytest.mark.slow
def test_a_killed_replica_is_replaced_and_its_requests_move(race: System) -> None:
    assert ask(race).status_code == 200
    stop = threading.Event()
    failed: list[str] = []

    def keep_asking() -> None:
        while not stop.is_set():
            answer = ask(race)
            if answer.status_code != 200:
                failed.append(answer.text)

    asker = threading.Thread(target=keep_asking)
    asker.start()
    try:
        [victim] = wait_for(lambda: replicas_of(race) if len(replicas_of(race)) == 1 else [], 30, "one replica")
        os.killpg(victim.pid, signal.SIGKILL)
        wait_for(lambda: [one for one in replicas_of(race) if one.pid != victim.pid], 40, "another replica")
        wait_for(lambda: ask(race).status_code == 200, 40, "an answer")
    finally:
        stop.set()
        asker.join()
    assert failed == []
    assert ("failed", "b") in story_of(race) or ("failed", "c") in story_of(race)


NOMAD_RACE = """\
resourceProfiles:
  a: {{launcher: nomad, image: worker, gpu: {{count: 1}}}}
  b: {{launcher: nomad, image: worker}}
  c: {{launcher: nomad, image: worker}}
---
kind: Model
metadata: {{name: llama}}
spec: {{engine: LlamaCpp, url: "file://{chat}", options: {{n_ctx: 256}}, simultaneousScaleUpGroup: any,
  scaleDownDelaySeconds: 3}}
specs: [{{name: a, resourceProfile: a}}, {{name: b, resourceProfile: b}}, {{name: c, resourceProfile: c}}]
"""


@pytest.mark.slow
def test_the_race_runs_through_nomad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a server that follows Nomad's API document and runs what a job's task says."""
    stub = NomadStub(gpus=0)
    with serving(stub.app()) as url:
        monkeypatch.setenv("NOMAD_ADDR", url)
        monkeypatch.setenv("NOMAD_TOKEN", TOKEN)
        system = System(tmp_path, NOMAD_RACE.format(chat=DEMO / "chat.gguf"), "--workers", "0")
        try:
            wait_up(system)
            with ThreadPoolExecutor(10) as pool:
                answers = list(pool.map(lambda _: ask(system), range(20)))
            assert [answer.status_code for answer in answers] == [200] * 20
            wait_for(lambda: {"kept", "drained"} <= {kind for kind, _ in story_of(system)}, 20, "the end")
            assert story_of(system)[:3] == [("launched", "a"), ("launched", "b"), ("launched", "c")]
            condition = specs_of(system)["a"]["condition"]
            assert condition["reason"] == "OutOfStock"
            assert "exhausted devices on 1 nodes" in condition["message"]
            wait_for(lambda: not stub.jobs, 30, "no job is left")
        finally:
            system.stop()
            stub.close()


KUBERNETES_TEMPLATES = """\
kind: PodTemplate
metadata: {{name: default}}
template:
  spec:
    containers: [{{name: worker, volumeMounts: [{{name: weights, mountPath: "{folder}"}}]}}]
    volumes: [{{name: weights, hostPath: {{path: "{folder}"}}}}]
"""


@pytest.mark.slow
def test_the_race_runs_through_kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a server that follows the Kubernetes API's document and runs what a Pod's container says."""
    stub = KubernetesStub(gpus=0)
    (tmp_path / "token").write_text(POD_TOKEN)
    (tmp_path / "templates.yaml").write_text(KUBERNETES_TEMPLATES.format(folder=DEMO))
    with serving(stub.app()) as url:
        monkeypatch.setenv("STOKER_KUBERNETES_URL", url)
        monkeypatch.setenv("STOKER_KUBERNETES_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("STOKER_KUBERNETES_TEMPLATES", str(tmp_path / "templates.yaml"))
        text = NOMAD_RACE.format(chat=DEMO / "chat.gguf").replace("nomad", "kubernetes")
        system = System(tmp_path, text, "--workers", "0")
        try:
            wait_up(system)
            with ThreadPoolExecutor(10) as pool:
                answers = list(pool.map(lambda _: ask(system), range(20)))
            assert [answer.status_code for answer in answers] == [200] * 20
            wait_for(lambda: {"kept", "drained"} <= {kind for kind, _ in story_of(system)}, 20, "the end")
            assert story_of(system)[:3] == [("launched", "a"), ("launched", "b"), ("launched", "c")]
            condition = specs_of(system)["a"]["condition"]
            assert condition["reason"] == "OutOfStock"
            assert "1 Insufficient nvidia.com/gpu" in condition["message"]
            wait_for(lambda: not stub.pods, 30, "no Pod is left")
        finally:
            system.stop()
            stub.close()


@pytest.mark.slow
def test_other_settings_replace_the_replicas_without_a_gap(tmp_path: Path) -> None:
    system = make_system(tmp_path, delay=60.0)
    try:
        wait_up(system)
        assert ask(system).status_code == 200
        before = {process.pid for process in replicas_of(system)}
        file = tmp_path / "stoker.yaml"
        file.write_text(file.read_text().replace("n_ctx: 256", "n_ctx: 128"))

        def asked_on() -> bool:
            assert ask(system).status_code == 200
            assert any(spec["ready"] for spec in specs_of(system).values())
            return not before & {process.pid for process in replicas_of(system)}

        wait_for(asked_on, 40, "others")
        assert len(replicas_of(system)) >= 1
    finally:
        system.stop()
