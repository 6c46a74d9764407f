"""`make demo`: start Stoker with the two small models, show a streamed answer and a drawn image, stay up."""

import argparse
import base64
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
from PIL import Image

HERE = Path(__file__).parent
PROOF = Path("demo-image.png")
READY_S = 90.0
EDGE = 32
CONFIG = ["--config", str(HERE / "stoker.yaml"), "--config", str(HERE / "modes.yaml")]

TRY = """
Now try:

  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "demo-chat", "stream": true,
         "messages": [{{"role": "user", "content": "What happens when a worker dies?"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="none")
  client.images.generate(model="demo-image", prompt="blue three").data[0].b64_json

  .venv/bin/stoker run demo-image "green five" --out five.png --url {url}
  curl {url}/generate -d '{{"mode": "quick", "prompt": "red two", "seed": 1}}' -o two.png -D -
  .venv/bin/stoker top --url {url}

Dashboard: {url}/          API page: {url}/schema          Ctrl-C stops everything.
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


def in_blocks(png: bytes) -> str:
    """A picture as lines of coloured half blocks, two rows of pixels each."""
    picture = Image.open(io.BytesIO(png)).convert("RGB").resize((EDGE, EDGE))
    pixels = picture.tobytes()
    lines = []
    for y in range(0, EDGE, 2):
        line = "  "
        for x in range(EDGE):
            upper, lower = (pixels[3 * (row * EDGE + x) :][:3] for row in (y, y + 1))
            line += "\033[38;2;{};{};{};48;2;{};{};{}m\u2580".format(*upper, *lower)
        lines.append(line + "\033[0m")
    return "\n".join(lines)


def show_picture(png: bytes, *, is_first: bool) -> None:
    """Draw over the picture before, where someone looks."""
    if sys.stdout.isatty():
        print("" if is_first else f"\033[{EDGE // 2}A", end="")
        print(in_blocks(png), flush=True)


def show_image(url: str, model: str, prompt: str) -> None:
    print(f"\n\033[1m> draw with {model}: {prompt}\033[0m\n", flush=True)
    body = {"model": model, "prompt": prompt, "stream": True, "partial_images": 3, "seed": 7}
    with httpx.stream("POST", url + "/v1/images/generations", json=body, timeout=120) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            event = json.loads(line.removeprefix("data: "))
            png = base64.b64decode(event["b64_json"])
            if event["type"].endswith("partial_image"):
                index = event["partial_image_index"]
                show_picture(png, is_first=index == 0)
                if not sys.stdout.isatty():
                    print(f"  preview {index + 1} arrived", flush=True)
            else:
                show_picture(png, is_first=False)
                PROOF.write_bytes(png)
                print(f"  the picture is in {PROOF}", flush=True)


def show_modes(url: str) -> None:
    """Switch modes and draw: same prompt, same seed, another mode's settings."""
    modes = httpx.get(url + "/api/modes", timeout=10).json()
    print(f"\n\033[1m> modes: {', '.join(modes['modes'])}\033[0m\n", flush=True)
    for mode in modes["modes"]:
        switched = httpx.post(url + "/api/modes/switch", json={"mode": mode}, timeout=60).json()
        began = time.monotonic()
        answer = httpx.post(url + "/generate", json={"prompt": "blue three", "seed": 7}, timeout=60)
        answer.raise_for_status()
        seconds = time.monotonic() - began
        steps = modes["modes"][mode]["default_steps"]
        print(
            f"  {switched['status']}: mode {answer.headers['X-Mode']}, {steps} steps, {seconds:.2f} s",
            flush=True,
        )
        show_picture(answer.content, is_first=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, default=8000)
    arguments.add_argument("--data", type=Path, default=Path(".stoker"))
    arguments.add_argument("--once", action="store_true", help="stop after the show")
    options = arguments.parse_args()
    url = f"http://127.0.0.1:{options.port}"
    command = [sys.executable, "-P", "-m", "stoker", "up", *CONFIG]
    command += ["--port", str(options.port), "--data", str(options.data), "--log-level", "warning"]
    system = subprocess.Popen(command)
    try:
        wait_ready(url, system)
        show_chat(url, "What is Stoker?")
        show_image(url, "demo-image", "red seven")
        show_modes(url)
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
