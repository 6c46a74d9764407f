"""ControlNets: a picture that what is drawn follows (edges, depth, a pose), on the weights that are loaded.

A model names its ControlNets (option `controlnets`: name → a folder of diffusers). One is read when it is first
asked for, and stays as long as the model's weights. Its pipeline is of the class that diffusers has for the
task: `…ControlNetPipeline`, `…ControlNetImg2ImgPipeline`, `…ControlNetInpaintPipeline`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers

from stoker.schemas.drawing import Control
from stoker.services.worker.engines.base import EngineError
from stoker.services.worker.engines.images.drawing import parameters_of
from stoker.services.worker.engines.images.reading import opaque, read_picture
from stoker.services.worker.models.weights.detect import Checkpoint

TASKS = ("Img2ImgPipeline", "InpaintPipeline", "Pipeline")
"""How the names of classes end, by task."""
FIELD = "controlnet"
LATENT_CHANNELS = 4
"""What goes into a UNet that is given latents and nothing else."""


class Controls:
    """The ControlNets of one pipeline's weights, by path."""

    def __init__(self) -> None:
        self._networks: dict[str, Any] = {}
        self._pipelines: dict[tuple[str, str], Any] = {}

    @property
    def networks(self) -> tuple[Any, ...]:
        return tuple(self._networks.values())

    def pipeline(
        self, plain: Any, checkpoint: Checkpoint, control: Control, named: Mapping[str, Any], device: str
    ) -> Any:
        """The pipeline that draws as `plain` does, with the control. named: path by name.

        Raises EngineError.
        """
        if control.name not in named:
            known = ", ".join(sorted(named)) or "none is configured"
            message = f"there is no ControlNet {control.name!r}; known are: {known}"
            raise EngineError(message, "validation", field=f"{FIELD}.model")
        if checkpoint.in_channels > LATENT_CHANNELS or checkpoint.architecture == "sdxl-refiner":
            message = f"{checkpoint.path.name} takes no ControlNet: it draws into pictures only"
            raise EngineError(message, "validation", field=FIELD)
        path = str(named[control.name])
        key = (type(plain).__name__, path)
        if key not in self._pipelines:
            kind = _class_for(plain)
            if path not in self._networks:
                self._networks[path] = _read(control.name, path, plain.dtype).to(device)
            made = kind.from_pipe(plain, controlnet=self._networks[path])
            made.set_progress_bar_config(disable=True)
            self._pipelines[key] = made
        return self._pipelines[key]

    def to(self, device: str) -> None:
        for network in self._networks.values():
            network.to(device)


def _class_for(plain: Any) -> Any:
    name = type(plain).__name__
    task = next(one for one in TASKS if name.endswith(one))
    kind = getattr(diffusers, f"{name.removesuffix(task)}ControlNet{task}", None)
    if kind is None:
        raise EngineError(f"{name} takes no ControlNet", "validation", field=FIELD)
    return kind


def _read(name: str, path: str, dtype: Any) -> Any:
    """Raises EngineError "load_failed"."""
    folder = Path(path.removeprefix("file://")).expanduser()
    try:
        kind = json.loads((folder / "config.json").read_text())["_class_name"]
        return getattr(diffusers, kind).from_pretrained(folder, torch_dtype=dtype, local_files_only=True)
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        message = f"the ControlNet {name!r} cannot be read from {folder}: {str(error)[:200]}"
        raise EngineError(message, "load_failed") from error


def control_arguments(pipeline: Any, control: Control) -> dict[str, Any]:
    """What the pipeline is called with besides. Raises EngineError for a picture that cannot be read."""
    known = parameters_of(pipeline)
    picture = opaque(read_picture(control.image, f"{FIELD}.image"))
    given = {
        "control_image" if "control_image" in known else "image": picture,
        "controlnet_conditioning_scale": control.weight,
        "control_guidance_start": control.start,
        "control_guidance_end": control.end,
    }
    return {name: value for name, value in given.items() if name in known}
