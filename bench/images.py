"""Pictures one after the other: what the device does between two of them, what batches gain, pictures a second.

python -m bench.images [--small]

On a GPU an SDXL of random weights (7 GB, 1024x1024, 20 steps), on a processor, or with --small, one of a
few megabytes. The gap is from the end of one picture's decoding to the first denoising step of the next, with
jobs waiting, in the runner of a whole system; what text encoders take of it is told apart. Batches are measured
in the engine alone.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch

from bench import gpu
from bench.system import Running, running
from stoker.services.worker.engines.base import ModelFiles
from stoker.services.worker.engines.images.diffusers import create
from stoker.services.worker.engines.registry import CAPABILITIES

PROBE = Path(__file__).parent / "image_probe"
JOBS = 12
BATCHES = (1, 2, 4, 8)
ROUNDS = 5
CONFIG = """\
models:
  picture: {{engine: diffusers, url: "file://{path}", options: {{batch: {batch}}}}}
workers:
  - {{count: 1, memory: {memory}, engines: [diffusers]}}
"""


@dataclass(frozen=True, slots=True)
class Size:
    """What is drawn."""

    edge: int
    steps: int
    memory: str


SMALL, LARGE = Size(512, 2, "4GB"), Size(1024, 20, "60GB")


@contextmanager
def _probed(path: Path) -> Iterator[None]:
    """Runners that are started meanwhile write to this file what the device does (image_probe)."""
    before = os.environ.get("PYTHONPATH")
    os.environ["STOKER_IMAGE_PROBE"] = str(path)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROBE), before]))
    try:
        yield
    finally:
        del os.environ["STOKER_IMAGE_PROBE"]
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _draw(system: Running, size: Size, jobs: int, **asked: Any) -> float:
    """Seconds from the first request to the end of the last of so many."""
    given = {"width": size.edge, "height": size.edge, "num_inference_steps": size.steps, **asked}
    with httpx.Client(base_url=f"http://127.0.0.1:{system.port}", timeout=600) as client:
        began = time.perf_counter()
        names = [
            client.post("/v1/jobs", json={"model": "picture", "input": {"prompt": "a cat", "seed": n, **given}})
            .raise_for_status()
            .json()["id"]
            for n in range(jobs)
        ]
        for name in names:
            while client.get(f"/v1/jobs/{name}").json()["status"] in ("queued", "running"):
                time.sleep(0.05)
        return time.perf_counter() - began


def gaps_of(lines: list[tuple[str, float, float]]) -> list[tuple[float, float]]:
    """Milliseconds between each picture and the next, and those of them that text encoders took."""
    found: list[tuple[float, float]] = []
    for before, after in itertools.pairwise(index for index, line in enumerate(lines) if line[0] == "decode"):
        between = list(itertools.takewhile(lambda line: line[0] == "text", lines[before + 1 : after]))
        first = lines[before + 1 + len(between)]
        spans = sorted((begin, end) for _, begin, end in between)  # one encoder may be a part of another
        text_ms, until = 0.0, 0.0
        for begin, end in spans:
            text_ms += 1000 * max(end - max(begin, until), 0.0)
            until = max(until, end)
        found.append((1000 * (first[1] - lines[before][2]), text_ms))
    return found


def of_system(path: Path, folder: Path, size: Size, kind: str) -> tuple[list[tuple[float, float]], float]:
    """The gaps with jobs waiting, and pictures a second. kind: of file."""
    probe = folder / f"{kind}.jsonl"
    with _probed(probe), running(CONFIG.format(path=path, batch=1, memory=size.memory)) as system:
        _draw(system, size, 2)
        warm = len(probe.read_text().splitlines())
        seconds = _draw(system, size, JOBS, output_format=kind)
    lines = [tuple(json.loads(line)) for line in probe.read_text().splitlines()[warm:]]
    return gaps_of(lines), JOBS / seconds


def batches(path: Path, size: Size) -> list[tuple[int, float]]:
    """Seconds for a picture in a batch of each size, the least of some rounds."""
    engine = create(CAPABILITIES["diffusers"])
    engine.load(ModelFiles("m", path, {"self_test": False}))
    found: list[tuple[int, float]] = []
    for count in BATCHES:
        gpu.drawn(engine, size.edge, 1, count)
        best = min(gpu.drawn(engine, size.edge, size.steps, count) for _ in range(ROUNDS))
        found.append((count, best / count))
    return found


def report(is_small: bool) -> list[str]:
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    size = SMALL if is_small or device == "cpu" else LARGE
    rows = [
        "| file | gap ms, median | of 9 in 10 | of it text encoders | pictures/s |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        path = gpu.make(folder, device, size is SMALL)
        for kind in ("png", "jpeg", "webp"):
            gaps, rate = of_system(path, folder, size, kind)
            all_ms, text_ms = ([gap[index] for gap in gaps] for index in (0, 1))
            p90 = statistics.quantiles(all_ms, n=10)[-1]
            rows.append(
                f"| {kind} | {statistics.median(all_ms):.2f} | {p90:.2f} | {statistics.median(text_ms):.2f} "
                f"| {rate:.2f} |"
            )
        alone = 0.0
        rows += ["", "| batch | ms a picture | of alone |", "|---|---|---|"]
        for count, seconds in batches(path, size):
            alone = alone or seconds
            rows.append(f"| {count} | {1000 * seconds:.1f} | {seconds / alone:.3f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a few megabytes")
    print("\n".join(report(parser.parse_args().small)))


if __name__ == "__main__":
    main()
