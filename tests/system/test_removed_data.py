"""A data folder that somebody removes while `stoker up` runs on it."""

import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import System, wait_for

CONFIG = "models: {echo: {engine: synthetic}}\nworkers: [{count: 1, memory: 512MB, engines: [synthetic]}]\n"


def removed(folder: Path) -> bool:
    """Whether it is gone. What is written to it meanwhile has to be removed too."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


@pytest.mark.parametrize("how", ["told to stop", pytest.param("its server dies", marks=pytest.mark.slow)])
def test_it_goes_on_and_ends_quickly_with_a_line_of_what_is_lost(tmp_path: Path, how: str) -> None:
    """It ended after two seconds, and that took it four minutes: who waited for its processes was cancelled."""
    system = System(tmp_path, CONFIG)
    try:
        system.wait_ready()
        children = [system.pid(name) for name in ("gateway", "scheduler", "worker-1", "nats")]
        wait_for(lambda: removed(system.data), what="the folder to be gone")
        looks = "has cannot be told"
        wait_for(lambda: system.log.read_text().count(looks) > 2, what="it to look at the folder")
        assert system.process.poll() is None and system.get("/v1/models")["data"]
        began = time.monotonic()
        if how == "told to stop":
            system.process.send_signal(signal.SIGTERM)
        else:
            os.kill(children[-1], signal.SIGKILL)
        status = system.process.wait(30)
        said = system.log.read_text()
        assert time.monotonic() - began < 20
        assert (status, "Traceback" in said) == (0 if how == "told to stop" else 2, False), said[-3000:]
        assert "data was removed: jobs, results, files and keys in it are not saved" in said
        wait_for(lambda: not any(map(psutil.pid_exists, children)), what="no process to be left")
    finally:
        system.stop()
