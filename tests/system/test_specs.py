"""Specs are investments: a standby does not keep the real one from coming up, another name costs no service, and
a client is told when nothing comes up.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DEMO, System, wait_for
from tests.system.launched import ask, replicas_of, specs_of, story_of, wait_up

ONE_SPEC = """\
resourceProfiles:
  cpu: {{launcher: process, inventory: {inventory}}}
---
kind: Model
metadata: {{name: llama}}
spec: {{features: [TextGeneration], engine: LlamaCpp, url: "file://{chat}", options: {{n_ctx: 256}}}}
specs:
- {{name: {name}, resourceProfile: "cpu:1", scaleDownDelaySeconds: 60}}
"""
SLOW_START = """\
#!/bin/sh
sleep 8
exec {python} "$@"
"""
WITH_STANDBY = """\
resourceProfiles:
  slow: {{launcher: process, inventory: 2, interpreter: {interpreter}}}
  stby: {{launcher: process, inventory: 1}}
---
kind: Model
metadata: {{name: llama}}
spec: {{engine: LlamaCpp, url: "file://{chat}", options: {{n_ctx: 256}}, scaleDownDelaySeconds: 6}}
specs:
- {{name: gpu, resourceProfile: "slow:1", targetRequests: 4}}
- {{name: cpu, resourceProfile: "stby:1", targetRequests: 0, minReplicas: 1}}
"""


def one_spec(name: str, inventory: int = 2) -> str:
    return ONE_SPEC.format(name=name, inventory=inventory, chat=DEMO / "chat.gguf")


@pytest.fixture
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    text = request.param
    if text is WITH_STANDBY:
        script = tmp_path / "slow-python"
        script.write_text(SLOW_START.format(python=sys.executable))
        script.chmod(0o755)
        text = text.format(interpreter=script, chat=DEMO / "chat.gguf")
    found = System(tmp_path / "system", text, "--workers", "0")
    try:
        wait_up(found)
        yield found
    finally:
        found.stop()
        assert replicas_of(found) == []


@pytest.mark.slow
@pytest.mark.parametrize("system", [one_spec("first")], indirect=True)
def test_another_name_of_a_spec_costs_no_service(system: System) -> None:
    assert ask(system).status_code == 200
    (system.data.parent / "stoker.yaml").write_text(one_spec("second"))
    served: list[str] = []

    def once() -> bool:
        began = time.monotonic()
        answer = ask(system)
        assert answer.status_code == 200, answer.text
        assert time.monotonic() - began < 3.0, "it waited for a start"
        served.append(answer.headers["x-stoker-spec"])
        return served[-1] == "second"

    wait_for(once, 60, "the replica of the new name")
    assert "first" in served
    wait_for(lambda: len(replicas_of(system)) == 1, 30, "the end of the old one")
    assert ask(system).headers["x-stoker-spec"] == "second"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("system", [WITH_STANDBY], indirect=True)
def test_the_real_spec_comes_up_once_under_light_traffic_though_a_standby_answers(system: System) -> None:
    wait_for(lambda: specs_of(system)["cpu"]["ready"] == 1, 30, "the standby")
    served: list[str] = []
    for _ in range(7):
        began = time.monotonic()
        answer = ask(system)
        assert answer.status_code == 200
        served.append(answer.headers["x-stoker-spec"])
        time.sleep(max(20.0 - (time.monotonic() - began), 0.0))
    story: list[Any] = story_of(system)
    assert story.count(("launched", "gpu")) == 1, story
    assert served[0] == "cpu" and set(served[2:]) == {"gpu"}, served
    assert specs_of(system)["gpu"]["ready"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("system", [one_spec("none", inventory=0)], indirect=True)
def test_a_client_that_waits_for_the_whole_answer_is_told_that_nothing_comes_up(system: System) -> None:
    job = system.submit("llama", "What is a job?", max_tokens=4)
    began = time.monotonic()
    answer = ask(system)
    assert answer.status_code == 503 and 25 < time.monotonic() - began < 60
    assert "OutOfStock" in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after"]) >= 1
    view = system.get(f"/v1/jobs/{job}")
    assert view["status"] == "queued", "a job that nobody waits for waits on"
    assert view["waiting_for"] == "no replica is ready (none: OutOfStock)"
