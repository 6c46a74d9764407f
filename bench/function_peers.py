"""An empty function behind Stoker, Ray Serve, BentoML and Celery, one after another in one run: calls a second
and medians at 1 and at 64 callers.

The peers live in an environment of their own, whose Python is given; Celery needs `redis-server` on the PATH,
and is called by its own client in 64 threads, since it has no HTTP door.

    uv venv .venv-peers && uv pip install -p .venv-peers/bin/python 'ray[serve]' bentoml 'celery[redis]'
    python -m bench.function_peers .venv-peers/bin/python
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import uvloop

from bench.arguments import paths
from bench.client import Load, drive
from bench.functions import TRIVIAL
from bench.system import running
from stoker.services.process.embedded import free_port

SECONDS = 5.0
READY_S = 90.0
CALLERS = (1, 64)
BODY = b'{"text": "x"}'
RAY = """\
from ray import serve

@serve.deployment(max_ongoing_requests=256)
class Echo:
    async def __call__(self, request):
        return await request.json()

app = Echo.bind()
"""
BENTO = """\
import bentoml

@bentoml.service(workers=1)
class Echo:
    @bentoml.api
    async def echo(self, text: str) -> dict:
        return {"text": text}
"""
CELERY = """\
import os
from celery import Celery

url = os.environ["REDIS_URL"]
app = Celery("tasks", broker=url, backend=url)

@app.task
def echo(payload):
    return payload
"""
CELERY_CALLS = """\
import json, sys, threading, time
from tasks import echo

callers, seconds = int(sys.argv[1]), float(sys.argv[2])

def call(until, kept):
    while time.perf_counter() < until:
        began = time.perf_counter()
        echo.delay({"text": "x"}).get(timeout=60)
        kept.append(time.perf_counter() - began)

for share in (0.4, 1.0):
    took = []
    began = time.perf_counter()
    threads = [threading.Thread(target=call, args=(began + share * seconds, took)) for _ in range(callers)]
    [one.start() for one in threads]
    [one.join() for one in threads]
print(json.dumps({"seconds": time.perf_counter() - began, "latencies": took}))
"""


@contextlib.contextmanager
def started(command: list[str], folder: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process group of its own, ended with the block."""
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | variables, start_new_session=True,
        stdout=(folder / "log").open("ab"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(port: int, path: str) -> None:
    """Until the path answers 200."""
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.post(f"http://127.0.0.1:{port}{path}", content=BODY, headers=JSON).status_code == 200:
                return
        time.sleep(0.2)
    raise SystemExit(f"nothing answers {path} after {READY_S:g} s")


JSON = {"content-type": "application/json"}


async def over_http(port: int, path: str) -> list[Load]:
    found: list[Load] = []
    for callers in CALLERS:
        await drive(port, path, BODY, callers, SECONDS * 0.4)
        found.append(await drive(port, path, BODY, callers, SECONDS))
    return found


def of_stoker(_python: Path, folder: Path) -> list[Load]:
    (folder / "app.py").write_text(TRIVIAL)
    with running("workers: [{count: 1, engines: [function]}]", functions=folder) as system:
        wait_for(system.port, "/v1/functions/echo")
        return uvloop.run(over_http(system.port, "/v1/functions/echo"))


def of_ray(python: Path, folder: Path) -> list[Load]:
    (folder / "app.py").write_text(RAY)
    port = free_port()
    (folder / "config.yaml").write_text(
        f"http_options: {{host: 127.0.0.1, port: {port}}}\n"
        "applications: [{name: a, import_path: 'app:app'}]\n"
    )
    command = [str(python.parent / "serve"), "run", "config.yaml", "--app-dir", str(folder)]
    with started(command, folder, PATH=f"{python.parent}:{os.environ['PATH']}", RAY_ADDRESS="local"):
        wait_for(port, "/")
        return uvloop.run(over_http(port, "/"))


def of_bento(python: Path, folder: Path) -> list[Load]:
    (folder / "service.py").write_text(BENTO)
    port = free_port()
    command = [
        str(python),
        "-m",
        "bentoml",
        "serve",
        "service:Echo",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with started(command, folder, BENTOML_DO_NOT_TRACK="True"):
        wait_for(port, "/echo")
        return uvloop.run(over_http(port, "/echo"))


def of_celery(python: Path, folder: Path) -> list[Load]:
    redis = shutil.which("redis-server")
    if redis is None:
        raise SystemExit("redis-server is not on the PATH")
    (folder / "tasks.py").write_text(CELERY)
    (folder / "calls.py").write_text(CELERY_CALLS)
    port = free_port()
    url = {"REDIS_URL": f"redis://127.0.0.1:{port}/0"}
    worker = [str(python), "-m", "celery", "-A", "tasks", "worker", "-P", "solo", "-l", "warning"]
    found: list[Load] = []
    with started([redis, "--port", str(port), "--save", ""], folder), started(worker, folder, **url):
        for callers in CALLERS:
            command = [str(python), "calls.py", str(callers), str(SECONDS)]
            done = subprocess.run(
                command,
                cwd=folder,
                env=os.environ | url,
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )
            told = json.loads(done.stdout)
            found.append(Load(seconds=told["seconds"], latencies=told["latencies"]))
    return found


PEERS: dict[str, Callable[[Path, Path], list[Load]]] = {
    "Stoker (durable)": of_stoker,
    "Ray Serve": of_ray,
    "BentoML": of_bento,
    "Celery on Redis": of_celery,
}


def report(python: Path) -> list[str]:
    rows = [
        "| empty function | 1 caller, median ms | calls/s | 64 callers, median ms | calls/s |",
        "|---|---|---|---|---|",
    ]
    for name, measure in PEERS.items():
        with tempfile.TemporaryDirectory() as folder:
            alone, many = measure(python, Path(folder))
        rows.append(
            f"| {name} | {alone.percentile_ms(0.5):.2f} | {alone.per_second:,.0f} "
            f"| {many.percentile_ms(0.5):.2f} | {many.per_second:,.0f} |"
        )
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    print("\n".join(report(*paths(__doc__, 1, 1))))
