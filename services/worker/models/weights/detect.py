"""What a checkpoint is, read from the checkpoint itself: its header or model_index.json, never its name alone.

| architecture | told by | cross-attention |
|---|---|---|
| sd15 | one CLIP text encoder | 768 |
| sdxl | two text encoders | 2048 |
| sdxl-refiner | the second text encoder only | 1280 |
| kandinsky22, kandinsky3 | the pipeline's class, or the name where a single file does not tell | |
| other | any other pipeline directory | |

Nothing is executed: safetensors headers are JSON, and a .ckpt is read with weights only.
"""

import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Architecture = Literal["sd15", "sdxl", "sdxl-refiner", "kandinsky22", "kandinsky3", "other"]
Shapes = Mapping[str, tuple[int, ...]]

MAX_HEADER_BYTES = 100 * 1024 * 1024
SHOWN_KEYS = 3
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
CLASSES: dict[Architecture, str] = {
    "sd15": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sdxl-refiner": "StableDiffusionXLImg2ImgPipeline",
    "kandinsky22": "KandinskyV22CombinedPipeline",
    "kandinsky3": "Kandinsky3Pipeline",
}
ORIGINAL_ENCODERS: tuple[tuple[str, Architecture], ...] = (
    ("conditioner.embedders.1.", "sdxl"),
    ("conditioner.embedders.0.model.", "sdxl-refiner"),
    ("cond_stage_model.transformer.", "sd15"),
)  # text encoders in the original single-file layout, first match wins
_CROSS_ATTENTION = "attn2.to_k.weight"


class UnknownCheckpoint(ValueError):
    """Not a checkpoint that can be used; says what was found instead."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's kind. pipeline_class: its class in diffusers."""

    path: Path
    architecture: Architecture
    pipeline_class: str
    cross_attention_dim: int | None
    is_directory: bool


def detect(path: Path) -> Checkpoint:
    """Tell what a checkpoint is. Raises UnknownCheckpoint."""
    if path.is_dir():
        return _directory(path)
    shapes = tensor_shapes(path)
    architecture = _architecture(path, shapes)
    dim = next((shape[-1] for key, shape in shapes.items() if shape and key.endswith(_CROSS_ATTENTION)), None)
    return Checkpoint(path, architecture, CLASSES[architecture], dim, is_directory=False)


def tensor_shapes(path: Path) -> Shapes:
    """Names and shapes of the tensors of a .safetensors or .ckpt file. Raises UnknownCheckpoint."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UnknownCheckpoint(f"{path}: {error.strerror}") from error
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

    try:
        is_mapped = zipfile.is_zipfile(path)  # the form before that can only be read whole
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error):
            raise UnknownCheckpoint(
                f"{path.name} is refused: it would run code when loaded; ask for a .safetensors file"
            ) from error
        raise UnknownCheckpoint(f"{path.name} is not a checkpoint: {error}") from error
    except Exception as error:  # whatever a file makes torch raise
        raise UnknownCheckpoint(f"{path.name} cannot be read; is it truncated? ({error})") from error
    tensors = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict):
        raise UnknownCheckpoint(f"{path.name} holds {type(content).__name__}, not weights by name")
    return {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}


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
    raise UnknownCheckpoint(
        f"{path.name} is of no known architecture (sd15, sdxl, sdxl-refiner, kandinsky): "
        f"it has {len(shapes)} tensors, such as {keys}"
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
    elif name.startswith("StableDiffusion") and "Upscale" not in name and dim == 768:
        architecture = "sd15"
    elif name.startswith("KandinskyV22"):
        architecture = "kandinsky22"
        name = CLASSES["kandinsky22"] if name == "KandinskyV22Pipeline" else name
    elif name.startswith("Kandinsky3"):
        architecture = "kandinsky3"
    return Checkpoint(path, architecture, name, dim if isinstance(dim, int) else None, is_directory=True)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UnknownCheckpoint(f"{path} cannot be read: {error}") from error
    return content if isinstance(content, dict) else None
