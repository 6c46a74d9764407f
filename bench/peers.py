"""Stoker beside nginx, the Rust routers of sglang and vLLM, and LiteLLM: the same mock upstream, one run.

The peers: `nginx` on the PATH, and the others in environments of their own, whose folders of commands are
given. What is not there is left out. Stoker is durable and places by cache; the peers keep nothing.

    uv venv .venv-routers && uv pip install -p .venv-routers/bin/python sglang-router vllm-router
    uv venv .venv-litellm && uv pip install -p .venv-litellm/bin/python 'litellm[proxy]'
    python -m bench.peers .venv-routers/bin .venv-litellm/bin
    python -m bench.peers --streams 2000 --interval 0.1 .venv-routers/bin    # streams alone, that many
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import uvloop

from bench.arguments import existing, positive
from bench.client import Load, drive
from bench.function_peers import started
from bench.streams import Streams, measured_at, share
from bench.system import running
from stoker.services.process.embedded import free_port
from stoker.services.process.running import die_with_parent

SECONDS = 5.0
READY_S = 60.0
INTERVAL_S = 0.02
STREAMS = 100
UNARY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()
NGINX = """\
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 512; }}
  server {{ listen 127.0.0.1:{port}; location / {{
    proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }}
}}
"""
LITELLM = """\
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}
litellm_settings: {{telemetry: false}}
general_settings: {{dangerously_permit_weak_or_unset_master_key: true}}
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """Where one listens, and its processes' CPU seconds."""

    port: int
    cpu_s: Callable[[], float]


Starting = Callable[[Path, int], AbstractContextManager[Peer]]
"""Given a folder and the upstream's port."""


def cpu_of(pid: int) -> float:
    """Of a process and its children."""
    own = psutil.Process(pid)
    return sum(sum(one.cpu_times()[:2]) for one in [own, *own.children(recursive=True)])


def wait_for(port: int) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        try:
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            answer = httpx.post(url, content=UNARY, headers={"content-type": "application/json"}, timeout=5)
            if answer.status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"nothing answers on port {port} after {READY_S:g} s")


@contextmanager
def command(words: list[str], folder: Path, port: int) -> Iterator[Peer]:
    with started(words, folder) as process:
        wait_for(port)
        yield Peer(port, lambda: cpu_of(process.pid))


@contextmanager
def nginx(folder: Path, upstream: int) -> Iterator[Peer]:
    port = free_port()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, upstream=upstream, port=port))
    with command(["nginx", "-c", str(folder / "nginx.conf")], folder, port) as peer:
        yield peer


def router(path: Path, *first: str) -> Starting:
    @contextmanager
    def run(folder: Path, upstream: int) -> Iterator[Peer]:
        port = free_port()
        words = [str(path), *first, "--host", "127.0.0.1", "--port", str(port)]
        words += ["--worker-urls", f"http://127.0.0.1:{upstream}", "--prometheus-port", str(free_port())]
        with command(words, folder, port) as peer:
            yield peer

    return run


def litellm(path: Path) -> Starting:
    """One process, as everybody else has; its list of prices is not fetched."""

    @contextmanager
    def run(folder: Path, upstream: int) -> Iterator[Peer]:
        port = free_port()
        (folder / "litellm.yaml").write_text(LITELLM.format(upstream=upstream))
        words = [
            "env",
            "LITELLM_LOCAL_MODEL_COST_MAP=True",
            str(path),
            "--config",
            str(folder / "litellm.yaml"),
        ]
        words += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        with command(words, folder, port) as peer:
            yield peer

    return run


@contextmanager
def stoker(folder: Path, upstream: int) -> Iterator[Peer]:
    """`engine: OpenAI` in front of the same server."""
    models = f"models: {{m: {{engine: OpenAI, url: 'http://127.0.0.1:{upstream}/v1', slots: 4096}}}}\n"
    with running(models + "workers: [{count: 1, engines: [openai]}]\n") as system:
        wait_for(system.port)
        yield Peer(system.port, lambda: sum(system.cpu_seconds().values()))


