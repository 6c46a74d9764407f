"""Making a diffusers pipeline of a checkpoint: a directory, a single file, or Kandinsky's two halves.

A single file holds weights only. What else it needs (tokenizers, configurations) is a pipeline directory
without weights: the option `config`, or a folder beside the file named like it (`x/`, `x.config/`), or
`config/`. With none of these diffusers asks the hub for it.
"""

import os
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from stoker.services.worker.engines.base import EngineError
from stoker.services.worker.models.weights.detect import (
    BARE_ENCODER,
    Checkpoint,
    UnknownCheckpoint,
    detect,
    read_pickle,
)

MAX_REASON_CHARS = 400
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def device_of(options: dict[str, Any]) -> str:
    """The option `device`, else CUDA_DEVICE, else the GPU where there is one."""
    if "device" in options:
        return str(options["device"])
    return os.environ.get("CUDA_DEVICE", "cuda:0") if torch.cuda.is_available() else "cpu"


def dtype_of(options: dict[str, Any], device: str) -> torch.dtype:
    """The option `dtype`, else CUDA_DTYPE, else half precision on a GPU. Raises EngineError."""
    is_cuda = device.startswith("cuda")
    name = options.get("dtype") or (os.environ.get("CUDA_DTYPE", "fp16") if is_cuda else "fp32")
    if name not in DTYPES:
        raise EngineError(f"dtype is one of {', '.join(DTYPES)}, not {name!r}", "load_failed")
    return DTYPES[str(name)]


def examine(path: Path) -> Checkpoint:
    """What a checkpoint is. Raises EngineError."""
    try:
        return detect(path)
    except UnknownCheckpoint as error:
        raise EngineError(str(error), "load_failed") from error


def build(checkpoint: Checkpoint, options: dict[str, Any], dtype: torch.dtype) -> Any:
    """The pipeline on the CPU. Raises EngineError with what is wrong with the weights."""
    try:
        if checkpoint.architecture == "kandinsky22":
            pipeline = _kandinsky22(checkpoint, options, dtype)
        elif checkpoint.is_directory:
            pipeline = _from_directory(checkpoint.path, dtype, checkpoint.variant)
        elif checkpoint.transformer_class:
            pipeline = _from_transformer(checkpoint, options, dtype)
        elif checkpoint.architecture == "kandinsky3":
            pipeline = _with_unet_of(checkpoint, _from_directory(_rest_of(checkpoint, options), dtype))
        else:
            pipeline = _from_file(checkpoint, options, dtype)
    except UnknownCheckpoint as error:
        raise EngineError(str(error), "load_failed") from error
    except EngineError:
        raise
    except Exception as error:  # whatever a file makes the libraries raise
        raise EngineError(f"{checkpoint.path.name} cannot be loaded: {_why(error)}", "load_failed") from error
    _apply(pipeline, options)
    return pipeline


def _why(error: Exception) -> str:
    """An error of the libraries, in so many words as anybody reads."""
    if "snapshot folder" in str(error) or "offline" in str(error):
        return (
            "a single file has no configurations, and they are not in the hub's cache: put a directory of the "
            "same architecture beside it under its name, or name one with the option config"
        )
    return " ".join(str(error).split())[:MAX_REASON_CHARS] or type(error).__name__


def _from_directory(path: Path, dtype: torch.dtype, variant: str = "", **parts: Any) -> Any:
    given = {"dtype": dtype, "local_files_only": True, **_unless_safe(path), **parts}
    if variant:
        given["variant"] = variant
    return DiffusionPipeline.from_pretrained(path, **given)


def _unless_safe(path: Path) -> dict[str, Any]:
    """The safety checker, where a pipeline knows one, is left out: what is drawn is the operator's business."""
    index = path / "model_index.json"
    return {"safety_checker": None} if index.is_file() and "safety_checker" in index.read_text() else {}


def _from_file(checkpoint: Checkpoint, options: dict[str, Any], dtype: torch.dtype) -> Any:
    kind = getattr(diffusers, checkpoint.pipeline_class)
    config = _config_beside(checkpoint.path, options)
    source = {"config": str(config), "local_files_only": True} if config is not None else {}
    parts: dict[str, Any] = {"safety_checker": None} if checkpoint.architecture in ("sd15", "sd2") else {}
    if (vae := _vae(checkpoint, options, config, dtype)) is not None:
        parts["vae"] = vae
    if "text_encoder" in checkpoint.missing and config is not None:
        parts["text_encoder"] = _bare_encoder(checkpoint, config, dtype)
    return kind.from_single_file(str(checkpoint.path), torch_dtype=dtype, **source, **parts)


def _vae(checkpoint: Checkpoint, options: dict[str, Any], config: Path | None, dtype: torch.dtype) -> Any:
    """The VAE of the option `vae`; where a file has none, the one of what completes it. Raises EngineError."""
    named = options.get("vae")
    if named:
        path = Path(str(named).removeprefix("file://")).expanduser()
        path = path if path.is_absolute() else checkpoint.path.parent / path
        if not path.exists():
            raise EngineError(f"option vae: {path} is not there", "load_failed")
        if path.is_dir():
            return AutoencoderKL.from_pretrained(path, torch_dtype=dtype, local_files_only=True)
        beside = {"config": str(config / "vae"), "local_files_only": True} if config is not None else {}
        return AutoencoderKL.from_single_file(str(path), torch_dtype=dtype, **beside)
    if "vae" not in checkpoint.missing:
        return None
    if config is not None and any((config / "vae").glob("*.safetensors")):
        return AutoencoderKL.from_pretrained(config / "vae", torch_dtype=dtype, local_files_only=True)
    message = (
        f"{checkpoint.path.name} has no VAE: name one with the option vae (a file, or a folder of diffusers)"
    )
    raise EngineError(message, "load_failed")


