"""The `stoker` command against a running system, as people and scripts use it."""

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, System, free_port, is_ready, wait_for
from tests.fixtures.lost_answers import losing


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


def shell(system: System, line: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """What a shell does with `stoker` in a line."""
    command = f"{shlex.quote(sys.executable)} -P -m stoker"
    environment = os.environ | {"STOKER_URL": system.url} | variables
    return subprocess.run(
        ["bash", "-c", line.replace("stoker", command)],
        capture_output=True, timeout=60, cwd=ROOT, env=environment, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (r"printf 'caf\xe9' | stoker run echo", b"stoker: what was given is no text in UTF-8\n"),
        (r"stoker run echo $'caf\xe9'", b"stoker: what was given is no text in UTF-8\n"),
        (r"printf 'caf\xe9' | stoker chat echo", b"stoker: what was given is no text in UTF-8\n"),
        ("stoker run echo hi > /dev/full", b"stoker: No space left on device\n"),
        ("stoker jobs --json > /dev/full", b"stoker: No space left on device\n"),
        ("stoker models > /dev/full", b"stoker: No space left on device\n"),
        ("stoker check /nowhere/x.yaml", b"/nowhere/x.yaml"),
        ("stoker run echo hi --out x.png", b"echo draws no pictures, so --out says nothing to it"),
        ("stoker run '' hi", b"has no model ''"),
        *((f"stoker {command} ''", b"an id is empty") for command in ("job", "cancel", "logs", "explain")),
        ("stoker cancel ../../x", b"(404)"),
    ],
)
def test_what_cannot_be_read_or_written_is_said_in_a_line(synthetic: System, line: str, said: bytes) -> None:
    done = shell(synthetic, line)
    assert done.returncode in (1, 2) and b"Traceback" not in done.stderr, done.stderr.decode()
    assert said in done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("stoker run echo hi <&-", b"t0 t1"),
        ("stoker run echo hi >&-", b""),
        ("stoker run echo hi 2>&-", b"t0 t1"),
        ("stoker jobs --json <&- 2>&-", b'"jobs"'),
        ("stoker models >&- 2>&-", b""),
    ],
)
def test_a_stream_that_is_closed_is_like_none(synthetic: System, line: str, said: bytes) -> None:
    done = shell(synthetic, line)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode()
    assert said in done.stdout


def test_a_terminal_that_knows_few_signs_is_shown_the_others_as_question_marks(synthetic: System) -> None:
    done = shell(synthetic, "stoker run echo hi; stoker models", PYTHONIOENCODING="ascii", COLUMNS="10")
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode()


def test_an_answer_that_nobody_reads_any_more_is_cancelled(synthetic: System) -> None:
    shell(synthetic, "stoker run slow hi --max-tokens 2000 | head -c 3")
    [job] = as_json("jobs", "--limit", "1", "--model", "slow", url=synthetic.url)["jobs"]
    assert synthetic.ended(job["id"])["status"] == "cancelled"


def asking(url: str) -> subprocess.Popen[bytes]:
    """A command that is told an answer of a hundred seconds."""
    command = [sys.executable, "-P", "-m", "stoker", "run", "slow", "hi", "--max-tokens", "2000", "--url", url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_answer_whose_terminal_is_closed_is_cancelled(synthetic: System, end: signal.Signals) -> None:
    with asking(synthetic.url) as command:
        assert command.stdout is not None and command.stdout.read(2) == b"t0"
        command.send_signal(end)
        assert command.wait(30) == 130
    [job] = as_json("jobs", "--limit", "1", "--model", "slow", url=synthetic.url)["jobs"]
    assert synthetic.ended(job["id"])["status"] == "cancelled"


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_job_whose_id_has_not_come_yet_is_cancelled_too(synthetic: System, end: signal.Signals) -> None:
    """Its command ended, and it ran to its end."""
    with losing(synthetic.port, "silent") as relay, asking(relay.url) as command:
        assert relay.lost.wait(30)
        command.send_signal(end)
        assert command.wait(30) == 130
    [job] = as_json("jobs", "--limit", "1", "--model", "slow", url=synthetic.url)["jobs"]
    assert synthetic.ended(job["id"])["status"] == "cancelled"


def test_a_job_is_cancelled_with_its_command_while_the_gateway_starts_again(synthetic: System) -> None:
    """Its command said that it was cancelled, and it ran to its end."""
    with asking(synthetic.url) as command:
        assert command.stdout is not None and command.stdout.read(2) == b"t0"
        synthetic.kill("gateway")
        wait_for(lambda: not is_ready(synthetic.url), 10, "nobody listens")
        command.send_signal(signal.SIGINT)
        assert command.wait(30) == 130
    synthetic.wait_ready()
    [job] = as_json("jobs", "--limit", "1", "--model", "slow", url=synthetic.url)["jobs"]
    assert synthetic.ended(job["id"])["status"] == "cancelled"


def test_a_command_whose_job_cannot_be_cancelled_says_so(synthetic: System) -> None:
    with ExitStack() as until_ended:
        with losing(synthetic.port, "silent") as relay:
            command = until_ended.enter_context(asking(relay.url))
            assert relay.lost.wait(30)
        command.send_signal(signal.SIGINT)
        assert command.wait(30) == 130
        assert command.stderr is not None and "its job may go on" in command.stderr.read().decode()
    [job] = as_json("jobs", "--limit", "1", "--model", "slow", url=synthetic.url)["jobs"]
    stoker("cancel", job["id"], url=synthetic.url)


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
    assert re.fullmatch(r".+: [\d.]+ GB for models; \d+ processors", findings["device"]["found"])
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert findings["open files"]["found"].startswith(f"{most:,} at most")
    assert findings["open files"]["ok"] == (most >= 4096) != bool(findings["open files"]["remedy"])
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
