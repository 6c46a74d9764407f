"""Train demo-image: a small Stable Diffusion that draws coloured digits ("red seven").

The same parts as the real one, from scratch: a CLIP text encoder of one layer, a VAE of factor 4, and a
UNet over 8x8 latents. Digits come from scikit-learn, enlarged to 32x32 and tinted. About fifteen minutes
on one core; writes image/ (a diffusers pipeline directory, half precision).

    .venv/bin/python examples/demo/train_image.py [--vae-steps 1500] [--unet-steps 5000]
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from sklearn.datasets import load_digits
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

HERE = Path(__file__).parent
COLOURS = {
    "red": (0.95, 0.15, 0.15),
    "green": (0.15, 0.85, 0.25),
    "blue": (0.2, 0.35, 1.0),
    "yellow": (0.95, 0.9, 0.15),
    "purple": (0.7, 0.25, 0.9),
    "orange": (1.0, 0.55, 0.1),
    "white": (1.0, 1.0, 1.0),
}
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEMPLATES = ["{c} {d}", "a {c} {d}", "the digit {d} in {c}", "{d}, {c}", "a {c} digit {d}"]
PROMPT_TOKENS = 12
UNCONDITIONAL_SHARE = 0.1


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Grey digits [N, 1, 32, 32] in 0..1, and their labels [N]."""
    digits = load_digits()
    small = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    large = F.interpolate(small, size=(32, 32), mode="bicubic", align_corners=False)
    return large.clamp(0, 1), torch.tensor(digits.target)


def tinted(grey: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """Colour images [N, 3, 32, 32] in -1..1 from grey [N, 1, 32, 32] and colours [N, 3]."""
    return grey * colours[:, :, None, None] * 2 - 1


def make_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer whose vocabulary is the words of the prompts, their letters, and digits."""
    words = [*COLOURS, *DIGITS, "a", "the", "digit", "in", ",", *map(str, range(10))]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bpe.train_from_iterator(
        words * 4,
        trainers.BpeTrainer(
            vocab_size=400,
            end_of_word_suffix="</w>",
            special_tokens=["<|startoftext|>", "<|endoftext|>"],
            initial_alphabet=list("abcdefghijklmnopqrstuvwxyz0123456789,.!?'-"),
            show_progress=False,
        ),
    )
    trained = json.loads(bpe.to_str())["model"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps(trained["vocab"]))
        merges = "\n".join(" ".join(merge) for merge in trained["merges"])
        (Path(folder) / "merges.txt").write_text("#version: 0.2\n" + merges + "\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=PROMPT_TOKENS)


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=32,
    )


def make_unet(text_width: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(56, 88),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def train_vae(vae: AutoencoderKL, steps: int) -> None:
    grey, _ = pictures()
    palette = torch.tensor(list(COLOURS.values()))
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        chosen = torch.randint(len(grey), (32,))
        images = tinted(grey[chosen], palette[torch.randint(len(palette), (32,))])
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        loss = F.mse_loss(decoded, images) + 1e-4 * posterior.kl().mean() / 256
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"vae step {step} loss {loss.item():.5f}", flush=True)
    with torch.no_grad():
        sample = tinted(grey[:512], palette[torch.arange(512) % len(palette)])
        vae.register_to_config(scaling_factor=1 / vae.encode(sample).latent_dist.mean.std().item())


def random_prompt(colour: str, digit: int, rng: np.random.Generator) -> str:
    if rng.random() < UNCONDITIONAL_SHARE:
        return ""
    word = DIGITS[digit] if rng.random() < 0.8 else str(digit)
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(c=colour, d=word)


def train_unet(pipe: StableDiffusionPipeline, steps: int) -> None:
    grey, labels = pictures()
    names, palette = list(COLOURS), torch.tensor(list(COLOURS.values()))
    rng = np.random.default_rng(0)
    unet, text = pipe.unet.train(), pipe.text_encoder.train()
    parameters = [*unet.parameters(), *text.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    averaged = [p.detach().clone() for p in parameters]
    for step in range(steps):
        chosen = torch.randint(len(grey), (48,))
        tint = torch.randint(len(names), (48,))
        with torch.no_grad():
            latents = pipe.vae.encode(tinted(grey[chosen], palette[tint])).latent_dist.sample()
            latents = latents * pipe.vae.config.scaling_factor
        prompts = [random_prompt(names[c], int(labels[i]), rng) for c, i in zip(tint, chosen, strict=True)]
        tokens = pipe.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
        embedding = text(tokens.input_ids)[0]
        noise = torch.randn_like(latents)
        times = torch.randint(pipe.scheduler.config.num_train_timesteps, (len(latents),))
        noisy = pipe.scheduler.add_noise(latents, noise, times)
        loss = F.mse_loss(unet(noisy, times, embedding).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        decay = min(0.998, (step + 1) / (step + 10))
        for kept, now in zip(averaged, parameters, strict=True):
            kept.lerp_(now.detach(), 1 - decay)
        if step % 100 == 0:
            print(f"unet step {step} loss {loss.item():.4f}", flush=True)
    for kept, now in zip(averaged, parameters, strict=True):
        now.data.copy_(kept)
    unet.eval(), text.eval()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--vae-steps", type=int, default=1500)
    arguments.add_argument("--unet-steps", type=int, default=5000)
    arguments.add_argument("--out", type=Path, default=HERE / "image")
    options = arguments.parse_args()
    torch.set_num_threads(1)  # one core gives the same weights every time
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=PROMPT_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )
    vae = make_vae()
    train_vae(vae, options.vae_steps)
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=make_unet(64),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    train_unet(pipe, options.unet_steps)
    pipe.to(dtype=torch.float16).save_pretrained(options.out, safe_serialization=True)
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    print(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
