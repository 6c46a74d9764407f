"""What a checkpoint is, read from the checkpoint itself: its header or model_index.json, never its name alone.

| architecture | told by | cross-attention |
|---|---|---|
| sd15 | one CLIP text encoder | 768 |
| sdxl | two text encoders | 2048 |
| sdxl-refiner | the second text encoder only | 1280 |
| sd2 | one OpenCLIP text encoder | 1024 |
| kandinsky22, kandinsky3 | the pipeline's class, or the name where a single file does not tell | |
| flux, sd3, … | a tensor that only this family has (`TRANSFORMERS`): a single file of the transformer alone | |
| other | any other pipeline directory | |

A UNet with nine input channels draws into masks, one with eight follows instructions, whatever it is called.
Files say by marker tensors (`v_pred`, `ztsnr`) what their UNet predicts.

Nothing is executed: safetensors headers are JSON, and a .ckpt is read with weights only.
"""

import json
import pickle
import struct
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Architecture = Literal[
    "sd15", "sd2", "sdxl", "sdxl-refiner", "kandinsky22", "kandinsky3", "transformer", "other"
]
Shapes = Mapping[str, tuple[int, ...]]

MAX_HEADER_BYTES = 100 * 1024 * 1024
SHOWN_KEYS = 3
VARIANTS = ("fp16", "bf16", "non_ema")
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
CLASSES: dict[Architecture, str] = {
    "sd15": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sdxl-refiner": "StableDiffusionXLImg2ImgPipeline",
    "kandinsky22": "KandinskyV22CombinedPipeline",
    "kandinsky3": "Kandinsky3Pipeline",
}
ORIGINAL_ENCODERS: tuple[tuple[str, Architecture], ...] = (
    ("conditioner.embedders.1.", "sdxl"),
    ("conditioner.embedders.0.model.", "sdxl-refiner"),
    ("cond_stage_model.model.", "sd2"),
    ("cond_stage_model.transformer.", "sd15"),
)  # text encoders in the original single-file layout, first match wins
BY_CHANNELS: dict[int, dict[Architecture, str]] = {
    9: {
        "sd15": "StableDiffusionInpaintPipeline",
        "sd2": "StableDiffusionInpaintPipeline",
        "sdxl": "StableDiffusionXLInpaintPipeline",
    },
    8: {
        "sd15": "StableDiffusionInstructPix2PixPipeline",
        "sdxl": "StableDiffusionXLInstructPix2PixPipeline",
    },
}
"""Pipelines for UNets that are given more than latents, by how many channels go in."""
TRANSFORMERS = (
    ("distilled_guidance_layer.in_proj.bias", "ChromaTransformer2DModel", "ChromaPipeline"),
    ("single_stream_modulation.lin.weight", "Flux2Transformer2DModel", "Flux2Pipeline"),
    ("double_blocks.0.img_attn.qkv.weight", "FluxTransformer2DModel", "FluxPipeline"),
    ("joint_blocks.0.context_block.attn.qkv.weight", "SD3Transformer2DModel", "StableDiffusion3Pipeline"),
    ("double_layers.0.attn.w1q.weight", "AuraFlowTransformer2DModel", "AuraFlowPipeline"),
    ("layers.0.adaLN_modulation.0.weight", "ZImageTransformer2DModel", "ZImagePipeline"),
    ("cap_embedder.0.weight", "Lumina2Transformer2DModel", "Lumina2Pipeline"),
    (
        "double_stream_blocks.0.block.adaLN_modulation.1.bias",
        "HiDreamImageTransformer2DModel",
        "HiDreamImagePipeline",
    ),
    ("blocks.0.cross_attn.kv_linear.weight", "SanaTransformer2DModel", "SanaPipeline"),
    ("txt_in.text_norm.weight", "QwenImage21Transformer2DModel", "QwenImagePipeline"),
)
"""Families whose single files hold a transformer: a tensor that only they have, and classes of diffusers."""
FILL_CHANNELS = 384
"""Channels that go into FLUX.1 Fill."""
NO_WEIGHTS = (
    (b"version https:/", "is a pointer of Git LFS and not the file itself: fetch it with git lfs pull"),
    (b"<", "is a web page and not weights: was it downloaded without a key?"),
    (b"GGUF", "is a GGUF file, which diffusers models are not loaded from here: ask for safetensors"),
)
"""How files begin that people take for weights, and what to do."""
WRAPPERS = ("model.diffusion_model.", "")
BARE_ENCODER = "cond_stage_model.transformer."
"""How names of the text encoder begin in files that leave out `text_model.`: diffusers does not find it."""
FIRST_CONVOLUTION = ("model.diffusion_model.input_blocks.0.0.weight", "conv_in.weight")
_CROSS_ATTENTION = "attn2.to_k.weight"


