"""deploy/compose.yaml on a real Docker Engine: up, a streamed answer and an image, a killed worker, down leaves
nothing. Wheels that pip finds on this machine (the CPU build of torch) go into the images."""

import base64
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import DEMO, ROOT, free_port, is_ready, wait_for
from tests.fixtures.docker_engine import docker, docker_engine, worker_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
PROJECT = "stokertest"


def compose(*arguments: str, env: dict[str, str]) -> None:
    command = ["docker-compose", "-p", PROJECT, "-f", str(ROOT / "deploy" / "compose.yaml"), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1200, env={**os.environ, **env}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]


def containers() -> list[str]:
    return docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}").split()


@contextmanager
def local_wheels() -> Iterator[None]:
    found = [
        path for folder in os.environ.get("PIP_FIND_LINKS", "").split() for path in Path(folder).glob("*.whl")
    ]
    copies = [Path(shutil.copy(path, ROOT / "deploy" / "wheels")) for path in found]
    try:
        yield
    finally:
        for copy in copies:
            copy.unlink()


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    env = {
        f"{user}_PASSWORD": f"pw{user.lower()}"
        for user in ("GATEWAY", "SCHEDULER", "WORKER", "AUTOSCALER", "CLIENT", "OPERATOR")
    }
    env |= {"STOKER_PORT": str(port), "STOKER_NATS_PORT": str(free_port()), "STOKER_MODELS": str(DEMO)}
    env |= {"DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "0", "COMPOSE_PROFILES": "cpu"}
    metered = ("SCHEDULER", "AUTOSCALER", "WORKER", "IMAGE_WORKER")
    env |= {f"{service}_METRICS_PORT": str(free_port()) for service in metered}
    with docker_engine(tmp_path), local_wheels():
        worker_image(tmp_path)  # makes the base image where none can be pulled
        try:
            compose("up", "-d", "--build", env=env)
            yield f"http://127.0.0.1:{port}"
        finally:
            compose("down", "-v", env=env)
        assert containers() == []
        volumes = docker("volume", "ls", "-q", "--filter", f"label=com.docker.compose.project={PROJECT}")
        assert volumes.split() == []


def ask(url: str) -> str:
    body = {"model": "demo-chat", "stream": True, "messages": [{"role": "user", "content": "What is NATS?"}]}
    with httpx.stream("POST", url + "/v1/chat/completions", json=body, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        return "".join(answer.iter_lines())


def draw(url: str) -> bytes:
    body = {"model": "demo-image", "prompt": "red seven", "response_format": "b64_json"}
    answer = httpx.post(url + "/v1/images/generations", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def workers(url: str) -> dict[str, float]:
    """When each worker that is there was started."""
    try:
        found = httpx.get(url + "/v1/fleet", timeout=5).json()["workers"]
    except httpx.HTTPError:
        return {}
    return {one["worker"]: one["started_at"] for one in found}


def test_up_serve_lose_a_worker_down(url: str) -> None:
    wait_for(lambda: len(workers(url)) == 2, 120, "both workers")
    wait_for(lambda: is_ready(url), 30, "a gateway that has read its models")
    assert "[DONE]" in ask(url)
    assert draw(url).startswith(b"\x89PNG")
    worker = docker("ps", "-q", "--filter", "label=com.docker.compose.service=worker").strip()
    began = time.time()
    os.kill(
        int(docker("inspect", "-f", "{{.State.Pid}}", worker)), signal.SIGKILL
    )  # not `docker kill`: that is meant
    wait_for(lambda: workers(url).get("worker-1", 0.0) > began, 60, "the worker's next life")
    assert "[DONE]" in ask(url)
    for service in ("gateway", "scheduler", "autoscaler", "nats", "worker", "image-worker"):
        found = docker("ps", "-q", "--filter", f"label=com.docker.compose.service={service}").strip()
        user, read_only = docker(
            "inspect", "-f", "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}", found
        ).split()
        assert (user, read_only) == ("65534:65534", "true")
