"""LoRA files in every form that people have, as patches of a pipeline's weights.

Names: kohya's (`lora_unet_down_blocks_0_…`, with `lora_te_`, `lora_te1_`, `lora_te2_` for text encoders, also
over the blocks of the original SDXL), diffusers' (`unet.down_blocks.0.…`), peft's (`base_model.model.…`), those
of attention processors in early diffusers. What these do not explain, as names of FLUX, SD3 and others,
diffusers' own conversion does.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from stoker.services.worker.engines.images.lora_patches import Patch
from stoker.services.worker.models.weights.detect import UnknownCheckpoint, read_pickle

ROLES = {
    "lora_down.weight": "down", "lora_up.weight": "up", "lora_mid.weight": "mid",
    "lora_A.weight": "down", "lora_B.weight": "up",
    "lora_A.default.weight": "down", "lora_B.default.weight": "up",
    "lora.down.weight": "down", "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down", "lora_linear_layer.up.weight": "up",
    "alpha": "alpha", "diff": "diff",
    "dora_scale": "magnitude", "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "lora_magnitude_vector.default.weight": "magnitude",
    "hada_w1_a": "w1_a", "hada_w1_b": "w1_b", "hada_w2_a": "w2_a", "hada_w2_b": "w2_b",
    "hada_t1": "t1", "hada_t2": "t2",
    "lokr_w1": "lokr_w1", "lokr_w1_a": "lokr_w1_a", "lokr_w1_b": "lokr_w1_b",
    "lokr_w2": "lokr_w2", "lokr_w2_a": "lokr_w2_a", "lokr_w2_b": "lokr_w2_b", "lokr_t2": "lokr_t2",
}  # fmt: skip
"""How a tensor's name ends, and what it is to its patch (lora_patches.py)."""
_ENDS = sorted(ROLES, key=len, reverse=True)
PREFIXES = (
    ("lora_te1_", "text_encoder"), ("lora_te2_", "text_encoder_2"), ("lora_te3_", "text_encoder_3"),
    ("lora_te_", "text_encoder"), ("lora_unet_", ""), ("lora_transformer_", ""), ("lycoris_", ""),
    ("text_encoder_2.", "text_encoder_2"), ("text_encoder_3.", "text_encoder_3"),
    ("text_encoder.", "text_encoder"), ("unet.", ""), ("transformer.", ""), ("prior.", "prior"),
    ("base_model.model.", ""), ("diffusion_model.", ""),
)  # fmt: skip
"""How a name begins, and the component that it is of; "": what draws, a UNet or a transformer."""
DENOISERS = ("unet", "transformer", "prior", "decoder")
_PROCESSOR = re.compile(r"\.processor\.(to_[kqv]|to_out)_lora\.(down|up)\.weight$")
"""Names of attention processors in early diffusers."""
_ORIGINAL = re.compile(r"(input_blocks|middle_block|output_blocks)_(\d+)_(?:(\d+)_)?(.+)")
"""A place in the original SDXL's blocks: block, number, number within, and what is there."""
ORIGINAL = {
    "input_blocks_0_0": "conv_in", "out_2": "conv_out", "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2", "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
}  # fmt: skip
ORIGINAL_RESNET = {
    "in_layers_2": "conv1", "out_layers_3": "conv2", "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut", "op": "conv",
}  # fmt: skip
"""Names of the original SDXL, and diffusers' without dots."""


@dataclass(frozen=True, slots=True)
class LoraFile:
    """patches: what names something in the pipeline. strangers: names of the rest, in the file's order."""

    patches: tuple[Patch, ...]
    strangers: tuple[str, ...]


def read_lora(path: Path, pipeline: Any) -> LoraFile:
    """Raises UnknownCheckpoint for a file that cannot be read."""
    tensors = _tensors(path)
    found = _resolved(tensors, pipeline)
    if found.strangers and hasattr(pipeline, "lora_state_dict"):
        converted = _converted(path, pipeline)
        if converted:
            other = _resolved(converted, pipeline)
            if len(other.patches) > len(found.patches):
                return other
    return found


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return read_pickle(path)
    try:
        return dict(load_file(path))
    except Exception as error:  # whatever a file makes safetensors raise
        raise UnknownCheckpoint(f"{path.name} cannot be read: {error}") from error


