"""What a pipeline takes, read from the signature of its `__call__` with inspect; no weights are loaded.

Traps: `prompt` defaults to None in several pipelines and is required all the same; `**kwargs` is no parameter;
classes that draw from a picture are found through diffusers' own table of tasks.
"""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import diffusers
import msgspec
from diffusers.pipelines import auto_pipeline

from stoker.schemas.discovery import Inputs, Method, Parameter, Schema
from stoker.services.worker.engines.base import EngineError
from stoker.services.worker.engines.images.clips import makes_clips
from stoker.services.worker.models.weights.detect import Checkpoint

OURS = {"callback_steps", "return_dict", "output_type"}
"""Parameters that the engine gives itself."""
FILES = {"image", "mask_image", "control_image"}
TENSORS = ("latents", "embeds", "attention_mask")
"""How parameters end that are tensors, with an annotation or without."""
PLAIN, NOT_PLAIN = {"int", "float", "bool", "str"}, {"Tensor", "FloatTensor", "dict", "Dict", "Callable"}
"""Words of annotations: of what JSON can say, and of what it cannot."""
DEFAULTS_SHOWN = ("num_inference_steps", "guidance_scale", "width", "height", "strength", "negative_prompt")
_TASKS = {
    "image_to_image": ("image-to-image", auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING),
    "inpaint": ("inpainting", auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING),
}


MORE_TASKS = {
    "ChromaPipeline": {"image_to_image": "ChromaImg2ImgPipeline"},
    "FluxKontextPipeline": {"inpaint": "FluxKontextInpaintPipeline"},
    "LTXPipeline": {"image_to_image": "LTXImageToVideoPipeline"},
    "SanaSprintPipeline": {"image_to_image": "SanaSprintImg2ImgPipeline"},
}
"""Classes for the same weights that diffusers' own table leaves out."""


def task_classes(pipeline_class: str) -> dict[str, Any]:
    """The classes that do other tasks with the same weights, by method."""
    more = MORE_TASKS.get(pipeline_class, {})
    return {method: getattr(diffusers, name) for method, name in more.items()} | {
        method: found
        for method, (_, table) in _TASKS.items()
        if (found := auto_pipeline._get_task_class(table, pipeline_class, False)) is not None
    }


def schema_of(model: str, checkpoint: Checkpoint) -> Schema:
    """The schema of a checkpoint's pipeline. Raises EngineError when diffusers has no such class."""
    kind = getattr(diffusers, checkpoint.pipeline_class, None)
    if kind is None:
        raise EngineError(f"diffusers has no pipeline class {checkpoint.pipeline_class}", "load_failed")
    calls = {"__call__": kind, **task_classes(checkpoint.pipeline_class)}
    methods = {name: Method(parameters_of(one)) for name, one in calls.items()}
    own = methods["__call__"].parameters
    defaults = {name: own[name].default for name in DEFAULTS_SHOWN if name in own}
    defaults |= {name: defaults[name] or size for name, size in _own_size(checkpoint).items() if name in own}
    return Schema(
        model_id=model,
        pipeline_class=checkpoint.pipeline_class,
        architecture=checkpoint.architecture,
        capabilities=_capabilities(checkpoint, methods),
        inputs=Inputs(
            required=tuple(name for name, one in own.items() if one.required),
            optional=tuple(name for name, one in own.items() if not one.required),
        ),
        methods=methods,
        defaults={name: value for name, value in defaults.items() if value is not None},
    )


def _capabilities(checkpoint: Checkpoint, methods: dict[str, Method]) -> tuple[str, ...]:
    found = [name for method, (name, _) in _TASKS.items() if method in methods]
    own = methods["__call__"].parameters
    if makes_clips(own):
        return ("image-to-video" if "image" in own and own["image"].required else "text-to-video",)
    if "ControlNet" in checkpoint.pipeline_class:  # its `image` is what the picture is to follow
        return ("controlnet", *found)
    if "Upscale" in checkpoint.pipeline_class:
        return ("super-resolution",)
    if "image" in own and own["image"].required:
        return tuple(dict.fromkeys(["inpainting" if "mask_image" in own else "image-to-image", *found]))
    return ("text-to-image", *found)


def parameters_of(kind: Any) -> dict[str, Parameter]:
    """The parameters of a pipeline class that can be given in a request."""
    signature = inspect.signature(kind.__call__)
    takes_embeddings_only = "prompt" not in signature.parameters
    found: dict[str, Parameter] = {}
    for name, parameter in signature.parameters.items():
        is_variable = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if name == "self" or is_variable or name in OURS or "callback" in name:
            continue
        has_default = parameter.default is not parameter.empty
        if has_default and not _can_be_given(name, parameter):
            continue
        needs_value = name == "prompt" or (name in ("image", "mask_image") and parameter.default is None)
        found[name] = Parameter(
            name=name,
            required=not has_default or (needs_value and not takes_embeddings_only),
            default=_plain(parameter.default) if has_default else None,
            annotation=_annotation(parameter.annotation),
        )
    return found


def _can_be_given(name: str, parameter: inspect.Parameter) -> bool:
    """Whether a request can say it: pictures, what JSON can say, and the generator, which is a seed."""
    if name in FILES or name == "generator":
        return True
    if name.endswith(TENSORS):
        return False
    words = set(re.findall(r"\w+", _annotation(parameter.annotation)))
    return not words or bool(words & PLAIN and not words & NOT_PLAIN)


def _plain(value: Any) -> Any:
    """A default as JSON can say it."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value))
    except TypeError:
        return None


def _annotation(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    if isinstance(annotation, type):
        return annotation.__name__
    return str(annotation).replace("typing.", "")


def _own_size(checkpoint: Checkpoint) -> dict[str, int]:
    """Width and height that the pipeline draws by itself: its latent size times its VAE's factor."""
    folder = checkpoint.path if checkpoint.is_directory else checkpoint.path.with_suffix("")
    edge = _latent_size(folder) * _vae_factor(folder)
    if not edge:
        edge = {"sdxl": 1024, "sdxl-refiner": 1024, "kandinsky3": 1024}.get(checkpoint.architecture, 512)
    return {"width": edge, "height": edge}


def _config(folder: Path, part: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / part / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _latent_size(folder: Path) -> int:
    size = _config(folder, "unet").get("sample_size") or 0
    return size if isinstance(size, int) else 0


def _vae_factor(folder: Path) -> int:
    blocks = _config(folder, "vae").get("block_out_channels") or []
    return 2 ** (len(blocks) - 1) if blocks else 0
