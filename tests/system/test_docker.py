"""Workers as containers on a real Docker Engine, from the image that deploy/Dockerfile makes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from stoker.schemas.catalog import Gpu, ResourceProfile
from stoker.services.autoscaler.launchers.base import LaunchError, OutOfStock
from stoker.services.autoscaler.launchers.docker import DockerLauncher
from tests.conftest import DEMO, System, wait_for
from tests.contract.launcher_conformance import LauncherConformance, order
from tests.fixtures.docker_engine import docker, docker_engine, worker_image
from tests.fixtures.graphics import driver
from tests.system.launched import ask, story_of, wait_up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

RACE = """\
resourceProfiles:
  a: {{launcher: docker, image: {image}, inventory: 0}}
  b: {{launcher: docker, image: {image}, inventory: 1, memory: 1GB}}
  c: {{launcher: docker, image: {image}, inventory: 1, memory: 1GB}}
---
kind: Model
metadata: {{name: llama}}
spec:
  features: [TextGeneration]
  engine: LlamaCpp
  url: file://{chat}
  options: {{n_ctx: 256}}
  scaleDownDelaySeconds: 5
  simultaneousScaleUpGroup: any
specs:
- {{name: a, resourceProfile: a}}
- {{name: b, resourceProfile: b}}
- {{name: c, resourceProfile: c}}
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("docker")
    with docker_engine(folder):
        yield worker_image(folder)


class TestDockerLauncher(LauncherConformance):
    @pytest.fixture(autouse=True)
    def _fixtures(self, image: str) -> None:
        self.profile = ResourceProfile("cpu", "docker", image=image)
        self.make = lambda: DockerLauncher("test")

        async def end(replica: str) -> None:
            docker("kill", f"stoker-test-{replica}")

        self.end = end

    async def test_a_card_is_asked_for_by_its_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The engine here has no driver for it, and says so: the order itself is one that it understands."""
        driver(tmp_path, monkeypatch, "0, GPU-a, 23034, NVIDIA L4\n")
        launcher = self.make()
        with pytest.raises(OutOfStock, match="could not select device driver"):
            await launcher.launch(order("r-gpu", replace(self.profile, gpu=Gpu(1))))
        with pytest.raises(OutOfStock, match="1 GPUs are free, 2 needed"):
            await launcher.launch(order("r-gpu", replace(self.profile, gpu=Gpu(2))))
        assert await launcher.look() == {}
        await launcher.close()

    async def test_an_image_that_is_not_there_is_said_and_leaves_nothing(self) -> None:
        launcher = self.make()
        with pytest.raises(LaunchError, match=r"[Nn]o such image"):
            await launcher.launch(order("r-20", ResourceProfile("cpu", "docker", image="nowhere/nothing:1")))
        assert await launcher.look() == {}
        await launcher.close()


def containers() -> str:
    return docker("ps", "-aq", "--filter", "label=stoker.cluster").strip()


def test_the_race_runs_in_containers_and_leaves_none(image: str, tmp_path: Path) -> None:
    system = System(tmp_path, RACE.format(image=image, chat=DEMO / "chat.gguf"), "--workers", "0")
    try:
        wait_up(system)
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: ask(system), range(20)))
        assert [answer.status_code for answer in answers] == [200] * 20
        assert {answer.headers["x-stoker-spec"] for answer in answers} <= {"b", "c"}
        wait_for(
            lambda: {"drained", "kept"} <= {kind for kind, _ in story_of(system)}, 60, "the end of the race"
        )
        assert story_of(system)[:5] == [
            ("launched", "a"), ("launched", "b"), ("launched", "c"), ("failed", "a"), ("backoff", "a"),
        ]  # fmt: skip
        wait_for(
            lambda: not docker("ps", "-aq", "--filter", "label=stoker.cluster").strip(), 60, "zero containers"
        )
    finally:
        system.stop()
    assert not containers()