def _converted(path: Path, pipeline: Any) -> dict[str, Tensor]:
    """What diffusers makes of the file; nothing where it makes nothing of it."""
    try:
        found = pipeline.lora_state_dict(str(path), local_files_only=True)
    except Exception:  # it raises whatever a name that it does not know leads to
        return {}
    state, alphas = found if isinstance(found, tuple) else (found, None)
    made = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for name, alpha in (alphas or {}).items():
        made[name if name.endswith(".alpha") else f"{name}.alpha"] = torch.tensor(float(alpha))
    return made


def _resolved(tensors: Mapping[str, Tensor], pipeline: Any) -> LoraFile:
    parts: dict[str, dict[str, Tensor]] = {}
    strangers: list[str] = []
    for name, value in tensors.items():
        plain = _PROCESSOR.sub(_of_module, name)
        end = next((one for one in _ENDS if plain.endswith("." + one)), None)
        if end is None:
            strangers.append(name)
        else:
            parts.setdefault(plain.removesuffix("." + end), {})[ROLES[end]] = value
    names = _Names(pipeline)
    patches: list[Patch] = []
    for stem, own in parts.items():
        place = names.place(stem)
        if place is None:
            strangers.append(stem)
        else:
            patches.append(Patch(*place, own))
    return LoraFile(tuple(patches), tuple(strangers))


def _of_module(found: re.Match[str]) -> str:
    module = "to_out.0" if found[1] == "to_out" else found[1]
    return f".{module}.lora_{found[2]}.weight"


class _Names:
    """The weights of a pipeline by every name that files have for them."""

    def __init__(self, pipeline: Any) -> None:
        self._modules: dict[str, dict[str, str]] = {}
        for component, part in pipeline.components.items():
            if isinstance(part, torch.nn.Module) and component != "vae":
                self._modules[component] = dict(_named(part))
        config = getattr(getattr(pipeline, "unet", None), "config", {})
        layers = config.get("layers_per_block", 2)
        self._layers = layers if isinstance(layers, int) else 2
        self._denoiser = next((name for name in DENOISERS if name in self._modules), "")

    def place(self, stem: str) -> tuple[str, str] | None:
        """Component and module that a name is of."""
        component, rest = "", stem
        for prefix, named in PREFIXES:
            if stem.startswith(prefix):
                component, rest = named, stem.removeprefix(prefix)
                break
        component = component or self._denoiser
        modules = self._modules.get(component, {})
        flat = rest.replace(".", "_")
        names = (flat, f"text_model_{flat}", flat.removeprefix("text_model_"), *self._of_original(flat))
        return next(((component, modules[name]) for name in names if name in modules), None)

    def _of_original(self, flat: str) -> Iterator[str]:
        """What a name over the original SDXL's blocks may be called by diffusers."""
        if flat in ORIGINAL:
            yield ORIGINAL[flat]
        found = _ORIGINAL.fullmatch(flat)
        if found is None:
            return
        kind, first, second, rest = found[1], int(found[2]), int(found[3] or 0), found[4]
        rest = ORIGINAL_RESNET.get(rest, rest)
        if kind == "middle_block":
            yield f"mid_block_{('resnets_0', 'attentions_0', 'resnets_1')[min(first, 2)]}_{rest}"
            return
        place = first - 1 if kind == "input_blocks" else first
        block, layer = divmod(place, self._layers + 1)
        side = "down_blocks" if kind == "input_blocks" else "up_blocks"
        for part in (f"{'resnets' if not second else 'attentions'}_{layer}", "downsamplers_0", "upsamplers_0"):
            yield f"{side}_{block}_{part}_{rest}"


def _named(part: torch.nn.Module) -> Iterator[tuple[str, str]]:
    """Modules with a weight, by their path without dots, and the path."""
    for path, module in part.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() >= 2:
            yield path.replace(".", "_"), path
