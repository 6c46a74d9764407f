"""The engine of docs/new-engine.md and the launcher of docs/new-launcher.md, as they stand there."""

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from stoker.functions.output import OutputPart
from stoker.schemas.catalog import ResourceProfile
from stoker.schemas.jobs import ChatInput, CompletionInput
from stoker.schemas.workers import EngineCapability
from stoker.services.worker.engines.base import Cancellation, EngineError, ModelFiles, Request, Stopped
from tests.contract.launcher_conformance import LauncherConformance
from tests.fixtures.documents import blocks_of


def module_of(page: str) -> dict[str, Any]:
    """What the first Python block of a page defines."""
    code = next(block.text for block in blocks_of(page) if block.language == "python")
    names: dict[str, Any] = {"__name__": "how_to"}
    exec(compile(code, page, "exec"), names)
    return names


class Heard:
    def __init__(self) -> None:
        self.pieces: list[str] = []

    def text(self, text: str, tokens: int = 1, *, is_reasoning: bool = False, logprobs: Any = ()) -> None:
        self.pieces.append(text)

    def calls(self, parts: Any, tokens: int) -> None: ...

    def step(self, step: int, steps: int) -> None: ...

    def preview(self, index: int, step: int, width: int, height: int, png: bytes) -> None: ...

    def printed(self, output: OutputPart) -> None: ...

    def drawn(self, kept: int, read: int) -> None: ...


async def test_the_engine_of_the_page_keeps_the_rules(tmp_path: Path) -> None:
    engine = module_of("docs/new-engine.md")["create"](EngineCapability(1, 0, ("TextGeneration",)))
    with pytest.raises(EngineError, match="not there"):
        engine.load(ModelFiles("m", tmp_path / "gone", {}))
    engine.load(ModelFiles("m", tmp_path, {"separator": "-"}))
    heard = Heard()
    output = await engine.run("m", Request("j", CompletionInput("abc"), 0), heard, Cancellation())
    assert (output.text, "".join(heard.pieces)) == ("c-b-a-", "c-b-a-")
    resumed = Heard()
    request = Request("j", CompletionInput("abc"), 0, sent_text="c-")
    assert (await engine.run("m", request, resumed, Cancellation())).text == "c-b-a-"
    assert "".join(resumed.pieces) == "b-a-"
    cancelled = Cancellation()
    cancelled.set()
    with pytest.raises(Stopped):
        await engine.run("m", request, heard, cancelled)
    with pytest.raises(EngineError, match="prompts only"):
        await engine.run("m", Request("j", ChatInput(()), 0), heard, Cancellation())
    engine.unload("m")


SYSTEMD = """\
import json, os, pathlib, signal, subprocess, sys
units = pathlib.Path({folder!r})
def read(unit): return json.loads((units / unit).read_text())
def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{{pid}}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
command, *words = sys.argv[1:]
if command == "systemd-run":
    unit = words.pop(0).removeprefix("--unit=") + ".service"
    env = dict(os.environ)
    while words[0].startswith("--setenv="):
        name, _, value = words.pop(0).removeprefix("--setenv=").partition("=")
        env[name] = value
    words[0:2] = [sys.executable, "-P", "-m", "stoker.services.worker"]
    null = subprocess.DEVNULL
    child = subprocess.Popen(words, env=env, start_new_session=True, stdin=null, stdout=null, stderr=null)
    (units / unit).write_text(json.dumps(child.pid))
elif words[0] == "list-units":
    for path in sorted(units.glob(words[-1])):
        alive = is_alive(read(path.name))
        print(path.name, "loaded", "active running" if alive else "failed failed")
elif words[0] == "stop":
    os.kill(read(words[-1]), signal.SIGTERM)
elif words[0] == "reset-failed":
    if (units / words[-1]).exists() and not is_alive(read(words[-1])):
        (units / words[-1]).unlink()
"""
"""What the launcher of the page uses of systemd, with files for units."""


class TestSshLauncher(LauncherConformance):
    """`ssh` here runs the command on this machine, and systemd is the one above."""

    profile = ResourceProfile("cpu", "static")
    told_s = 3.0  # a shell, and two starts of Python

    @pytest.fixture(autouse=True)
    def _fixtures(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        units = tmp_path / "units"
        units.mkdir()
        systemd = tmp_path / "systemd.py"
        systemd.write_text(SYSTEMD.format(folder=str(units)))
        ssh = tmp_path / "ssh"
        ssh.write_text(
            f'#!/bin/sh\nshift\neval "set -- $*"\nexec {shlex.quote(sys.executable)} {systemd} "$@"\n'
        )
        ssh.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("STOKER_SSH_HOST", "gpu-1")
        launcher = module_of("docs/new-launcher.md")["SshLauncher"]
        self.make = lambda: launcher("test")

        async def end(replica: str) -> None:
            pid = int((units / f"stoker-test-{replica}.service").read_text())
            psutil.Process(pid).send_signal(signal.SIGKILL)

        self.end = end
