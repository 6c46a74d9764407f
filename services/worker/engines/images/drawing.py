"""One call of a diffusers pipeline: its arguments, and what is watched at each step."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from schemas.jobs import ImageInput
from services.worker.engines.base import EngineError, Stopped, Task
from services.worker.engines.images.edits import Start, with_a_step
from services.worker.engines.images.layers import check_layers, layers_skipped
from services.worker.engines.images.variation import varied_noise
from services.worker.engines.images.writing import written

PREVIEW_EDGE_PX = 256
"""Longest edge of a preview; the true decoder is used only where it is quick (small latents)."""
SMALL_LATENT_CELLS = 32 * 32
POOLED_CELLS = 8

# Four latent channels to RGB for the common SD latent space: a linear fit, good enough to watch.
LATENT_TO_RGB = torch.tensor(
    [[0.298, 0.207, 0.208], [0.187, 0.286, 0.173], [-0.158, 0.189, 0.264], [-0.184, -0.271, -0.473]]
)


def parameters_of(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(pipeline.__call__).parameters


def arguments(
    pipeline: Any, tasks: Sequence[Task], default_edge_px: int | None, start: Start
) -> dict[str, Any]:
    """What the pipeline is called with: only what was asked for, and only what it knows.

    start: the pictures to draw from. Raises EngineError for a parameter that the pipeline does not have.
    """
    asked = tasks[0].request.input
    assert isinstance(asked, ImageInput)
    known = parameters_of(pipeline)
    prompts = [task.request.input.prompt for task in tasks if isinstance(task.request.input, ImageInput)]
    width, height = _size(asked, default_edge_px, start, known)
    wanted: dict[str, Any] = {
        "prompt": prompts if len(prompts) > 1 else prompts[0],
        "negative_prompt": asked.negative_prompt,
        "width": width,
        "height": height,
        "num_inference_steps": asked.num_inference_steps,
        "guidance_scale": asked.guidance_scale,
        "clip_skip": layers_skipped(pipeline, asked.clip_skip),
        **asked.parameters,
        **start.files,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    if len(prompts) > 1 and "negative_prompt" in given:
        given["negative_prompt"] = [given["negative_prompt"]] * len(prompts)
    unknown = [name for name in given if name not in known]
    if unknown:
        message = f"{type(pipeline).__name__} takes no {', '.join(unknown)}"
        raise EngineError(message, "validation", field=unknown[0])
    check_layers(pipeline, given.get("clip_skip"))
    if "image" in given and (strength := strength_of(pipeline, given)) is not None:
        given["strength"] = with_a_step(strength, _asked_steps(pipeline, given))
    if asked.n > 1:
        given["num_images_per_prompt"] = asked.n
    given["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds_of(tasks)]
    if asked.variation is not None:
        if "latents" not in known or start.files:
            message = f"{type(pipeline).__name__} makes no variations of pictures: leave out the subseed"
            raise EngineError(message, "validation", field="subseed_strength")
        given["latents"] = varied_noise(pipeline, given, asked.variation, asked.n)
    return given


def seeds_of(tasks: Sequence[Task]) -> list[int]:
    """The seeds of all pictures of a call."""
    inputs = [(task.request.input, task.request.seed) for task in tasks]
    return [
        one.seed_of(seed, index)
        for one, seed in inputs
        if isinstance(one, ImageInput)
        for index in range(one.n)
    ]


def _size(
    asked: ImageInput, default_edge_px: int | None, start: Start, known: Mapping[str, Any]
) -> tuple[int | None, int | None]:
    """Width and height to ask for, in pixels. Pipelines that know no width take the size of their picture."""
    if start.drawn_size is None:
        return asked.width or default_edge_px, asked.height or default_edge_px
    return start.drawn_size if "width" in known else (None, None)


def strength_of(pipeline: Any, given: Mapping[str, Any]) -> float | None:
    """How much of a picture is drawn anew, 0 to 1; None where a pipeline draws all of it."""
    own = parameters_of(pipeline).get("strength")
    value = given.get("strength", own.default if own is not None else None)
    return float(value) if isinstance(value, int | float) else None


def _asked_steps(pipeline: Any, given: Mapping[str, Any]) -> int:
    own = parameters_of(pipeline).get("num_inference_steps")
    return int(given.get("num_inference_steps") or (own.default if own is not None else 0) or 50)


def steps_of(pipeline: Any, given: Mapping[str, Any]) -> int:
    """How many steps a call will take."""
    steps, strength = _asked_steps(pipeline, given), given.get("strength")
    return max(int(steps * strength), 1) if strength is not None and "image" in given else steps


@dataclass(slots=True)
class StepWatch:
    """The callback after each step: reports it, sends previews, stops when everybody has cancelled.

    steps: of all calls. done: steps of calls before this one.
    """

    tasks: Sequence[Task]
    steps: int
    latents: torch.Tensor | None = None
    done: int = 0
    _sent: dict[str, int] = field(default_factory=dict)

    def __call__(self, pipeline: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if all(task.cancelled.is_set() for task in self.tasks):
            raise Stopped
        self.latents = tensors.get("latents", self.latents)
        step += self.done
        for index, task in enumerate(self.tasks):
            task.emit.step(step + 1, self.steps)
            if self.latents is not None and self._is_due(task, step + 1):
                self._preview(pipeline, task, index, step + 1)
        return tensors

    def _is_due(self, task: Task, step: int) -> bool:
        asked = task.request.input
        previews = asked.previews if isinstance(asked, ImageInput) else 0
        every = max(self.steps // (previews + 1), 1)
        sent = self._sent.get(task.request.job, 0)
        return sent < previews and step % every == 0 and step < self.steps

    def _preview(self, pipeline: Any, task: Task, index: int, step: int) -> None:
        assert self.latents is not None
        image = _preview_of(pipeline, self.latents[index : index + 1])
        sent = self._sent.get(task.request.job, 0)
        task.emit.preview(sent, step, image.width, image.height, written(image))
        self._sent[task.request.job] = sent + 1


def _preview_of(pipeline: Any, latents: torch.Tensor) -> Image.Image:
    """What a picture looks like so far: decoded where that is cheap, else a linear guess."""
    first = latents.detach()
    vae = getattr(pipeline, "vae", None)
    if vae is not None and first.shape[-1] * first.shape[-2] <= SMALL_LATENT_CELLS:
        decoded = vae.decode((first / vae.config.scaling_factor).to(vae.dtype)).sample
        pixels = (decoded[0].float().cpu() / 2 + 0.5).clamp(0, 1).permute(1, 2, 0)
    else:
        channels = first[0, :4].float().cpu()
        pixels = torch.einsum("chw,cr->hwr", channels, LATENT_TO_RGB[: channels.shape[0]])
        pixels = (pixels + 0.5).clamp(0, 1)
    image = Image.fromarray((pixels * 255).byte().numpy())
    scale = PREVIEW_EDGE_PX / max(image.size)
    return image if scale >= 1 else image.resize((int(image.width * scale), int(image.height * scale)))


def pooled_latents(latents: torch.Tensor) -> bytes:
    """The final latents of one picture, [1, 4, 8, 8] float16 little-endian: 512 bytes.

    Pooled in float32 by adaptive averages, NCHW.
    """
    first = latents.detach()[:, :4].float().cpu()
    pooled = torch.nn.functional.adaptive_avg_pool2d(first, POOLED_CELLS)
    content: bytes = pooled.to(torch.float16).contiguous().numpy().astype("<f2").tobytes()
    return content
