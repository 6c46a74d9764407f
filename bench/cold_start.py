"""From zero: request to first token of a llama.cpp spec that is launched as a process, and where the time goes.

python -m bench.cold_start
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import httpx

from bench.arguments import nothing
from bench.system import Running, running

ROUNDS = 5
CHAT = Path(__file__).parent.parent / "examples" / "demo" / "chat.gguf"
CONFIG = f"""\
resourceProfiles:
  cpu: {{launcher: process}}
workers: [{{count: 0}}]
---
kind: Model
metadata: {{name: llama}}
spec: {{engine: LlamaCpp, url: "file://{CHAT}", options: {{n_ctx: 256}}, resourceProfile: cpu,
  scaleDownDelaySeconds: 1}}
"""
STEPS = ("decide", "launch, import, connect", "runner, first heartbeat", "load", "first token")


def one_start(system: Running) -> dict[str, float]:
    """Seconds by step of one start from zero, and in all."""
    url = f"http://127.0.0.1:{system.port}"
    body = {"model": "llama", "stream": True, "messages": [{"role": "user", "content": "What is NATS?"}]}
    asked = time.time()
    with httpx.stream("POST", url + "/v1/chat/completions", json=body, timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: ") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                break
        answered = time.time()
    fleet = httpx.get(url + "/v1/fleet").json()
    replica = fleet["models"][0]["replicas"][0]["id"]
    began = next(worker["started_at"] for worker in fleet["workers"] if worker["worker"] == replica)
    events: list[dict[str, Any]] = httpx.get(url + "/v1/events", params={"limit": 1000}).json()["events"]
    at = {event["kind"]: event["at"] for event in events if event.get("worker") == replica}
    times = [asked, at["launched"], began, at["joined"], at["ready"], answered]
    steps = {step: max(b - a, 0.0) for step, a, b in zip(STEPS, times, times[1:], strict=False)}
    return steps | {"in all": answered - asked}


def wait_for_zero(system: Running) -> None:
    url = f"http://127.0.0.1:{system.port}/v1/fleet"
    while httpx.get(url).json()["models"][0]["replicas"]:
        time.sleep(0.1)


def report() -> list[str]:
    with running(CONFIG) as system:
        found: list[dict[str, float]] = []
        for _ in range(ROUNDS):
            found.append(one_start(system))
            wait_for_zero(system)
    lines = ["| step | median ms | longest ms |", "|---|---|---|"]
    for step in (*STEPS, "in all"):
        times = [1000 * one[step] for one in found]
        lines.append(f"| {step} | {statistics.median(times):.0f} | {max(times):.0f} |")
    return lines


if __name__ == "__main__":
    nothing(__doc__)
    print("\n".join(report()))
