"""From a start to the first token of SmolLM2: `stoker up`, and the same weights behind Ray Serve.

    uv venv .venv-ray && uv pip install -p .venv-ray/bin/python 'ray[serve]' xllamacpp
    python -m bench.newcomer .venv-ray/bin/python FILE.gguf

In turn, `ROUNDS` times, on the same machine. Size: of the environment on the disk. With Ray Serve, xllamacpp
is called by a deployment of thirty lines (`RAY_APP`), which a user would have to write.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from bench.arguments import paths
from tests.conftest import free_port

ROUNDS = 3
WAIT_S = 180.0
QUESTION = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
CONFIGURATION = """\
models:
  smollm2: {{engine: llamacpp, url: "file://{weights}", options: {{n_ctx: 2048}}}}
workers:
  - {{count: 1, memory: 2GB, engines: [llamacpp]}}
"""
RAY_APP = """\
import asyncio
import json
import os

import xllamacpp
from ray import serve
from starlette.responses import StreamingResponse


@serve.deployment
class Chat:
    def __init__(self):
        parameters = xllamacpp.CommonParams()
        parameters.model.path = os.environ["WEIGHTS"]
        parameters.n_ctx = 2048
        self.server = xllamacpp.Server(parameters)

    async def __call__(self, request):
        body = await request.json() | {"stream": True}
        loop, said = asyncio.get_running_loop(), asyncio.Queue()

        def tell(part):
            loop.call_soon_threadsafe(said.put_nowait, part)
            return False

        def work():
            try:
                self.server.handle_chat_completions(json.dumps(body), tell)
            finally:
                loop.call_soon_threadsafe(said.put_nowait, None)

        async def lines():
            loop.run_in_executor(None, work)
            while (part := await said.get()) is not None:
                yield (part if isinstance(part, str) else json.dumps(part)) + "\\n"

        return StreamingResponse(lines())


app = Chat.bind()
"""


def megabytes(environment: Path) -> float:
    """What an environment takes."""
    return sum(one.lstat().st_size for one in environment.rglob("*")) / 1e6


def first_token_s(command: list[str], url: str, folder: Path, **environment: str) -> float:
    """Seconds from the start of a server to the first bytes of an answer. Ends the server, and its children."""
    began = time.perf_counter()
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while time.perf_counter() - began < WAIT_S:
            if server.poll() is not None:
                sys.exit(f"{' '.join(command)} ended:\n{(folder / 'log').read_text()[-2000:]}")
            try:
                body = QUESTION | {"model": "smollm2", "stream": True}
                with httpx.stream("POST", url, json=body, timeout=WAIT_S) as answer:
                    if answer.status_code == 200:
                        next(answer.iter_bytes())
                        return time.perf_counter() - began
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        sys.exit(f"{' '.join(command)}: no token in {WAIT_S:g} s")
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def main() -> None:
    python, weights = paths(__doc__, 2, 2)
    print(f"Ray Serve with xllamacpp: {megabytes(python.parent.parent):.0f} MB")
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as made:
            folder, port = Path(made), free_port()
            (folder / "stoker.yaml").write_text(CONFIGURATION.format(weights=weights))
            up = [sys.executable, "-P", "-m", "stoker", "up", "--config", "stoker.yaml", "--port", str(port)]
            ours = first_token_s(up, f"http://127.0.0.1:{port}/v1/chat/completions", folder)
            (folder / "app.py").write_text(RAY_APP)
            serve = [str(python.parent / "serve"), "run", "app:app"]
            theirs = first_token_s(serve, "http://127.0.0.1:8000/", folder, WEIGHTS=str(weights))
        load = os.getloadavg()[0]
        print(f"first token, s: Stoker {ours:.1f}, Ray Serve {theirs:.1f}; load average {load:.1f}", flush=True)


if __name__ == "__main__":
    main()
