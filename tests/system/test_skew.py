"""This version and the one before, side by side: each role in either version, and nothing is lost or refused."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from stoker.schemas.catalog import Model, Spec
from stoker.services.bus.connection import open_bus
from stoker.services.catalog import store
from stoker.services.process.embedded import find_binary
from stoker.services.process.settings import BusSettings
from stoker.services.records.installation import install
from tests.conftest import ROOT, free_port, is_ready, wait_for

BEFORE = "84505eb"
"""The version before: its services make the streams themselves, and its jobs have no seals."""
MAKE_STREAMS = """
import asyncio
from stoker.services.bus.connection import open_bus
from stoker.services.bus.streams import declare
from stoker.services.process.settings import BusSettings, read_settings

async def make():
    async with open_bus(read_settings(BusSettings, "test", []), "test") as bus:
        await declare(bus)

asyncio.run(make())
"""
MODELS = [
    Model("echo", ("TextGeneration",), (Spec("default", "synthetic", "", options={"tokens": 8}),)),
    Model(
        "slow",
        ("TextGeneration",),
        (Spec("default", "synthetic", "", options={"tokens": 20, "token_interval_s": 0.05}, slots=8),),
    ),
]
WORDS = "".join(f"t{number} " for number in range(20))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the version before."""
    made = subprocess.run(
        ["git", "archive", BEFORE, "schemas", "services", "stoker"], cwd=ROOT, capture_output=True
    )
    if made.returncode:
        pytest.skip(f"the history does not reach back to {BEFORE}")
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


class Mixed:
    """Services of one installation, each from the sources that it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nats = f"nats://127.0.0.1:{free_port()}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def apply(self, before: Path) -> None:
        """An installation of the version before, upgraded, with the models in its catalog."""
        environment = os.environ | {"PYTHONPATH": str(before), "STOKER_NATS": self.nats}
        script = MAKE_STREAMS.replace("stoker.services", "services")  # as its packages were named then
        subprocess.run([sys.executable, "-P", "-c", script], env=environment, cwd=self.folder, check=True)

        async def publish() -> None:
            async with open_bus(BusSettings(nats=self.nats), "test") as bus:
                await install(bus)
                await store.publish(bus, MODELS)

        asyncio.run(publish())

    def start(self, name: str, sources: Path, module: str, *arguments: str) -> None:
        command = [sys.executable, "-P", "-m", module, "--nats", self.nats, *arguments]
        environment = os.environ | {"PYTHONPATH": str(sources)}
        if not (
            sources / "stoker" / "services"
        ).exists():  # a version in which the services were packages of their own
            command[3] = module.removeprefix("stoker.")
        self.processes[name] = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def gateway(self, name: str, sources: Path) -> str:
        port = free_port()
        self.start(name, sources, "stoker.services.gateway", "--port", str(port))
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: is_ready(url), 30, f"the gateway {name}")
        return url

    def worker(self, name: str, sources: Path) -> None:
        self.start(
            name,
            sources,
            "stoker.services.worker",
            "--name",
            name,
            "--engines",
            "synthetic",
            "--memory",
            "512MB",
        )

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(20)


@contextmanager
def mixed(folder: Path, before: Path) -> Iterator[Mixed]:
    found = Mixed(folder)
    port = found.nats.rsplit(":", 1)[1]
    (folder / "nats.conf").write_text(
        f'listen: "127.0.0.1:{port}"\nmax_payload: 8MB\njetstream {{ store_dir: "{folder}/js" }}\n'
    )
    server = subprocess.Popen([find_binary(), "-c", str(folder / "nats.conf")], stderr=subprocess.DEVNULL)
    try:
        found.apply(before)
        yield found
    finally:
        for process in [*found.processes.values(), server]:
            process.kill()
            process.wait()


def ask(method: str, url: str, **body: object) -> httpx.Response:
    """The answer; what is to be tried again is, as clients do."""

    def answered() -> httpx.Response | None:
        answer = httpx.request(method, url, timeout=20, **body)  # type: ignore[arg-type]
        return None if answer.status_code == 503 and "retry-after" in answer.headers else answer

    found: httpx.Response = wait_for(answered, 30, url)
    return found


def submit(url: str, name: str, model: str = "echo") -> None:
    answer = ask("PUT", f"{url}/v1/jobs/{name}", json={"model": model, "input": {"prompt": "x"}})
    assert answer.status_code in (200, 202), answer.text


def ended(url: str, name: str) -> bool:
    answer = ask("GET", f"{url}/v1/jobs/{name}")
    assert answer.status_code == 200, f"{name}: {answer.status_code} {answer.text}"
    found = answer.json()
    assert found["status"] not in ("failed", "cancelled", "expired"), found
    return bool(found["status"] == "completed")


def chat(url: str) -> str:
    body = {"model": "slow", "messages": [{"role": "user", "content": "x"}]}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    "old", ["gateway", "scheduler", "worker", "all but the gateway", "all but the scheduler"]
)
def test_jobs_end_well_whichever_role_is_of_the_version_before(before: Path, tmp_path: Path, old: str) -> None:
    def sources(role: str) -> Path:
        is_old = old == role or (old.startswith("all but") and not old.endswith(role))
        return before if is_old else ROOT

    with mixed(tmp_path, before) as system:
        system.start("scheduler", sources("scheduler"), "stoker.services.scheduler")
        system.worker("w1", sources("worker"))
        url = system.gateway("gateway", sources("gateway"))
        wait_for(lambda: chat(url) == WORDS, 30)
        for number in range(20):
            submit(url, f"j{number}")
        wait_for(lambda: all(ended(url, f"j{number}") for number in range(20)), 30)
        submit(url, "j0")
        assert ended(url, "j0"), "the same id again is the same job, and it has ended"


def test_a_rolling_update_and_back_loses_nothing_and_every_gateway_finds_every_job(
    before: Path, tmp_path: Path
) -> None:
    with mixed(tmp_path, before) as system:
        system.start("scheduler", before, "stoker.services.scheduler")
        system.worker("w1", before)
        old = system.gateway("old", before)
        wait_for(lambda: chat(old) == WORDS, 30)
        names: list[tuple[str, str]] = []

        def more(url: str) -> None:
            for _ in range(5):
                names.append((url, f"j{len(names)}"))
                submit(url, names[-1][1], "slow")

        more(old)
        new = system.gateway("new", ROOT)
        more(new)
        system.start("scheduler 2", ROOT, "stoker.services.scheduler")
        system.stop("scheduler", signal.SIGKILL)
        more(old)
        more(new)
        system.worker("w2", ROOT)
        system.stop("w1")
        more(old)
        more(new)
        wait_for(lambda: all(ended(url, name) for url, name in names), 60)
        for url, name in names:
            assert ended(old if url == new else new, name), "it is found at the other gateway too"