def _bare_encoder(checkpoint: Checkpoint, config: Path, dtype: torch.dtype) -> Any:
    """The text encoder of a file whose names for it leave out `text_model.`."""
    encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(config / "text_encoder", local_files_only=True))
    weights = _weights_of(checkpoint.path)
    own = {
        key.removeprefix(BARE_ENCODER): value for key, value in weights.items() if key.startswith(BARE_ENCODER)
    }
    own.pop("embeddings.position_ids", None)  # which older versions kept
    encoder.load_state_dict(own)
    return encoder.to(dtype).eval()


def _weights_of(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a single file. Raises UnknownCheckpoint."""
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    return read_pickle(path)


def _from_transformer(checkpoint: Checkpoint, options: dict[str, Any], dtype: torch.dtype) -> Any:
    """A single file that holds the transformer, in the pipeline that holds the rest. Raises EngineError."""
    rest = _config_beside(checkpoint.path, options)
    if rest is None:
        raise EngineError(
            f"{checkpoint.path.name} holds the transformer of a {checkpoint.pipeline_class} only; put the "
            f"pipeline's directory beside it as {checkpoint.path.stem}/, or name it with the option config",
            "load_failed",
        )
    kind = getattr(diffusers, checkpoint.transformer_class)
    transformer = kind.from_single_file(
        str(checkpoint.path), config=str(rest / "transformer"), torch_dtype=dtype, local_files_only=True
    )
    return _from_directory(rest, dtype, transformer=transformer)


def _config_beside(path: Path, options: dict[str, Any]) -> Path | None:
    """The pipeline directory that completes a single file. Raises EngineError when the named one is missing."""
    named = options.get("config")
    if named:
        config = Path(str(named).removeprefix("file://")).expanduser()
        config = config if config.is_absolute() else path.parent / config
        if not (config / "model_index.json").is_file():
            raise EngineError(f"option config: {config} has no model_index.json", "load_failed")
        return config
    beside = (path.with_suffix(""), path.with_suffix(".config"), path.parent / "config")
    return next((found for found in beside if (found / "model_index.json").is_file()), None)


def _rest_of(checkpoint: Checkpoint, options: dict[str, Any]) -> Path:
    config = _config_beside(checkpoint.path, options)
    if config is None:
        raise EngineError(
            f"{checkpoint.path.name} holds the UNet of a Kandinsky model only; put the pipeline's directory "
            f"beside it as {checkpoint.path.stem}/, or name it with the option config",
            "load_failed",
        )
    return config


def _with_unet_of(checkpoint: Checkpoint, pipeline: Any) -> Any:
    """Put the UNet of a single Kandinsky file into the pipeline that holds the rest."""
    weights = _weights_of(checkpoint.path)
    own = {key.removeprefix("unet."): value for key, value in weights.items() if not key.startswith("movq.")}
    decoder = getattr(pipeline, "unet", None)
    if decoder is None:
        raise ValueError(f"{type(pipeline).__name__} has no unet")
    decoder.load_state_dict(own)
    return pipeline


def _kandinsky22(checkpoint: Checkpoint, options: dict[str, Any], dtype: torch.dtype) -> Any:
    """Prior and decoder in one: a combined directory, or a decoder with its prior (option, or beside it)."""
    path = checkpoint.path if checkpoint.is_directory else _rest_of(checkpoint, options)
    pipeline = _from_directory(path, dtype)
    if type(pipeline).__name__ == "KandinskyV22Pipeline":
        named = options.get("prior")
        beside = (path / "prior", path.with_name(path.name + "-prior"))
        priors = (Path(str(named)),) if named else beside
        found = next((prior for prior in priors if (prior / "model_index.json").is_file()), None)
        if found is None:
            raise EngineError(
                f"{path.name} is a Kandinsky 2.2 decoder; its prior is missing: put it at {beside[0]}, or name "
                "it with the option prior",
                "load_failed",
            )
        prior = _from_directory(found, dtype)
        parts = {f"prior_{name}": part for name, part in prior.components.items()}
        pipeline = diffusers.KandinskyV22CombinedPipeline(**pipeline.components, **parts)
    if not checkpoint.is_directory:
        pipeline = _with_unet_of(checkpoint, pipeline)
    return pipeline


def _apply(pipeline: Any, options: dict[str, Any]) -> None:
    """Options that hold for every picture. Raises EngineError."""
    pipeline.set_progress_bar_config(disable=True)
    if options.get("attention_slicing", _is_on("CUDA_ATTENTION_SLICING")):
        pipeline.enable_attention_slicing()
    if options.get("xformers", _is_on("CUDA_ENABLE_XFORMERS")) and torch.cuda.is_available():
        try:
            pipeline.enable_xformers_memory_efficient_attention()
        except ModuleNotFoundError as error:
            raise EngineError(f"xformers is asked for: {error}; pip install xformers", "load_failed") from error
    if options.get("compile") and getattr(pipeline, "unet", None) is not None:
        pipeline.unet = torch.compile(pipeline.unet, mode="reduce-overhead")


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "0").lower() in ("1", "true", "yes")


def weights_bytes(pipeline: Any) -> int:
    """Bytes of all weights of a pipeline."""
    return sum(bytes_of(part) for part in pipeline.components.values() if isinstance(part, torch.nn.Module))


def bytes_of(part: torch.nn.Module) -> int:
    """Bytes of the weights of one part."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*part.parameters(), *part.buffers()))
