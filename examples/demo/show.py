"""The second half of `make demo`: draws a picture, previews as they come, and switches between two modes.

python examples/demo/show.py http://127.0.0.1:8000
"""

import base64
import io
import json
import sys
import threading
import time
from pathlib import Path

import httpx
from PIL import Image

PROOF = Path("demo-image.png")
EDGE = 32
TICK_S = 3.0
IS_TERMINAL = sys.stdout.isatty()


def title(line: str) -> None:
    print(f"\n\033[1m> {line}\033[0m\n" if IS_TERMINAL else f"\n> {line}\n", flush=True)


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
    if IS_TERMINAL:
        print("" if is_first else f"\033[{EDGE // 2}A", end="")
        print(in_blocks(png), flush=True)


def ticking(what: str) -> threading.Event:
    """Say that something goes on, until what this gives is set."""
    done, began = threading.Event(), time.monotonic()

    def tick() -> None:
        while not done.wait(TICK_S):
            print(f"  … {what}, {time.monotonic() - began:.0f} s", flush=True)

    threading.Thread(target=tick, daemon=True).start()
    return done


def show_image(url: str, model: str, prompt: str) -> None:
    title(f"draw with {model}: {prompt}")
    body = {"model": model, "prompt": prompt, "stream": True, "partial_images": 3, "seed": 7}
    has_begun = ticking("torch and diffusers are imported, which takes longest")
    with httpx.stream("POST", url + "/v1/images/generations", json=body, timeout=180) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            has_begun.set()
            event = json.loads(line.removeprefix("data: "))
            png = base64.b64decode(event["b64_json"])
            if event["type"].endswith("partial_image"):
                index = event["partial_image_index"]
                show_picture(png, is_first=index == 0)
                if not IS_TERMINAL:
                    print(f"  preview {index + 1} arrived", flush=True)
            else:
                show_picture(png, is_first=False)
                PROOF.write_bytes(png)
                print(f"  the picture is in {PROOF}", flush=True)


def show_modes(url: str) -> None:
    """Switch modes and draw: same prompt, same seed, another mode's settings."""
    modes = httpx.get(url + "/api/modes", timeout=10).json()
    title(f"modes: {', '.join(modes['modes'])}")
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


if __name__ == "__main__":
    show_image(sys.argv[1], "demo-image", "red seven")
    show_modes(sys.argv[1])
