"""One call of a diffusers pipeline: its arguments, what is watched at each step, and the PNGs that come out."""

import inspect
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo

from schemas.jobs import Attachment, ImageInput, picture_seed
from services.worker.engines.base import EngineError, Stopped, Task

MAX_INPUT_PIXELS = 24_000_000
PREVIEW_EDGE_PX = 256
"""Longest edge of a preview; the true decoder is used only where it is quick (small latents)."""
SMALL_LATENT_CELLS = 32 * 32
POOLED_CELLS = 8

# Four latent channels to RGB for the common SD latent space: a linear fit, good enough to watch.
LATENT_TO_RGB = torch.tensor(
    [[0.298, 0.207, 0.208], [0.187, 0.286, 0.173], [-0.158, 0.189, 0.264], [-0.184, -0.271, -0.473]]
)


def open_image(file: Attachment, name: str) -> Image.Image:
    """A picture of an input, its size checked before a pixel is decoded. Raises EngineError."""
    too_large = f"{name} is more than {MAX_INPUT_PIXELS // 10**6} megapixels"
    try:
        image = Image.open(io.BytesIO(file.content))
        if image.width * image.height > MAX_INPUT_PIXELS:
            raise EngineError(too_large, "validation")
        return _as_mask(image) if name == "mask_image" else image.convert("RGB")
    except Image.DecompressionBombError as error:
        raise EngineError(too_large, "validation") from error
    except (OSError, SyntaxError) as error:
        raise EngineError(f"{name} is not a picture that can be read: {error}", "validation") from error


def _as_mask(image: Image.Image) -> Image.Image:
    """White where to draw. A mask with transparency means: draw where it is transparent, as OpenAI has it."""
    if "A" in image.getbands():
        return ImageChops.invert(image.getchannel("A"))
    return image.convert("L")


def parameters_of(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(pipeline.__call__).parameters


def arguments(pipeline: Any, tasks: Sequence[Task], default_edge_px: int | None) -> dict[str, Any]:
    """What the pipeline is called with: only what was asked for, and only what it knows.

    Raises EngineError for a parameter that the pipeline does not have.
    """
    asked = tasks[0].request.input
    assert isinstance(asked, ImageInput)
    known = parameters_of(pipeline)
    is_drawn_anew = "image" not in asked.files
    edge = default_edge_px if is_drawn_anew else None
    prompts = [task.request.input.prompt for task in tasks if isinstance(task.request.input, ImageInput)]
    wanted: dict[str, Any] = {
        "prompt": prompts if len(prompts) > 1 else prompts[0],
        "negative_prompt": asked.negative_prompt,
        "width": asked.width or edge,
        "height": asked.height or edge,
        "num_inference_steps": asked.num_inference_steps,
        "guidance_scale": asked.guidance_scale,
        **asked.parameters,
        **{name: open_image(file, name) for name, file in asked.files.items()},
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    if len(prompts) > 1 and "negative_prompt" in given:
        given["negative_prompt"] = [given["negative_prompt"]] * len(prompts)
    if not is_drawn_anew and "width" not in known:  # such pipelines take the size of their picture
        given = _resized(given)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise EngineError(f"{type(pipeline).__name__} takes no {', '.join(unknown)}", "validation")
    if asked.n > 1:
        given["num_images_per_prompt"] = asked.n
    seeds = [picture_seed(task.request.seed, index) for task in tasks for index in range(asked.n)]
    given["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return given


def _resized(given: dict[str, Any]) -> dict[str, Any]:
    """Width and height as the size of the pictures to start from."""
    image = given["image"]
    size = (given.pop("width", image.width), given.pop("height", image.height))
    size = (max(size[0] // 8 * 8, 8), max(size[1] // 8 * 8, 8))
    return given | {name: given[name].resize(size) for name in ("image", "mask_image") if name in given}


def steps_of(pipeline: Any, given: Mapping[str, Any]) -> int:
    """How many steps a call will take."""
    own = parameters_of(pipeline).get("num_inference_steps")
    steps = int(given.get("num_inference_steps") or (own.default if own is not None else 50))
    strength = given.get("strength")
    return max(int(steps * strength), 1) if strength is not None and "image" in given else steps


@dataclass(slots=True)
class StepWatch:
    """The callback after each step: reports it, sends previews, stops when everybody has cancelled."""

    tasks: Sequence[Task]
    steps: int
    latents: torch.Tensor | None = None
    _sent: dict[str, int] = field(default_factory=dict)

    def __call__(self, pipeline: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if all(task.cancelled.is_set() for task in self.tasks):
            raise Stopped
        self.latents = tensors.get("latents", self.latents)
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
        task.emit.preview(sent, step, image.width, image.height, png_of(image))
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


def description(
    asked: ImageInput, image: Image.Image, seed: int, steps: int, model: str, *, has_prompt: bool
) -> str:
    """How a picture was made, in the words that image tools write into a PNG's `parameters`."""
    negative = f"\nNegative prompt: {asked.negative_prompt}" if asked.negative_prompt and has_prompt else ""
    facts = {
        "Steps": steps,
        "CFG scale": asked.guidance_scale,
        "Seed": seed,
        "Size": f"{image.width}x{image.height}",
        "Model": model,
        "Version": "stoker",
    }
    told = ", ".join(f"{name}: {value}" for name, value in facts.items() if value is not None)
    return (asked.prompt + negative + "\n" if has_prompt else "") + told


def png_of(image: Image.Image, text: str = "") -> bytes:
    """A picture as PNG, with a text for image tools."""
    buffer = io.BytesIO()
    info = PngInfo()
    if text:
        info.add_text("parameters", text)
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
