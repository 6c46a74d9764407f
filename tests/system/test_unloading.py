"""A model is taken out of memory when somebody asks for it, and comes back when it is asked."""

import json
import subprocess
import sys
from typing import Any

from tests.conftest import System, wait_for


def in_memory(system: System, model: str) -> list[str]:
    """Workers that have it there."""
    workers = system.get("/v1/fleet")["workers"]
    return [one["worker"] for one in workers if model in one.get("vram_models", [])]


def stoker(system: System, *arguments: str) -> Any:
    command = [sys.executable, "-P", "-m", "stoker", *arguments, "--url", system.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_model_leaves_memory_and_comes_back(synthetic: System) -> None:
    synthetic.ended(synthetic.submit("echo"))
    wait_for(lambda: in_memory(synthetic, "echo"), what="a worker with the model")
    had = in_memory(synthetic, "echo")
    done = stoker(synthetic, "stop", "echo")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(f"{worker}: unloaded" for worker in had)
    wait_for(lambda: not in_memory(synthetic, "echo"), what="nobody with the model")
    assert synthetic.post("/v1/unload", {"model": "echo"}).json() == {"model": "echo", "workers": []}
    assert synthetic.ended(synthetic.submit("echo"))["status"] == "completed"


def test_what_is_running_is_not_cut_off(synthetic: System) -> None:
    job = synthetic.submit("slow", max_tokens=200)
    wait_for(lambda: synthetic.job(job)["status"] == "running", what="a running job")
    wait_for(lambda: in_memory(synthetic, "slow"), what="a worker with the model")
    told = {
        one["worker"]: one.get("reason")
        for one in synthetic.post("/v1/unload", {"model": "slow"}).json()["workers"]
    }
    assert told[synthetic.job(job)["worker"]] == "slow is in use"
    done = stoker(synthetic, "stop", "slow", "--json")
    assert done.returncode == 1
    assert "in use" in json.dumps(json.loads(done.stdout))
    synthetic.post(f"/v1/jobs/{job}/cancel", {})


def test_ollamas_clients_unload_with_keep_alive_zero(synthetic: System) -> None:
    body = {"model": "echo", "prompt": "hi", "stream": False, "keep_alive": "5m"}
    kept = synthetic.post("/api/generate", body)
    assert kept.status_code == 200 and kept.headers["stoker-ignored"] == "keep_alive"
    wait_for(lambda: in_memory(synthetic, "echo"), what="a worker with the model")
    stopped = synthetic.post("/api/generate", {"model": "echo", "keep_alive": 0})  # what `ollama stop` sends
    assert stopped.json()["done_reason"] == "unload" and "stoker-ignored" not in stopped.headers
    wait_for(lambda: not in_memory(synthetic, "echo"), what="nobody with the model")
    for is_streamed in (True, False):
        chat = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "stream": is_streamed}
        assert synthetic.post("/api/chat", chat | {"keep_alive": "0s"}).status_code == 200
        wait_for(lambda: in_memory(synthetic, "echo") == [], what="nobody with the model after the answer")
    assert synthetic.post("/api/chat", {"model": "echo", "keep_alive": 0}).json()["done_reason"] == "unload"


def test_an_unknown_model_is_an_error(synthetic: System) -> None:
    assert synthetic.post("/v1/unload", {"model": "nobody"}).status_code == 404
    assert "nobody" in stoker(synthetic, "stop", "nobody").stderr


def test_what_was_used_is_shown_as_a_table_and_as_csv(synthetic: System) -> None:
    synthetic.ended(synthetic.submit("echo"))
    wait_for(lambda: synthetic.get("/v1/usage")["rows"], 20, "what was used")
    assert "echo" in stoker(synthetic, "usage").stdout
    head, *rows = stoker(synthetic, "usage", "--csv", "--since", "2020-01-01").stdout.splitlines()
    assert head.startswith("day,key,name,model,jobs")
    assert any(",echo," in row for row in rows)
    assert json.loads(stoker(synthetic, "usage", "--json", "--until", "2020-01-01").stdout)["rows"] == []
    wrong = stoker(synthetic, "usage", "--since", "yesterday")
    assert wrong.returncode == 1
    assert "since must be a day" in wrong.stderr
    assert stoker(synthetic, "usage", "--csv", "--json").returncode == 2