class UnknownCheckpoint(ValueError):
    """Not a checkpoint that can be used; says what was found instead."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint is. pipeline_class: its class in diffusers. transformer_class: of a single file that
    holds the transformer alone. in_channels: of its UNet; 0: not known. variant: of a directory's files, such
    as fp16. scheduler: what its weights demand of one. missing: parts of a pipeline that a single
    file lacks, or has under names that diffusers does not know.
    """

    path: Path
    architecture: Architecture
    pipeline_class: str
    cross_attention_dim: int | None
    is_directory: bool
    transformer_class: str = ""
    in_channels: int = 0
    variant: str = ""
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def detect(path: Path) -> Checkpoint:
    """Tell what a checkpoint is. Raises UnknownCheckpoint."""
    if path.is_dir():
        return _directory(path)
    shapes = tensor_shapes(path)
    if not shapes and path.suffix in PICKLES:
        raise UnknownCheckpoint(
            f"{path.name} has no weights at its top: serve an upscaler with engine: spandrel"
        )
    if (found := _transformer(path, shapes)) is not None:
        return found
    architecture = _architecture(path, shapes)
    dim = next((shape[-1] for key, shape in shapes.items() if shape and key.endswith(_CROSS_ATTENTION)), None)
    channels = next((shapes[key][1] for key in FIRST_CONVOLUTION if len(shapes.get(key, ())) == 4), 0)
    named = BY_CHANNELS.get(channels, {}).get(architecture, CLASSES[architecture])
    has_vae = any(key.startswith("first_stage_model.") for key in shapes)
    missing: tuple[str, ...] = () if has_vae or architecture in ("kandinsky22", "kandinsky3") else ("vae",)
    if BARE_ENCODER + "embeddings.token_embedding.weight" in shapes:
        missing += ("text_encoder",)
    return Checkpoint(
        path,
        architecture,
        named,
        dim,
        is_directory=False,
        in_channels=channels,
        scheduler=_demanded(shapes),
        missing=missing,
    )


def _demanded(shapes: Shapes) -> dict[str, Any]:
    """What marker tensors say of the prediction: as ComfyUI and A1111 read them."""
    demanded: dict[str, Any] = {}
    if "v_pred" in shapes:
        demanded["prediction_type"] = "v_prediction"
    if "ztsnr" in shapes:
        demanded |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return demanded


def _transformer(path: Path, shapes: Shapes) -> Checkpoint | None:
    """A single file of a transformer alone, with or without what ComfyUI puts around it."""
    for telltale, kind, pipeline in TRANSFORMERS:
        for wrapper in WRAPPERS:
            if wrapper + telltale not in shapes:
                continue
            channels = (shapes.get(wrapper + "img_in.weight") or (0, 0))[-1]
            if kind == "FluxTransformer2DModel" and channels == FILL_CHANNELS:
                pipeline = "FluxFillPipeline"
            missing = ("vae", "text_encoder")
            return Checkpoint(path, "transformer", pipeline, None, False, kind, missing=missing)
    return None


def tensor_shapes(path: Path) -> Shapes:
    """Names and shapes of the tensors of a .safetensors or .ckpt file. Raises UnknownCheckpoint."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UnknownCheckpoint(f"{path}: {error.strerror}") from error
    for beginning, what in NO_WEIGHTS:
        if head.startswith(beginning):
            raise UnknownCheckpoint(f"{path.name} {what}")
    if not head:
        raise UnknownCheckpoint(f"{path.name} is empty; was the download broken off?")
    is_safetensors = head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES
    if not is_safetensors and (path.suffix in PICKLES or head.startswith((b"PK\x03\x04", b"\x80"))):
        return {name: tuple(tensor.shape) for name, tensor in read_pickle(path).items()}
    return safetensors_header(path)


def safetensors_header(path: Path) -> Shapes:
    """The header of a safetensors file, checked against the file's size. Raises UnknownCheckpoint."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise UnknownCheckpoint(f"{path.name} is neither a safetensors file nor a checkpoint")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
            shapes = {name: _shape(entry["shape"]) for name, entry in tensors.items()}
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise UnknownCheckpoint(f"{path.name} is not a safetensors file: {error}") from error
    if size != 8 + length + end:
        raise UnknownCheckpoint(
            f"{path.name} is truncated: it has {size} bytes and its header promises {8 + length + end}"
        )
    return shapes


def _shape(written: Any) -> tuple[int, ...]:
    if not isinstance(written, list) or not all(isinstance(size, int) for size in written):
        raise ValueError(f"{written!r} is no shape")
    return tuple(written)


def read_pickle(path: Path) -> dict[str, Any]:
    """The tensors of a .ckpt by name, read without running anything that it contains.

    Raises UnknownCheckpoint, also for a pickle that would run code.
    """
    import torch

    content = _unpickled(path)
    tensors = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict):
        raise UnknownCheckpoint(f"{path.name} holds {type(content).__name__}, not weights by name")
    return {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}


