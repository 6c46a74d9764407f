"""`stoker chaos` as people run it: an installation of its own, mixed traffic, faults, and no promise broken."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import DEMO, ROOT, System, wait_for

KEPT = {
    "lost": 0,
    "doubled": 0,
    "wrong": 0,
    "ended by nobody": 0,
    "failed by infrastructure": 0,
    "never ended": 0,
    "refused": 0,
    "silent": 0,
    "crashed": 0,
}


def chaos(*arguments: str, status: int = 0, seconds: float = 300.0) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "stoker", "chaos", "--json", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"said": done.stderr}
    return found


def nothing_is_left() -> bool:
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return not any("stoker-chaos-" in line for line in lines)


@pytest.mark.slow
def test_a_short_run_keeps_every_promise_and_leaves_no_process() -> None:
    report = chaos("--minutes", "0.25", "--seed", "11", "--every", "1.2", "--pace", "0.05")
    assert report["broken"] == KEPT, report["stories"]
    assert sum(report["faults"].values()) > 5
    assert report["jobs_accepted"] > 20
    assert nothing_is_left()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_a_run_that_is_ended_leaves_nothing_paused_and_no_folder(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    config = tmp_path / "stoker.yaml"
    config.write_text("models: {echo: {engine: synthetic}}\nworkers: [{count: 2, engines: [synthetic]}]\n")
    wished = [
        "--config",
        str(config),
        "--faults",
        "pause",
        "--only",
        "scheduler,gateway,worker",
        "--pauses",
        "60",
    ]
    run = subprocess.Popen(
        [sys.executable, "-P", "-m", "stoker", "chaos", *wished, "--every", "0.3"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    started: dict[int, psutil.Process] = {}

    def paused() -> int:
        started.update({one.pid: one for one in psutil.Process(run.pid).children(recursive=True)})
        return sum(one.is_running() and one.status() == psutil.STATUS_STOPPED for one in started.values())

    wait_for(lambda: paused() > 2, 60, "paused processes")
    run.send_signal(number)
    assert run.wait(20) == status
    gone, left = psutil.wait_procs(started.values(), 20)
    assert left == [] and len(gone) > 5
    assert number == signal.SIGKILL or list(tmp_path.glob("stoker-chaos-*")) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--faults", "kill,flood"), "flood is not known; there are kill, stop, pause, cut"),
        (("--only", "king"), "king is not known"),
        (("--attach", "nowhere"), "no `stoker up` runs with --data nowhere"),
        (("--config", str(DEMO / "missing.yaml")), "missing.yaml"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: tuple[str, ...], says: str) -> None:
    assert says in chaos(*arguments, status=2)["said"].replace("\n", " ")


def test_a_configuration_without_text_has_nothing_to_ask(tmp_path: Path) -> None:
    file = tmp_path / "images.yaml"
    file.write_text("models:\n  a: {engine: synthetic, features: [ImageGeneration]}\n")
    assert "there is nothing whose answer is known" in chaos("--config", str(file), status=2)["said"].replace(
        "\n", " "
    )


@pytest.mark.slow
def test_a_running_installation_is_asked_about_twice(synthetic: System) -> None:
    refused = subprocess.run(
        [sys.executable, "-P", "-m", "stoker", "chaos", "--attach", str(synthetic.data), "--url", synthetic.url],
        cwd=ROOT, input="y\nn\n", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert refused.returncode == 1 and "Are you sure" in refused.stdout


@pytest.mark.slow
def test_a_running_installation_is_disturbed_with_its_own_processes(synthetic: System) -> None:
    report = chaos(
        "--attach", str(synthetic.data), "--url", synthetic.url, "--yes", "--minutes", "0.2", "--only", "worker",
        "--faults", "kill", "--every", "3", "--at-once", "4", "--pace", "0.05",
    )  # fmt: skip
    assert report["broken"] == KEPT, report["stories"]
    assert set(report["faults"]) == {"kill worker"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_minute_of_everything_keeps_every_promise(seed: int) -> None:
    report = chaos("--minutes", "1", "--seed", str(seed))
    assert report["broken"] == KEPT, report["stories"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_minute_with_a_real_model_keeps_every_promise(tmp_path: Path) -> None:
    file = tmp_path / "demo.yaml"
    file.write_text(
        f"models:\n  demo-chat: {{engine: llamacpp, url: 'file://{DEMO}/chat.gguf', slots: 4}}\n"
        "workers:\n  - {count: 2, memory: 1GB, engines: [llamacpp]}\n"
    )
    report = chaos("--minutes", "1", "--seed", "4", "--config", str(file), "--every", "3", "--at-once", "4")
    assert report["broken"] == KEPT, report["stories"]
