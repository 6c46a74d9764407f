"""Systems whose workers the autoscaler launches: what tests look at."""

import os
from typing import Any

import httpx
import psutil

from stoker.services.autoscaler.launchers.process import REPLICA
from tests.conftest import System, is_ready, wait_for

CLIENT = httpx.Client(timeout=60, limits=httpx.Limits(max_connections=100))


def wait_up(system: System) -> None:
    wait_for(lambda: is_ready(system.url), 60, "a ready gateway")


def replicas_of(system: System) -> list[psutil.Process]:
    """Every launched worker process of this system that lives."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            marks = process.environ()
            mine = marks.get("STOKER_NATS") == (system.data / "nats.url").read_text().strip()
            if mine and marks.get(REPLICA) and os.getsid(process.pid) == process.pid:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def model_of(system: System) -> Any:
    return system.get("/v1/fleet")["models"][0]


def specs_of(system: System) -> dict[str, Any]:
    return {spec["name"]: spec for spec in model_of(system)["specs"]}


def story_of(system: System) -> list[tuple[str, str]]:
    events = system.get("/v1/events", params={"model": "llama", "limit": 1000})["events"]
    return [(event["kind"], event["subject"].partition("/")[2]) for event in events if "/" in event["subject"]]


def ask(system: System, prompt: str = "What is NATS?") -> httpx.Response:
    body = {"model": "llama", "max_tokens": 16, "messages": [{"role": "user", "content": prompt}]}
    return CLIENT.post(system.url + "/v1/chat/completions", json=body)
