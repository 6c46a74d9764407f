"""Workers as Nomad jobs, against a server that follows Nomad's API document."""

import signal
from collections.abc import Iterator

import pytest

from stoker.schemas.catalog import Gpu, ResourceProfile
from stoker.services.autoscaler.launchers.base import LaunchError, OutOfStock, Unavailable
from stoker.services.autoscaler.launchers.nomad import NomadLauncher
from tests.contract.launcher_conformance import NOWHERE, LauncherConformance, order
from tests.fixtures.nomad_server import TOKEN, NomadStub
from tests.fixtures.serving import serving

PROFILE = ResourceProfile("cpu", "nomad", cpu=0.5, memory_bytes=256 * 10**6, image="stoker-worker")


class TestNomadLauncher(LauncherConformance):
    profile = PROFILE

    @pytest.fixture(autouse=True)
    def _fixtures(self) -> Iterator[None]:
        self.stub = NomadStub(gpus=1)
        with serving(self.stub.app()) as url:
            self.environment = {"NOMAD_ADDR": url, "NOMAD_TOKEN": TOKEN}
            self.make = lambda: NomadLauncher("test", self.environment)

            async def end(replica: str) -> None:
                self.stub.process(f"stoker-test-{replica}").send_signal(signal.SIGKILL)

            self.end = end
            yield
            self.stub.close()

    async def test_a_job_says_what_the_profile_needs(self) -> None:
        profile = ResourceProfile(
            "gpu", "nomad", 2.0, 4 * 10**9, Gpu(1, "l4"), "image:1", datacenters=("dc2",),
            constraints={"attr.kernel.name": "linux"},
        )  # fmt: skip
        launcher = self.make()
        await launcher.launch(order("r-9", profile, FOO="bar"))
        [job] = self.stub.registered
        task = job["TaskGroups"][0]["Tasks"][0]
        assert job["ID"] == "stoker-test-r-9"
        assert job["Datacenters"] == ["dc2"]
        assert job["Constraints"] == [{"LTarget": "${attr.kernel.name}", "Operand": "=", "RTarget": "linux"}]
        assert task["Config"]["image"] == "image:1"
        assert task["Config"]["args"][:3] == ["-P", "-m", "stoker.services.worker"]
        assert task["Resources"] == {
            "CPU": 2000, "MemoryMB": 4000, "Devices": [{"Name": "nvidia/gpu/l4", "Count": 1}],
        }  # fmt: skip
        assert task["Env"]["FOO"] == "bar"
        assert job["TaskGroups"][0]["RestartPolicy"]["Attempts"] == 0
        await launcher.stop("r-9", 0.0)
        await launcher.close()

    async def test_a_password_in_a_nomad_variable_is_in_no_job(self) -> None:
        launcher = NomadLauncher("test", self.environment | {"STOKER_NOMAD_WORKER_VARIABLE": "nomad/jobs"})
        await launcher.launch(order("r-12", PROFILE, STOKER_NATS_PASSWORD="secret"))
        [job] = self.stub.registered
        [task] = job["TaskGroups"][0]["Tasks"]
        assert "secret" not in str(job)
        assert task["Env"] == {"STOKER_NATS": NOWHERE}
        assert 'with nomadVar "nomad/jobs"' in task["Templates"][0]["EmbeddedTmpl"]
        await self.cleared(launcher)
        await launcher.close()

    async def test_what_cannot_be_placed_is_a_stock_out_and_leaves_no_job(self) -> None:
        launcher = self.make()
        two = ResourceProfile("gpu", "nomad", 1.0, 10**9, Gpu(2), "image:1")
        with pytest.raises(OutOfStock, match="exhausted devices on 1 nodes"):
            await launcher.launch(order("r-10", two))
        assert await launcher.look() == {}
        await launcher.close()

    async def test_a_wrong_token_and_a_silent_server_are_said(self) -> None:
        wrong = NomadLauncher("test", self.environment | {"NOMAD_TOKEN": "wrong"})
        with pytest.raises(LaunchError, match=r"Nomad: Permission denied \(403\)"):
            await wrong.launch(order("r-11", PROFILE))
        with pytest.raises(Unavailable, match="Permission denied"):
            await wrong.look()
        silent = NomadLauncher("test", {"NOMAD_ADDR": "http://127.0.0.1:9"})
        with pytest.raises(Unavailable, match="Nomad does not answer"):
            await silent.look()
