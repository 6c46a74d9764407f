"""Workers as processes of this machine."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from stoker.schemas.catalog import Gpu, ResourceProfile
from stoker.services.autoscaler.launchers.base import DEVICES, LaunchError, OutOfStock
from stoker.services.autoscaler.launchers.process import REPLICA, ProcessLauncher
from tests.contract.launcher_conformance import LauncherConformance, order, until
from tests.fixtures.graphics import driver
from tests.waiting import eventually

PROFILE = ResourceProfile("cpu", "process")


def process_of(replica: str) -> psutil.Process:
    for process in psutil.process_iter():
        try:
            if process.environ().get(REPLICA) == replica and os.getsid(process.pid) == process.pid:
                return process
        except (psutil.Error, OSError):
            continue
    raise AssertionError(f"no process of {replica}")


class TestProcessLauncher(LauncherConformance):
    profile = PROFILE

    @pytest.fixture(autouse=True)
    def _fixtures(self, tmp_path: Path) -> None:
        self.make = lambda: ProcessLauncher(f"test-{tmp_path.name}-{os.getpid()}", tmp_path)

        async def end(replica: str) -> None:
            process_of(replica).send_signal(signal.SIGKILL)

        self.end = end

    async def test_each_replica_has_gpus_of_its_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All of them had the first: CUDA counts from 0 in each process."""
        driver(tmp_path, monkeypatch, "0, GPU-a, 23034, NVIDIA L4\n1, GPU-b, 23034, NVIDIA L4\n")
        first, gpu = self.make(), ResourceProfile("gpu", "process", gpu=Gpu(count=1, kind="nvidia-l4"))
        for replica in ("r-1", "r-2"):
            await first.launch(order(replica, gpu))
        given = [process_of(replica).environ()[DEVICES] for replica in ("r-1", "r-2")]
        assert given == ["GPU-a", "GPU-b"]
        later = self.make()
        for launcher in (first, later):
            with pytest.raises(OutOfStock, match="gpu: 0 GPUs of kind nvidia-l4 are free, 1 needed"):
                await launcher.launch(order("r-3", gpu))
        await later.stop("r-1", 0.0)
        await until(later, lambda seen: seen["r-1"].state == "ended")
        await later.launch(order("r-3", gpu))
        assert process_of("r-3").environ()[DEVICES] == "GPU-a"
        for replica in ("r-1", "r-2", "r-3"):
            await later.stop(replica, 0.0)

    async def test_the_reason_of_an_end_is_the_tail_of_its_log(self) -> None:
        launcher = self.make()
        wrong = order("r-6", PROFILE)
        wrong.env["STOKER_GIVE_UP_S"] = "soon"
        await launcher.launch(wrong)
        seen = await until(launcher, lambda seen: seen["r-6"].state == "ended", 60)
        assert "status 2" in seen["r-6"].message
        assert "--give-up-s (STOKER_GIVE_UP_S) must be a number from 0, not 'soon'" in seen["r-6"].message
        assert "Traceback" not in seen["r-6"].message and "File " not in seen["r-6"].message
        await launcher.stop("r-6", 0.0)

    async def test_an_interpreter_that_is_not_there_is_said(self) -> None:
        nowhere = ResourceProfile("cpu", "process", interpreter="/nowhere/python")
        with pytest.raises(LaunchError, match="/nowhere/python: No such file"):
            await self.make().launch(order("r-7", nowhere))

    async def test_one_that_does_not_stop_is_ended_with_its_whole_session(self, tmp_path: Path) -> None:
        stubborn = tmp_path / "python"
        stubborn.write_text("#!/bin/sh\ntrap '' TERM\nsleep 1000 &\nwait\n")
        stubborn.chmod(0o755)
        launcher = self.make()
        await launcher.launch(order("r-8", ResourceProfile("cpu", "process", interpreter=str(stubborn))))
        await until(launcher, lambda seen: seen["r-8"].state == "running")
        process = process_of("r-8")
        children = await eventually(process.children)
        await launcher.stop("r-8", 0.3)
        await until(launcher, lambda seen: seen["r-8"].state == "ended")
        await launcher.stop("r-8", 0.0)
        gone, alive = psutil.wait_procs(children, 5)
        assert gone
        assert not alive
