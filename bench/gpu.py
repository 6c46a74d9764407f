"""What a device does with an SDXL of random weights: loading, parking, batches, LoRAs.

python -m bench.gpu            (on a GPU: weights of SDXL's size, 7 GB, 1024x1024)
python -m bench.gpu --small    (a few megabytes, 64x64: shows on a processor that it runs)

Prints rates and ratios. The weights are made in a temporary folder, without any download.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import save_file

from stoker.schemas.catalog import Adapter
from stoker.schemas.jobs import ImageInput
from stoker.services.worker.engines.base import Cancellation, ModelFiles, Request, Task
from stoker.services.worker.engines.images.diffusers import DiffusersEngine, create
from stoker.services.worker.engines.registry import CAPABILITIES

BLOCK_BYTES = 64 * 1024 * 1024
RANK = 16


class Silent:
    """Hears nothing of a run."""

    def text(self, text: str, tokens: int = 1, **_: Any) -> None: ...

    def calls(self, parts: Any, tokens: int) -> None: ...

    def step(self, step: int, steps: int) -> None: ...

    def printed(self, *_: Any) -> None: ...

    def drawn(self, kept: int, read: int) -> None: ...

    def preview(self, index: int, step: int, width: int, height: int, png: bytes) -> None: ...


def tokenizer(folder: Path) -> Any:
    folder.mkdir(parents=True)
    letters = [f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz"]
    words = {token: i for i, token in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer(vocab=words, merges=[], model_max_length=77)


def encoder(width: int, layers: int, heads: int, projection: int) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=width * 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=projection or width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return kind(config)


def make(folder: Path, device: str, is_small: bool) -> Path:
    """A pipeline of SDXL's sizes, or of a few megabytes, in half precision on disk."""
    channels, layers, depth = ((32, 64, 64), 1, (1, 1, 2)) if is_small else ((320, 640, 1280), 2, (1, 2, 10))
    with torch.device(device):
        unet = diffusers.UNet2DConditionModel(
            sample_size=8 if is_small else 128,
            block_out_channels=channels,
            layers_per_block=layers,
            attention_head_dim=tuple(max(one // 64, 1) for one in channels),
            cross_attention_dim=2048,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            transformer_layers_per_block=depth,
            projection_class_embeddings_input_dim=1280 + 6 * 256,
        )
        blocks = (32, 32, 32, 32) if is_small else (128, 256, 512, 512)
        vae = diffusers.AutoencoderKL(
            block_out_channels=blocks,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1 if is_small else 2,
            latent_channels=4,
            sample_size=64,
            scaling_factor=0.13025,
        )
        first, second = (
            encoder(768, 1 if is_small else 12, 12, 0),
            encoder(1280, 1 if is_small else 32, 20, 1280),
        )
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer(folder / "a"),
        tokenizer_2=tokenizer(folder / "b"),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(),
        add_watermarker=False,
    )
    pipeline.to(torch.float16 if device != "cpu" else torch.float32).save_pretrained(folder / "sdxl")
    return folder / "sdxl"


def lora(pipeline: Any, path: Path) -> Path:
    """A LoRA over every attention of the UNet."""
    tensors: dict[str, torch.Tensor] = {}
    for name, module in pipeline.unet.named_modules():
        if name.endswith(("to_q", "to_k", "to_v")):
            out, into = module.weight.shape
            tensors[f"unet.{name}.lora_A.weight"] = torch.randn(RANK, into) * 0.01
            tensors[f"unet.{name}.lora_B.weight"] = torch.randn(out, RANK) * 0.01
    save_file(tensors, path)
    return path


def timed(work: Callable[[], object]) -> float:
    """Seconds, until the device is done."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def read(folder: Path) -> int:
    """Read every file as it comes; bytes."""
    total = 0
    for file in folder.rglob("*.safetensors"):
        with file.open("rb", buffering=0) as opened:
            while block := opened.read(BLOCK_BYTES):
                total += len(block)
    return total


def link_bytes_per_s(device: str) -> float:
    """From pinned memory to the device; of memory itself on a processor."""
    block = torch.empty(BLOCK_BYTES, dtype=torch.uint8, pin_memory=device != "cpu")
    target = torch.empty_like(block, device=device)
    target.copy_(block)
    return 8 * BLOCK_BYTES / timed(lambda: [target.copy_(block, non_blocking=True) for _ in range(8)])


def drawn(engine: DiffusersEngine, edge: int, steps: int, count: int, loras: tuple[Adapter, ...] = ()) -> float:
    """Seconds for so many like requests in one call."""

    def task(index: int) -> Task:
        asked = ImageInput(prompt="a b c", num_inference_steps=steps, width=edge, height=edge)
        return Task(Request(str(index), asked, index, loras=loras), Silent(), Cancellation())

    tasks = [task(index) for index in range(count)]
    return timed(lambda: asyncio.run(engine.run_together("m", tasks)))


def measure(root: Path, device: str, is_small: bool) -> dict[str, float]:
    folder = make(root, device, is_small)
    edge, steps = (64, 4) if is_small else (1024, 20)
    read(folder)
    disk = read(folder) / timed(lambda: read(folder))
    engine = create(CAPABILITIES["diffusers"])
    load_s = timed(lambda: engine.load(ModelFiles("m", folder, {"self_test": False, "batch": 4})))
    size = engine.memory_bytes("m")
    drawn(engine, edge, 2, 1)  # the first call compiles and measures kernels
    alone, four = drawn(engine, edge, steps, 1), drawn(engine, edge, steps, 4)
    engine.park("m")
    back_s = timed(lambda: engine.unpark("m"))
    loras = engine._loaded["m"].loras
    first, second = (
        Adapter(name, str(lora(engine._loaded["m"].pipeline, root / f"{name}.safetensors"))) for name in "ab"
    )
    loras.switch([first])  # what is done for the first time is slower
    switch_s = timed(lambda: loras.switch([second]))
    return {
        "weights, GB": size / 1e9,
        "load, s": load_s,
        "load, GB/s": size / load_s / 1e9,
        "files read (cached), GB/s": disk / 1e9,
        "memory to device, GB/s": link_bytes_per_s(device) / 1e9,
        "load / the slower of both": size / load_s / min(disk, link_bytes_per_s(device)),
        "parked to hot, s": back_s,
        "load / parked to hot": load_s / back_s,
        "pictures/s alone": 1 / alone,
        "pictures/s, four at once": 4 / four,
        "four at once / alone": 4 * alone / four,
        "LoRA to LoRA, s": switch_s,
        "LoRA to LoRA / load": switch_s / load_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a few megabytes")
    is_small = parser.parse_args().small
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device != "cpu" else "a processor"
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}, {name}")
    with tempfile.TemporaryDirectory() as folder:
        for what, value in measure(Path(folder), device, is_small or device == "cpu").items():
            print(f"{what:30} {value:10.3f}")


if __name__ == "__main__":
    main()
