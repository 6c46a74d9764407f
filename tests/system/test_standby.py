"""A cheap standby answers at once while a vLLM starts; then traffic moves; idle, the standby is back first."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stoker.services.worker.engines.registry import VLLM_VARIABLE
from tests.conftest import DEMO, ROOT, System, wait_for
from tests.fixtures.tiny_llama import tiny_llama
from tests.system.launched import replicas_of, specs_of, wait_up

VLLM = ROOT / ".venv-vllm" / "bin" / "vllm"
STANDBY = """\
resourceProfiles:
  cpu: {{launcher: process, inventory: 2}}
  gpu: {{launcher: process, inventory: 1, startTimeoutSeconds: 300}}
---
kind: Model
metadata: {{name: llama}}
spec: {{features: [TextGeneration], waitingCostPerHour: 0}}  # else vLLM is kept as long as its start is worth
specs:
- name: vllm
  engine: VLLM
  url: file://{llama}
  args: [--enforce-eager, --max-model-len=256]
  env: {{VLLM_CPU_KVCACHE_SPACE: "1", VLLM_CPU_OMP_THREADS_BIND: nobind}}
  resourceProfile: gpu:1
  scaleDownDelaySeconds: 8
- name: standby
  engine: LlamaCpp
  url: file://{chat}
  options: {{n_ctx: 256}}
  resourceProfile: cpu:1
  minReplicas: 1
  targetRequests: 0
  scaleDownDelaySeconds: 3
"""


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    monkeypatch.setenv(VLLM_VARIABLE, str(VLLM))
    llama = tiny_llama(tmp_path / "llama")
    config = STANDBY.format(llama=llama, chat=DEMO / "chat.gguf")
    found = System(tmp_path / "system", config, "--workers", "0")
    try:
        wait_up(found)
        yield found
    finally:
        found.stop()
        assert replicas_of(found) == []


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_standby_serves_while_vllm_starts_and_is_back_before_it_goes(system: System) -> None:
    wait_for(lambda: specs_of(system)["standby"]["ready"] == 1, 30, "the standby")
    served: list[str] = []
    failures: list[str] = []
    stop = threading.Event()

    def keep_asking() -> None:
        body = {"model": "llama", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
        with httpx.Client(timeout=60) as client:
            while not stop.wait(0.1):
                answer = client.post(system.url + "/v1/chat/completions", json=body)
                if answer.status_code != 200:
                    failures.append(answer.text)
                served.append(answer.headers.get("x-stoker-spec", ""))

    asker = threading.Thread(target=keep_asking)
    asker.start()
    try:
        wait_for(lambda: served, 10, "a first answer")
        assert served[0] == "standby"
        wait_for(lambda: served[-1] == "vllm", 240, "an answer by vLLM")
        wait_for(lambda: specs_of(system)["standby"]["ready"] == 0, 30, "the standby to go")
    finally:
        stop.set()
        asker.join()
    assert failures == []
    assert set(served) == {"standby", "vllm"}
    moved = served.index("vllm")
    assert set(served[moved + 1 :]) == {"vllm"}

    seen: list[int] = []

    def has_gone() -> bool:
        specs = specs_of(system)
        seen.append(specs["vllm"]["ready"] + specs["standby"]["ready"])
        return bool(specs["vllm"]["ready"] == 0 and specs["standby"]["ready"] == 1)

    wait_for(has_gone, 60, "vLLM to go and the standby to be back")
    assert min(seen) >= 1
    body = {"model": "llama", "max_tokens": 4, "prompt": "hi"}
    assert system.post("/v1/completions", body).headers["x-stoker-spec"] == "standby"
