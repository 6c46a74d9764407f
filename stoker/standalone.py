"""One Stable Diffusion pipeline in this very process, without NATS: for scripts, notebooks and debugging.

The interface of document 003: configured by MODEL_ROOT and MODEL (SDXL_MODEL_ROOT and SDXL_MODEL first, for
SDXL), CUDA_DEVICE, CUDA_DTYPE, CUDA_ENABLE_XFORMERS and CUDA_ATTENTION_SLICING; draws with the LCM scheduler.
"""

import asyncio
import base64
import os
import random
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stoker.functions.output import OutputPart
from stoker.schemas.jobs import ImageInput
from stoker.services.worker.engines.base import (
    Cancellation,
    EngineError,
    Images,
    ModelFiles,
    Request,
)
from stoker.services.worker.engines.images.diffusers import DiffusersEngine
from stoker.services.worker.engines.registry import CAPABILITIES

MODEL = "standalone"
MAX_SEED = 2**32 - 1


@dataclass(frozen=True, slots=True)
class StyleLoraRequest:
    """A style and its level; 0 is off."""

    style: str | None = None
    level: int = 0


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What to draw. size: "WxH", None for the architecture's own. seed: random without one."""

    prompt: str
    size: str | None = None
    num_inference_steps: int = 4
    guidance_scale: float = 1.0
    seed: int | None = None
    negative_prompt: str | None = None
    style_lora: StyleLoraRequest = StyleLoraRequest()


@dataclass(slots=True)
class Job:
    """A request and the future of who waits for it."""

    req: GenerateRequest
    fut: "Future[Any]" = field(default_factory=Future)
    submitted_at: float = field(default_factory=time.time)


class _Silent:
    """An emitter that nobody listens to."""

    def text(self, text: str, tokens: int = 1, *, is_reasoning: bool = False, logprobs: Any = ()) -> None: ...

    def calls(self, parts: Any, tokens: int) -> None: ...

    def step(self, step: int, steps: int) -> None: ...

    def preview(self, index: int, step: int, width: int, height: int, png: bytes) -> None: ...

    def printed(self, output: OutputPart) -> None:
        """Functions do not run here."""

    def drawn(self, kept: int, read: int) -> None: ...


class DiffusersCudaWorker:
    """SD1.5 by the environment. Raises EngineError when the model cannot be loaded."""

    architecture = "sd15"
    default_size = "512x512"
    variables: tuple[tuple[str, ...], tuple[str, ...]] = (("MODEL_ROOT",), ("MODEL",))

    def __init__(self, worker_id: int) -> None:
        self.worker_id = worker_id
        roots, models = self.variables
        path = Path(_first(roots)).expanduser() / _first(models)
        self._engine = DiffusersEngine(CAPABILITIES["diffusers"])
        found = self._engine.describe(ModelFiles(MODEL, path, {}))["architecture"]
        if found != self.architecture:
            raise EngineError(
                f"{path.name} is {found}, and {type(self).__name__} draws with {self.architecture}",
                "load_failed",
            )
        self._engine.load(ModelFiles(MODEL, path, {"scheduler": "lcm"}))

    def run_job(self, job: Job) -> tuple[bytes, int]:
        """The PNG and the seed. Raises EngineError, ValueError for a size that is none."""
        drawn = self._draw(job, has_latents=False)
        return drawn.images[0], drawn.pictures[0].seed

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        """The PNG, the seed, and the final latents: [1, 4, 8, 8] float16, NCHW, 512 bytes."""
        drawn = self._draw(job, has_latents=True)
        latents = base64.b64decode(drawn.details["latents"][0])
        return drawn.images[0], drawn.pictures[0].seed, latents

    def _draw(self, job: Job, *, has_latents: bool) -> Images:
        asked = job.req
        width, separator, height = (asked.size or self.default_size).partition("x")
        if not (separator and width.isdecimal() and height.isdecimal()):
            raise ValueError(f"size must look like 512x512, not {asked.size!r}")
        drawn = ImageInput(
            prompt=asked.prompt,
            negative_prompt=asked.negative_prompt,
            width=int(width),
            height=int(height),
            num_inference_steps=asked.num_inference_steps,
            guidance_scale=asked.guidance_scale,
            has_latents=has_latents,
        )
        seed = random.randint(0, MAX_SEED) if asked.seed is None else asked.seed
        request = Request(job="standalone", input=drawn, seed=seed, title=MODEL)
        images = asyncio.run(self._engine.run(MODEL, request, _Silent(), Cancellation()))
        assert isinstance(images, Images)
        return images


class DiffusersSDXLCudaWorker(DiffusersCudaWorker):
    """SDXL by the environment."""

    architecture = "sdxl"
    default_size = "1024x1024"
    variables = (("SDXL_MODEL_ROOT", "MODEL_ROOT"), ("SDXL_MODEL", "MODEL"))


def _first(variables: tuple[str, ...]) -> str:
    """The first of these environment variables that is set. Raises EngineError."""
    for variable in variables:
        if value := os.environ.get(variable):
            return value
    raise EngineError(f"set {' or '.join(variables)} in the environment", "load_failed")
