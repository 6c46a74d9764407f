"""Fixtures: a whole Stoker system on ports and data of its own, run by the real command."""

import contextlib
import functools
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from hypothesis import settings

from stoker.services.process.running import die_with_parent

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "examples" / "demo"
READY_S = 60.0
IDLE_S = 20.0
"""How long what tests have left may take to end or to come back, before the next takes a system of its own."""
SLOW_LIMIT_S = 900
LONGEST_FIRST = ("system", "security", "contract", "tidy", "unit")
"""The folders of tests, by how long their files take."""

SYNTHETIC = """\
models:
  echo: {engine: synthetic, options: {tokens: 8}}
  slow: {engine: synthetic, options: {tokens: 100, token_interval_s: 0.05}, slots: 8}
  single: {engine: synthetic, options: {tokens: 4, token_interval_s: 0.1}, slots: 1}
workers:
  - {count: 2, memory: 512MB, engines: [synthetic]}
"""


os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # of processes that tests start: each would compile everything

# Ctrl-C is ignored in what a shell starts behind `&`, and in all that this starts: tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Whatever `httpx.get` and the like ask, they read all authorities of the system first: 20 to 40 ms of CPU for each
# of the polls of `wait_for`. Tests ask this machine, and those of TLS bring authorities of their own.
httpx._transports.default.create_ssl_context = functools.cache(httpx.create_ssl_context)

# No test of ours is right or wrong by how long an example takes: the machine may be busy.
settings.register_profile("stoker", deadline=None)
settings.load_profile("stoker")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], Any], seconds: float = 15.0, what: str = "") -> Any:
    """The first true value of `condition`; fails the test when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s for {what or condition}")
        time.sleep(0.02)


def is_ready(url: str) -> bool:
    """Whether the gateway there is up and ready."""
    try:
        return httpx.get(url + "/health/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


class System:
    """`stoker up` as a child of the test."""

    def __init__(
        self,
        folder: Path,
        config: str | Path | None,
        *arguments: str,
        cwd: Path | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """before: is called in the new process."""

        def prepared() -> None:
            die_with_parent()
            before()

        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        if isinstance(config, str):
            (folder / "stoker.yaml").write_text(config)
            config = folder / "stoker.yaml"
        self.log = folder / "up.log"
        self._output = self.log.open("wb")
        command = [
            sys.executable,
            "-P",
            "-m",
            "stoker",
            "up",
            "--data",
            str(self.data),
            "--port",
            str(self.port),
        ]
        if config is not None:
            command += ["--config", str(config)]
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            cwd=cwd or folder,
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "250", **environment},
            start_new_session=True,
            preexec_fn=prepared,
        )

    def wait_ready(self) -> None:
        def has_workers() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"stoker up ended:\n{self.log.read_text()[-3000:]}")
            return is_ready(self.url) and len(self.get("/v1/fleet")["workers"]) > 0

        wait_for(has_workers, READY_S, "a ready system")

    def wait_for_gateway(self) -> None:
        """Ready but for workers."""
        wait_for(lambda: is_ready(self.url), READY_S, "a ready gateway")

    @property
    def nats(self) -> str:
        return (self.data / "nats.url").read_text().strip()

    def pid(self, child: str) -> int:
        path = self.data / ("nats/pid" if child == "nats" else f"{child}.pid")

        def read() -> str:
            with contextlib.suppress(FileNotFoundError):  # between two lives
                return path.read_text()
            return ""

        return int(wait_for(read, what=f"the pid of {child}"))

    def kill(self, child: str) -> int:
        """kill -9 one process of the system; its pid."""
        pid = self.pid(child)
        os.kill(pid, signal.SIGKILL)
        return pid

    def get(self, path: str, **options: Any) -> Any:
        return httpx.get(self.url + path, timeout=30, **options).json()

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60, **options)

    def submit(self, model: str, prompt: str = "hello", **options: Any) -> str:
        body = {"model": model, "input": {"prompt": prompt, **options}}
        answer = self.post("/v1/jobs", body)
        assert answer.status_code == 202, answer.text
        job: str = answer.json()["id"]
        return job

    def job(self, job: str) -> Any:
        return self.get(f"/v1/jobs/{job}")

    def ended(self, job: str, seconds: float = 30.0) -> Any:
        """The job when it has ended."""

        def end() -> Any:
            found = self.job(job)
            return found if found.get("finished_at") else None

        return wait_for(end, seconds, f"the end of {job}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._output.close()


def events_of(url: str, headers: dict[str, str] | None = None, limit: int = 10_000) -> Iterator[dict[str, Any]]:
    """The server-sent events of a URL, each as {event, id, data}; closes after `limit`."""
    with httpx.stream("GET", url, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        current: dict[str, Any] = {}
        for line in answer.iter_lines():
            if not line and current:
                current["data"] = json.loads(current["data"])
                yield current
                limit -= 1
                if not limit:
                    return
                current = {}
            elif line and not line.startswith(":"):
                field, _, value = line.partition(": ")
                current[field] = value


@pytest.fixture(autouse=True, scope="session")
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The state and the profiles of whoever runs the tests are left alone, and change nothing in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        for name in ("STOKER_URL", "STOKER_PROFILE", "STOKER_DATA"):
            patch.delenv(name, raising=False)
        yield


class Shared:
    """One system that several tests use after each other, since a start takes 3 s of CPU and more.

    workers: how many it has when nothing has befallen it.
    """

    def __init__(self, folders: pytest.TempPathFactory, config: str, workers: int) -> None:
        self._folders = folders
        self._config = config
        self._workers = workers
        self._system: System | None = None

    def taken(self) -> System:
        """Whole, with nothing under way: another one where the tests before have left it otherwise."""
        if self._system is None or not self._becomes_as_new(self._system):
            self.stop()
            self._system = System(self._folders.mktemp("shared"), self._config)
            self._system.wait_ready()
            assert self._becomes_as_new(self._system)
        return self._system

    def stop(self) -> None:
        if self._system is not None:
            self._system.stop()

    def _becomes_as_new(self, system: System) -> bool:
        """Waits for jobs that were left to end, and for processes that were killed to be there again."""
        deadline = time.monotonic() + IDLE_S
        while system.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError, KeyError):
                workers = system.get("/v1/fleet")["workers"]
                is_idle = not any(worker.get("running") for worker in workers)
                if is_idle and len(workers) == self._workers and is_ready(system.url):
                    return True
            time.sleep(0.02)
        return False


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Starts nothing until somebody takes it."""
    found = Shared(tmp_path_factory, SYNTHETIC, 2)
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def synthetic(shared: Shared) -> System:
    """Two workers with the synthetic engine; files before may have used them."""
    return shared.taken()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The system of `make demo`: real llama.cpp, real diffusers."""
    system = System(tmp_path_factory.mktemp("demo"), DEMO / "stoker.yaml")
    try:
        system.wait_ready()
        yield system
    finally:
        system.stop()


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported stays: a full collection of garbage would go through all of it each time, a second of CPU
    where torch is among it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first: else the last of them runs alone at the end. Those that are slow by themselves must not
    be cut short on a machine that is slow too.
    """
    order = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.relative_to(ROOT / "tests").parts[0], 0))
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_LIMIT_S))