async def unary(peer: Peer, connections: int) -> tuple[Load, float]:
    """A closed loop; CPU milliseconds a request."""
    await drive(peer.port, "/v1/chat/completions", UNARY, connections, 2.0)
    before = peer.cpu_s()
    load = await drive(peer.port, "/v1/chat/completions", UNARY, connections, SECONDS)
    return load, 1000 * (peer.cpu_s() - before) / len(load.latencies)


async def streamed(peer: Peer, streams: int) -> tuple[Streams, float]:
    """CPU microseconds a token."""
    before = 0.0

    def began() -> None:
        nonlocal before
        before = peer.cpu_s()

    seen = await measured_at(peer.port, streams, SECONDS, began=began)
    return seen, 1e6 * (peer.cpu_s() - before) / max(seen.tokens, 1)


def row(name: str, peer: Peer) -> str:
    async def measure() -> list[str]:
        cells: list[str] = []
        for connections in (1, 64):
            load, cpu_ms = await unary(peer, connections)
            cells += [f"{load.per_second:,.0f}", f"{load.percentile_ms(0.5):.2f}", f"{cpu_ms:.3f}"]
            if load.errors:
                cells[-1] += f" ({load.errors} errors)"
        seen, cpu_us = await streamed(peer, STREAMS)
        return [*cells, f"{share(seen.gaps, 0.99):.1f}", f"{share(seen.firsts, 0.5):.1f}", f"{cpu_us:.0f}"]

    return "| " + " | ".join([name, *uvloop.run(measure())]) + " |"


HEAD = [
    "| | 1 connection: requests/s | median ms | CPU ms | 64 connections: requests/s | median ms | CPU ms "
    "| 100 streams: gap p99 ms | first token ms | CPU µs a token |",
    "|---|---|---|---|---|---|---|---|---|---|",
]


def streams_row(name: str, peer: Peer, streams: int) -> str:
    seen, cpu_us = uvloop.run(streamed(peer, streams))
    gaps, firsts = (
        [f"{share(all_of, at):.1f}" for at in (0.5, 0.99)] for all_of in (seen.gaps, seen.firsts_ever)
    )
    cells = [
        f"{seen.tokens / SECONDS:,.0f}",
        " / ".join(gaps),
        " / ".join(firsts),
        f"{cpu_us:.0f}",
        str(seen.errors),
    ]
    return "| " + " | ".join([name, *cells]) + " |"


STREAMS_HEAD = [
    "| | tokens/s | gap ms, median / p99 | first token ms, median / p99 | CPU µs a token | errors |",
    "|---|---|---|---|---|---|",
]


def _found(name: str, folders: Sequence[Path]) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def report(folders: Sequence[Path], streams: int = 0, interval_s: float = INTERVAL_S) -> list[str]:
    """folders: of the peers' commands. streams: so many and nothing else; 0: what HEAD names."""
    candidates: dict[str, Starting] = {}
    if shutil.which("nginx"):
        candidates["nginx"] = nginx
    if (path := _found("sglang-router", folders)) is not None:
        candidates["sglang-router"] = router(path, "launch")
    if (path := _found("vllm-router", folders)) is not None:
        candidates["vllm-router"] = router(path)
    if (path := _found("litellm", folders)) is not None:
        candidates["LiteLLM"] = litellm(path)
    candidates["Stoker"] = stoker
    rows = list(STREAMS_HEAD if streams else HEAD)
    with tempfile.TemporaryDirectory() as folder:
        upstream = free_port()
        mock = [sys.executable, "-m", "bench.mock_upstream", str(upstream), str(interval_s)]
        process = subprocess.Popen(mock, preexec_fn=die_with_parent)
        try:
            wait_for(upstream)
            for name, start in candidates.items():
                own = Path(folder) / name
                own.mkdir()
                with start(own, upstream) as peer:
                    rows.append(streams_row(name, peer, streams) if streams else row(name, peer))
                    print(rows[-1], flush=True)
        finally:
            process.terminate()
            process.wait(10)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=existing)
    parser.add_argument("--streams", type=positive, default=0)
    parser.add_argument("--interval", type=float, default=INTERVAL_S)
    given = parser.parse_args()
    print("\n".join(report(given.folders, given.streams, given.interval)))
