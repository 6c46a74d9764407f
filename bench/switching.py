"""Switching between image models: hot, other LoRA on the same checkpoint, from RAM, from disk.

Two checkpoints of more than 1 GB with random weights, on one worker that holds one of them at a time. Cold:
the checkpoint's pages were dropped from the page cache before. Read ahead: they were dropped too, and another
picture of BUSY_STEPS steps is drawn while somebody waits for the checkpoint; the time counts from its end.

python -m bench.switching
"""

import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import diffusers
import httpx
import torch
from safetensors.torch import load_file, save_file

from bench.arguments import nothing
from bench.system import Running, running
from tests.fixtures import checkpoints

ROUNDS = 5
BUSY_STEPS = 12
ASKED_AFTER_S = 0.5
LORA_RANK = 16
ADAPTED = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")
CONFIG = """\
models:
  idle: {{engine: synthetic}}
workers:
  - {{count: 1, memory: {memory}, ram: {ram}, engines: [diffusers, synthetic]}}
"""
MODES = """\
model_root: {root}
default_mode: plain
modes:
  plain: {{model: a, default_size: 64x64, default_steps: 1}}
  portrait: {{model: a, loras: [portrait.safetensors], default_size: 64x64, default_steps: 1}}
  sketch: {{model: a, loras: [sketch.safetensors], default_size: 64x64, default_steps: 1}}
  other: {{model: b, default_size: 64x64, default_steps: 1}}
"""


def make_checkpoint(folder: Path, seed: int) -> int:
    """A Stable Diffusion 1.5 layout with a UNet of 1.3 GB. Returns its size in bytes."""
    checkpoints.sd15(folder, seed)
    torch.manual_seed(seed)
    diffusers.UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 960),
        layers_per_block=1,
        attention_head_dim=8,
        cross_attention_dim=768,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def drop_pages(folder: Path) -> None:
    """Take a folder's files out of the page cache."""
    os.sync()
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def make_lora(unet: Path, path: Path, seed: int) -> None:
    """A LoRA of rank 16 over every attention of a UNet, as trainers make them."""
    torch.manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in load_file(unet / "diffusion_pytorch_model.safetensors").items():
        key = f"unet.{name.removesuffix('.weight')}"
        if name.endswith(ADAPTED):
            tensors[f"{key}.lora_A.weight"] = torch.randn(LORA_RANK, weight.shape[1])
            tensors[f"{key}.lora_B.weight"] = torch.randn(weight.shape[0], LORA_RANK)
    save_file(tensors, path)


def draw_s(system: Running, mode: str) -> float:
    """Seconds to draw a small picture in a mode, one step."""
    began = time.perf_counter()
    return drawn_at(system, mode) - began


def drawn_at(system: Running, mode: str, steps: int = 1) -> float:
    """Draw a small picture in a mode; when it was there."""
    asked = {"mode": mode, "prompt": "a", "seed": 1, "num_inference_steps": steps}
    url = f"http://127.0.0.1:{system.port}/generate"
    httpx.post(url, json=asked, timeout=120).raise_for_status()
    return time.perf_counter()


def after_another_s(system: Running, root: Path) -> float:
    """Seconds from the end of a picture to that of one of another checkpoint, which waited all the while."""
    with ThreadPoolExecutor(1) as pool:
        drop_pages(root / "b")
        before = pool.submit(drawn_at, system, "portrait", BUSY_STEPS)
        time.sleep(ASKED_AFTER_S)
        return drawn_at(system, "other") - before.result()


def measure(root: Path, memory: str, ram: str, *, is_cold: bool) -> dict[str, list[float]]:
    """Seconds to a picture by the kind of switch before it; `again` and `hot`: without a switch."""
    times: dict[str, list[float]] = {"other": [], "again": [], "lora": [], "hot": [], "ahead": []}
    with running(CONFIG.format(memory=memory, ram=ram), MODES.format(root=root)) as system:
        for mode in ("other", "portrait"):
            draw_s(system, mode)
        for _ in range(ROUNDS):
            if is_cold:
                drop_pages(root / "b")
            for kind, mode in (("other", "other"), ("again", "other"), ("", "portrait"), ("lora", "sketch")):
                times.setdefault(kind, []).append(draw_s(system, mode))
            times["hot"].append(draw_s(system, "sketch"))
            if is_cold:
                times["ahead"].append(after_another_s(system, root))
    return times


def report() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = make_checkpoint(root / "a", 1)
        make_checkpoint(root / "b", 2)
        for name, seed in (("portrait", 3), ("sketch", 4)):
            make_lora(root / "a" / "unet", root / f"{name}.safetensors", seed)
        memory = f"{int(size * 1.5 / 1e6)}MB"
        cold = measure(root, memory, "0", is_cold=True)
        cached = measure(root, memory, "0", is_cold=False)
        parked = measure(root, memory, f"{int(size * 2.5 / 1e6)}MB", is_cold=False)
    rows = [
        ("from disk, page cache cold", cold, "other", "again"),
        ("from disk, read ahead", cold, "ahead", "again"),
        ("from disk, page cache warm", cached, "other", "again"),
        ("parked in RAM", parked, "other", "again"),
        ("same checkpoint, other LoRA", cold, "lora", "hot"),
    ]
    lines = [f"Checkpoints of {size / 1e9:.2f} GB, LoRAs of rank {LORA_RANK} over every attention.", ""]
    lines += [
        "| switch | s to the picture | s without a switch | the switch | of a full load |",
        "|---|---|---|---|---|",
    ]
    full = 0.0
    for what, times, kind, base in rows:
        switched, still = statistics.median(times[kind]), statistics.median(times[base])
        cost = max(switched - still, 0.0)
        full = full or cost
        lines.append(f"| {what} | {switched:.3f} | {still:.3f} | {cost:.3f} | {100 * cost / full:.1f} % |")
    return lines


if __name__ == "__main__":
    nothing(__doc__)
    print("\n".join(report()))
