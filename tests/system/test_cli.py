"""The `stoker` command against a running system, as people and scripts use it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, System, free_port


def stoker(*arguments: str, url: str = "", cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "stoker", *arguments, *(["--url", url] if url else [])]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, check=False)


def as_json(*arguments: str, url: str) -> Any:
    done = stoker(*arguments, "--json", url=url)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_models_workers_and_jobs_can_be_read_by_people_and_scripts(synthetic: System) -> None:
    job = synthetic.submit("echo")
    synthetic.ended(job)
    assert {one["name"] for one in as_json("models", url=synthetic.url)} == {"echo", "slow", "single"}
    assert [one["worker"] for one in as_json("workers", url=synthetic.url)] == ["worker-1", "worker-2"]
    assert job in [one["id"] for one in as_json("jobs", "--model", "echo", url=synthetic.url)["jobs"]]
    assert "worker-1" in stoker("workers", url=synthetic.url).stdout
    assert "echo" in stoker("models", url=synthetic.url).stdout
    assert "completed" in stoker("jobs", url=synthetic.url).stdout
    assert "worker-2" in stoker("top", "--seconds", "0.1", url=synthetic.url).stdout


def test_explain_says_why(synthetic: System) -> None:
    job = synthetic.submit("echo")
    synthetic.ended(job)
    told = as_json("explain", job, url=synthetic.url)
    assert told["chosen"] in [candidate["worker"] for candidate in told["candidates"]]
    shown = stoker("explain", job, url=synthetic.url).stdout
    assert told["chosen"] in shown
    assert "because" in shown


def test_cancel_ends_a_job(synthetic: System) -> None:
    job = synthetic.submit("slow", max_tokens=100)
    assert as_json("cancel", job, url=synthetic.url)["status"] == "cancelled"
    assert synthetic.ended(job)["status"] == "cancelled"
    again = stoker("cancel", job, url=synthetic.url)
    assert again.returncode == 1
    assert "ended already" in again.stderr


def test_doctor_names_what_is_missing_and_the_remedy(synthetic: System) -> None:
    findings = {one["what"]: one for one in as_json("doctor", url=synthetic.url)}
    assert findings[f"gateway {synthetic.url}"]["ok"]
    assert findings["nats-server"]["ok"]
    assert findings["configuration"]["ok"]
    assert findings["configuration"]["found"].startswith("revision ")
    nowhere = f"http://127.0.0.1:{free_port()}"
    missing = {one["what"]: one for one in as_json("doctor", url=nowhere)}[f"gateway {nowhere}"]
    assert (missing["ok"], missing["remedy"]) == (False, "start it: stoker up")


def test_without_a_gateway_a_command_says_so() -> None:
    done = stoker("models", url=f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 2
    assert "stoker up" in done.stderr


def test_check_reads_a_configuration(tmp_path: Path) -> None:
    assert "demo-chat" in stoker("check", str(ROOT / "examples" / "demo" / "stoker.yaml")).stdout
    wrong = tmp_path / "stoker.yaml"
    wrong.write_text("models:\n  a: {engin: llamacpp}\n")
    done = stoker("check", str(wrong))
    assert done.returncode == 2
    assert "stoker.yaml:2" in done.stderr.replace("\n", "")
    assert "did you mean 'engine'" in done.stderr.replace("\n", " ")


def test_the_openapi_document_describes_every_body(synthetic: System) -> None:
    document = synthetic.get("/schema/openapi.json")
    for path in ("/v1/chat/completions", "/v1/images/generations", "/v1/jobs"):
        operation = document["paths"][path]["post"]
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schema = document["components"]["schemas"][reference.rsplit("/", 1)[1]]
        assert "model" in schema["properties"]
        assert {"400", "401", "404", "503"} <= operation["responses"].keys()


@pytest.mark.slow
def test_what_a_system_is_asked_can_be_simulated(synthetic: System, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "stoker", "record", "--seconds", "5", "--data", str(synthetic.data)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as recording:
        asked: list[str] = []
        while recording.poll() is None:
            asked.append(synthetic.submit("echo"))
            synthetic.ended(asked[-1])
        told, said = recording.communicate()
    lines = [json.loads(line) for line in told.splitlines()]
    assert 1 <= len(lines) <= len(asked), said
    assert all(line.keys() <= {"at", "model", "units", "tenant", "priority"} for line in lines)
    (tmp_path / "trace.jsonl").write_text(told)
    scenario = tmp_path / "ours.yaml"
    scenario.write_text("name: ours\nworkers: [{}]\nmodels: [{name: echo}]\narrivals: {load: 1}\n")
    done = stoker("simulate", str(scenario), "--trace", str(tmp_path / "trace.jsonl"), "--json")
    [outcome] = json.loads(done.stdout)
    assert (outcome["jobs"], outcome["unfinished"]) == (len(lines), 0)
