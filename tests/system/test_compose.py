"""deploy/compose.yaml on a real Docker Engine: up, a streamed answer, a killed worker, down leaves nothing."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import DEMO, ROOT, free_port, wait_for
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


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    env = {
        f"{user}_PASSWORD": f"pw{user.lower()}"
        for user in ("GATEWAY", "SCHEDULER", "WORKER", "AUTOSCALER", "OPERATOR")
    }
    env |= {"STOKER_PORT": str(port), "STOKER_NATS_PORT": str(free_port()), "STOKER_MODELS": str(DEMO)}
    env |= {"DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "0"}
    with docker_engine(tmp_path):
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


def workers(url: str) -> list[float]:
    """When each worker that is there was started."""
    try:
        return [one["started_at"] for one in httpx.get(url + "/v1/fleet", timeout=5).json()["workers"]]
    except httpx.HTTPError:
        return []


def test_up_serve_lose_a_worker_down(url: str) -> None:
    wait_for(lambda: len(workers(url)) == 1, 120, "a worker")
    assert "[DONE]" in ask(url)
    [before] = workers(url)
    worker = docker("ps", "-q", "--filter", "label=com.docker.compose.service=worker").strip()
    began = time.time()
    docker("kill", worker)
    docker("start", worker)  # `restart: unless-stopped` leaves a container alone that was killed by hand
    wait_for(lambda: any(one > max(before, began) for one in workers(url)), 60, "the worker's next life")
    assert "[DONE]" in ask(url)
    for service in ("gateway", "scheduler", "autoscaler", "nats", "worker"):
        found = docker("ps", "-q", "--filter", f"label=com.docker.compose.service={service}").strip()
        user, read_only = docker(
            "inspect", "-f", "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}", found
        ).split()
        assert (user, read_only) == ("65534:65534", "true")
