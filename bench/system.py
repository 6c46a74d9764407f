"""A whole system for measurements, and the CPU seconds and memory of each of its processes."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from stoker.services.process.embedded import free_port
from stoker.services.process.running import die_with_parent

CONFIG = """\
models:
  echo: {engine: synthetic, options: {tokens: 16}}
  stream: {engine: synthetic, options: {tokens: 512}}
workers:
  - {count: 1, engines: [synthetic]}
"""
READY_S = STOPPED_S = 120.0


class Running:
    """A system under measurement."""

    def __init__(self, port: int, data: Path) -> None:
        self.port = port
        self.data = data

    def processes(self) -> dict[str, psutil.Process]:
        """Every process by name; a worker's runners are `<worker>.runner` and `<worker>.runner-2`, …"""
        found = {path.stem: psutil.Process(int(path.read_text())) for path in self.data.glob("*.pid")}
        found["nats"] = psutil.Process(int((self.data / "nats" / "pid").read_text()))
        for name in [name for name in found if name.startswith("worker")]:
            for number, child in enumerate(found[name].children(), start=1):
                found[f"{name}.runner" if number == 1 else f"{name}.runner-{number}"] = child
        return found

    def cpu_seconds(self) -> dict[str, float]:
        return {name: sum(process.cpu_times()[:2]) for name, process in self.processes().items()}

    def open_by_worker(self) -> list[int]:
        """How many jobs run on each worker, the fewest first."""
        workers = httpx.get(f"http://127.0.0.1:{self.port}/v1/fleet", timeout=30).json()["workers"]
        return sorted(len(one.get("running", ())) for one in workers)

    def memory_mb(self) -> dict[str, float]:
        return {name: process.memory_info().rss / 1e6 for name, process in self.processes().items()}


@contextlib.contextmanager
def running(*documents: str, functions: Path | None = None) -> Iterator[Running]:
    """`stoker up` with these configuration documents and a function project, until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = [sys.executable, "-P", "-m", "stoker", "up", "--port", str(port)]
        for index, document in enumerate(documents or (CONFIG,)):
            path = Path(folder) / f"{index}.yaml"
            path.write_text(document)
            command += ["--config", str(path)]
        command += ["--functions", str(functions)] if functions is not None else []
        command += ["--data", folder + "/data", "--log-level", "error"]
        process = subprocess.Popen(command, env=os.environ, preexec_fn=die_with_parent)
        try:
            deadline = time.monotonic() + READY_S
            while time.monotonic() < deadline and process.poll() is None:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=2).status_code == 200:
                        break
                time.sleep(0.05)
            yield Running(port, Path(folder) / "data")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOPPED_S)
