"""One call of a diffusers pipeline: its arguments, and what is watched at each step."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from stoker.schemas.jobs import ImageInput
from stoker.services.worker.engines.base import EngineError, Stopped, Task
from stoker.services.worker.engines.images.edits import Start, with_a_step
from stoker.services.worker.engines.images.latents import preview_of
from stoker.services.worker.engines.images.layers import check_layers, layers_skipped
from stoker.services.worker.engines.images.variation import varied_noise
from stoker.services.worker.engines.images.writing import written

PER_PROMPT = ("num_images_per_prompt", "num_videos_per_prompt")


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
    for name in unread(known, asked):
        given.pop(name, None)
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
        given[_per_prompt(pipeline, known)] = asked.n
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


def unread(known: Collection[str], asked: ImageInput) -> list[str]:
    """What was asked for, or is a default, and means nothing to a pipeline: it is left out, and told."""
    wanted = {"prompt": asked.prompt, "guidance_scale": asked.guidance_scale}
    wanted["strength"] = asked.parameters.get("strength")
    found = [name for name, value in wanted.items() if value is not None and name not in known]
    return found if asked.files else [name for name in found if name != "strength"]


def _per_prompt(pipeline: Any, known: Mapping[str, Any]) -> str:
    """What a pipeline calls how many it draws at once. Raises EngineError where it draws one."""
    found = next((name for name in PER_PROMPT if name in known), "")
    if not found:
        message = f"{type(pipeline).__name__} draws one at a time: ask for n = 1, several times"
        raise EngineError(message, "validation", field="n")
    return found


def size_of(given: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height that a call says; None where it leaves them to the pipeline."""
    width, height = given.get("width"), given.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


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

    steps: of all calls. done: steps of calls before this one. size: width and height in pixels, where they are
    known. latents: the last ones, as the family lays them out.
    """

    tasks: Sequence[Task]
    steps: int
    size: tuple[int, int] | None = None
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

    def old_callback(self, pipeline: Any, step: int, time: Any, latents: torch.Tensor) -> None:
        """The same for pipelines that call back with their latents alone."""
        self(pipeline, step, time, {"latents": latents})

    def _is_due(self, task: Task, step: int) -> bool:
        asked = task.request.input
        previews = asked.previews if isinstance(asked, ImageInput) else 0
        every = max(self.steps // (previews + 1), 1)
        sent = self._sent.get(task.request.job, 0)
        return sent < previews and step % every == 0 and step < self.steps

    def _preview(self, pipeline: Any, task: Task, index: int, step: int) -> None:
        assert self.latents is not None
        image = preview_of(pipeline, self.latents[index : index + 1], self.size)
        if image is None:
            return
        sent = self._sent.get(task.request.job, 0)
        task.emit.preview(sent, step, image.width, image.height, written(image))
        self._sent[task.request.job] = sent + 1
