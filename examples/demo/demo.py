"""`make demo`: start Stoker with the two small models, show a streamed answer and a drawn image, stay up."""

import argparse
import base64
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

HERE = Path(__file__).parent
PROOF = Path("demo-image.png")
READY_S = 90.0

TRY = """
Now try:

  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "demo-chat", "stream": true,
         "messages": [{{"role": "user", "content": "What happens when a worker dies?"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="none")
  client.images.generate(model="demo-image", prompt="blue three").data[0].b64_json

  .venv/bin/stoker run demo-image "green five" --out five.png --url {url}
  .venv/bin/stoker top --url {url}

API page: {url}/schema          Ctrl-C stops everything.
"""


def wait_ready(url: str, system: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if system.poll() is not None:
            sys.exit("stoker up ended: see the lines above")
        try:
            if httpx.get(url + "/health/ready", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    sys.exit(f"not ready after {READY_S:g} s: see the lines above")


def show_chat(url: str, question: str) -> None:
    print(f"\n\033[1m> {question}\033[0m\n", flush=True)
    body = {"model": "demo-chat", "stream": True, "messages": [{"role": "user", "content": question}]}
    began, first = time.monotonic(), None
    with httpx.stream("POST", url + "/v1/chat/completions", json=body, timeout=60) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            delta = json.loads(line.removeprefix("data: "))["choices"][0]["delta"]
            if delta.get("content"):
                first = first or time.monotonic() - began
                print(delta["content"], end="", flush=True)
                time.sleep(0.02)  # the model is faster than anyone reads
    print(f"\n\n(first token after {(first or 0) * 1000:.0f} ms)", flush=True)


def show_image(url: str, prompt: str) -> None:
    print(f"\n\033[1m> draw: {prompt}\033[0m\n", flush=True)
    body = {"model": "demo-image", "prompt": prompt, "stream": True, "partial_images": 3, "seed": 7}
    with httpx.stream("POST", url + "/v1/images/generations", json=body, timeout=120) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            event = json.loads(line.removeprefix("data: "))
            if event["type"].endswith("partial_image"):
                print(f"  preview {event['partial_image_index'] + 1} arrived", flush=True)
            else:
                PROOF.write_bytes(base64.b64decode(event["b64_json"]))
                print(f"  the picture is in {PROOF}", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, default=8000)
    arguments.add_argument("--data", type=Path, default=Path(".stoker"))
    arguments.add_argument("--once", action="store_true", help="stop after the show")
    options = arguments.parse_args()
    url = f"http://127.0.0.1:{options.port}"
    command = [sys.executable, "-P", "-m", "stoker", "up", "--config", str(HERE / "stoker.yaml")]
    command += ["--port", str(options.port), "--data", str(options.data), "--log-level", "warning"]
    system = subprocess.Popen(command)
    try:
        wait_ready(url, system)
        show_chat(url, "What is Stoker?")
        show_image(url, "red seven")
        print(TRY.format(url=url), flush=True)
        if not options.once:
            system.wait()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if system.poll() is None:
            system.terminate()
        system.wait()


if __name__ == "__main__":
    main()
