"""stoker bench and the locust file against a running system."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest
from PIL import Image

from stoker.bench.traces import Ask
from tests.conftest import ROOT, System, wait_for


def bench(system: System, *arguments: str, status: int = 0, environment: dict[str, str] | None = None) -> str:
    command = [sys.executable, "-P", "-m", "stoker", "bench", "--url", system.url, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == status, done.stderr + done.stdout
    return done.stdout + done.stderr


def test_a_closed_loop_counts_everything_and_writes_a_report(synthetic: System, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    said = bench(synthetic, "echo", "-n", "60", "--at-once", "6", "--out", str(out))
    assert "first token or preview" in said
    assert Image.open(out.with_suffix(".png")).size[0] > 1000
    page = out.read_text()
    assert "<th>requests</th><td>60</td>" in page
    assert "<th>errors</th><td>none</td>" in page
    assert "data:image/png;base64," in page


@pytest.mark.slow
def test_an_open_loop_asks_again_what_was_written_down(synthetic: System, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    asked = ["echo", "slow", "--rate", "20", "--duration", "2", "--zipf", "2", "--max-tokens", "8", "--json"]
    first = json.loads(bench(synthetic, *asked, "--save-trace", str(trace)))
    again = json.loads(bench(synthetic, "--trace", str(trace), "--json"))
    assert first["requests"] == again["requests"] == len(trace.read_text().splitlines()) > 20
    for found in (first, again):
        assert found["errors"] == {}
        assert sum(found["tiers"].values()) == found["requests"]
        assert found["workers"].keys() <= {"worker-1", "worker-2"}
        assert 0 < found["first"]["p50"] <= found["total"]["p50"]
        assert found["tokens_per_s"] > 0


@pytest.mark.slow
def test_a_profile_has_a_flame_graph_and_the_cpu_of_each_process(synthetic: System, tmp_path: Path) -> None:
    folder = tmp_path / "profile"
    environment = os.environ | {"STOKER_DATA": str(synthetic.data)}
    said = json.loads(
        bench(synthetic, "echo", "-n", "300", "--profile", str(folder), "--json", environment=environment)
    )
    assert said["requests"] == 300 and not said["errors"]
    uses = {use["process"]: use for use in said["processes"]}
    assert {"worker-1", "worker-1.runner"} <= uses.keys()
    for name in ("gateway", "scheduler", "nats"):
        assert uses[name]["cpu_s"] > 0 and uses[name]["switches"] > 0, uses
    for name, use in uses.items():
        if name != "nats":
            assert "<svg" in Path(use["graph"]).read_text(), name
    assert "_work" in (folder / "scheduler.svg").read_text(), "the names of its functions"
    assert "STOKER_DATA" in bench(synthetic, "echo", "--profile", str(folder), status=2)


def test_what_cannot_be_asked_is_said(synthetic: System, tmp_path: Path) -> None:
    assert "nope" in bench(synthetic, "nope", status=1)
    assert "name a model" in bench(synthetic, status=2)
    (tmp_path / "bad.jsonl").write_text("{}\n")
    assert "bad.jsonl:1" in bench(synthetic, "--trace", str(tmp_path / "bad.jsonl"), status=2)


def test_what_is_asked_can_be_recorded(synthetic: System) -> None:
    command = [sys.executable, "-m", "bench.load.record", "--nats", synthetic.nats, "--seconds", "1"]
    recording = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    while recording.poll() is None:
        synthetic.submit("echo", "red seven", max_tokens=7)
    output, _ = recording.communicate(timeout=20)
    asks = [msgspec.json.decode(line, type=Ask) for line in output.splitlines()]
    assert asks[0].at == 0.0
    assert {(ask.model, ask.prompt, ask.max_tokens) for ask in asks} == {("echo", "red seven", 7)}


@pytest.mark.slow
@pytest.mark.parametrize("user", ["Chat", "Replay"])
def test_locust_asks_without_failures(synthetic: System, tmp_path: Path, user: str) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(f'{{"at": {i / 20}, "model": "echo", "max_tokens": 4}}\n' for i in range(40)))
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "bench/load/locustfile.py"), "--headless"]
    command += [
        "--host",
        synthetic.url,
        "--users",
        "4" if user == "Chat" else "1",
        "--run-time",
        "4s",
        "--json",
    ]
    command += ["--chat-model", "echo", "--trace", str(trace), "--only-summary", user]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert found.keys() >= {"chat", "chat: first token"}
    assert found["chat"]["num_requests"] >= 10
    assert found["chat"]["num_failures"] == 0


def test_a_benchmark_says_what_is_wrong_with_its_arguments() -> None:
    for module, argument, said in (
        ("open_loop", "x", "invalid whole number from 1 on value: 'x'"),
        ("open_loop", "0", "'0'"),
        ("open_loop", "--no", "--no"),
        ("floor", "5", "unrecognized arguments: 5"),
        ("peers", "/not/there", "/not/there is not there"),
        ("scale", "more", "invalid choice: 'more'"),
    ):
        command = [sys.executable, "-m", f"bench.{module}", argument]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_a_benchmark_that_is_cut_short_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "bench.throughput"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "said").open("wb"),
        start_new_session=True,
    )
    started: dict[int, psutil.Process] = {}

    def children() -> int:
        started.update({one.pid: one for one in psutil.Process(run.pid).children(recursive=True)})
        return len(started)

    wait_for(lambda: children() > 3, 30, "a system")
    run.send_signal(signal.SIGINT)
    assert run.wait(20) != 0
    assert psutil.wait_procs(started.values(), 20)[1] == []
    said = (tmp_path / "said").read_text()
    assert said.rstrip().endswith("interrupted") and "Traceback" not in said