def read_safely(path: Path) -> Any:
    """What a file of weights holds: tensors by name, or whatever was pickled. Raises UnknownCheckpoint."""
    if path.suffix.lower() != ".safetensors":
        return _unpickled(path)
    tensor_shapes(path)
    from safetensors.torch import load_file

    return load_file(path)


def _unpickled(path: Path) -> Any:
    """Raises UnknownCheckpoint."""
    import torch

    # in files of old trainers
    torch.serialization.add_safe_globals([defaultdict, dict, int, float, set, torch.nn.ParameterDict])
    try:
        is_mapped = zipfile.is_zipfile(path)  # the form before that can only be read whole
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error):
            raise UnknownCheckpoint(
                f"{path.name} is refused: it would run code when loaded; ask for a .safetensors file"
            ) from error
        raise UnknownCheckpoint(f"{path.name} is not a checkpoint: {error}") from error
    except Exception as error:  # whatever a file makes torch raise
        raise UnknownCheckpoint(f"{path.name} cannot be read; is it truncated? ({error})") from error


def _architecture(path: Path, shapes: Shapes) -> Architecture:
    def has(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in shapes)

    if has("model.diffusion_model."):
        for prefix, architecture in ORIGINAL_ENCODERS:
            if has(prefix):
                return architecture
    if _is_kandinsky(path, shapes):
        name = path.name.lower()
        return "kandinsky3" if "kandinsky3" in name or "v3" in name else "kandinsky22"
    keys = ", ".join(list(shapes)[:SHOWN_KEYS]) or "no tensors"
    if any("lora" in key or ".hada_" in key or ".lokr_" in key for key in shapes):
        raise UnknownCheckpoint(f"{path.name} is a LoRA: name it under loras of a model that it is for")
    if has("down_blocks.") or has("model.diffusion_model."):
        raise UnknownCheckpoint(f"{path.name} is a UNet alone: ask for the whole, with its text encoders")
    if has("decoder.") or has("first_stage_model."):
        raise UnknownCheckpoint(f"{path.name} is a VAE alone: name it with the option vae of a model")
    raise UnknownCheckpoint(
        f"{path.name} is of no known architecture (SD1.x, SD2.x, SDXL and its refiner, Kandinsky, FLUX, SD3, "
        f"other transformers): it has {len(shapes)} tensors, such as {keys}"
    )


def _is_kandinsky(path: Path, shapes: Shapes) -> bool:
    is_unet = any(key.removeprefix("unet.").startswith("down_blocks.") for key in shapes)
    return is_unet and ("kandinsky" in path.name.lower() or any(key.startswith("movq.") for key in shapes))


def _directory(path: Path) -> Checkpoint:
    index = _read_json(path / "model_index.json")
    if index is None:
        raise UnknownCheckpoint(f"{path} is not a diffusers pipeline: it has no model_index.json")
    name = str(index.get("_class_name", ""))
    unet = _read_json(path / "unet" / "config.json") or {}
    dim = unet.get("cross_attention_dim")
    dim = dim[0] if isinstance(dim, list) and dim else dim
    architecture: Architecture = "other"
    if name.startswith("StableDiffusionXL"):
        encoder = index.get("text_encoder")
        has_first = isinstance(encoder, list) and encoder[:1] not in ([], [None])
        architecture = "sdxl" if has_first else "sdxl-refiner"
    elif name.startswith("StableDiffusion") and "Upscale" not in name and dim in (768, 1024):
        architecture = "sd15" if dim == 768 else "sd2"
    elif name.startswith("KandinskyV22"):
        architecture = "kandinsky22"
        name = CLASSES["kandinsky22"] if name == "KandinskyV22Pipeline" else name
    elif name.startswith("Kandinsky3"):
        architecture = "kandinsky3"
    channels = unet.get("in_channels")
    return Checkpoint(
        path,
        architecture,
        name,
        dim if isinstance(dim, int) else None,
        is_directory=True,
        in_channels=channels if isinstance(channels, int) else 0,
        variant=_variant(path, index),
    )


def _variant(path: Path, index: Mapping[str, Any]) -> str:
    """ "fp16" where a part has no other weights than `….fp16.safetensors`, as most downloads of SDXL have."""
    for part, named in index.items():
        folder = path / part
        if part.startswith("_") or not isinstance(named, list) or not folder.is_dir():
            continue
        weights = [one.name for one in folder.iterdir() if one.suffix in (".safetensors", ".bin")]
        for variant in VARIANTS:
            marked = [name for name in weights if f".{variant}." in name or f".{variant}-" in name]
            if weights and len(marked) == len(weights):
                return variant
    return ""


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UnknownCheckpoint(f"{path} cannot be read: {error}") from error
    return content if isinstance(content, dict) else None
