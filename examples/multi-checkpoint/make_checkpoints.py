"""Tiny SDXL checkpoints with random weights under the four names, for a machine without a network.

    .venv/bin/python examples/multi-checkpoint/make_checkpoints.py CACHE
    HF_HOME=CACHE HF_HUB_OFFLINE=1 .venv/bin/stoker up --functions examples/multi-checkpoint

CACHE gets the layout of the hub's own cache. Each checkpoint has 5 MB and draws noise in 0.2 s.
"""

import json
import sys
import tempfile
import tomllib
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

HERE = Path(__file__).parent
REVISION = "0" * 40
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,."


def tokenizer(folder: Path) -> CLIPTokenizer:
    """It knows letters only."""
    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def text_config(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=100, hidden_size=width, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        projection_dim=width, max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip


def make(folder: Path, seed: int) -> None:
    """One StableDiffusionXLPipeline directory."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
        attention_head_dim=(4, 8), cross_attention_dim=96, use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2), addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64 + 6 * 8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=8, sample_size=32,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as words:
        StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=CLIPTextModel(text_config(32)),
            text_encoder_2=CLIPTextModelWithProjection(text_config(64)),
            tokenizer=tokenizer(Path(words)),
            tokenizer_2=tokenizer(Path(words)),
            unet=unet,
            scheduler=EulerDiscreteScheduler(),
            add_watermarker=False,
        ).save_pretrained(folder)


def main() -> None:
    hub = Path(sys.argv[1]) / "hub"
    models = tomllib.loads((HERE / "pyproject.toml").read_text())["tool"]["cozy"]["models"]
    for seed, name in enumerate(models.values()):
        cached = hub / f"models--{name.replace('/', '--')}"
        (cached / "refs").mkdir(parents=True, exist_ok=True)
        (cached / "refs" / "main").write_text(REVISION)
        make(cached / "snapshots" / REVISION, seed)
        print(name)


if __name__ == "__main__":
    main()
