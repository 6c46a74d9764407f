"""One function, several SDXL checkpoints: the payload says which, Stoker sends the call to where it is hot."""

from typing import Annotated, Any

import msgspec
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from stoker import ActionContext, FileRef, ModelRef, ResourceRequirements, Src, worker_function


class GenerateInput(msgspec.Struct):
    prompt: str
    model_key: str = "sdxl-base"
    negative_prompt: str = ""
    num_inference_steps: int = 28
    guidance_scale: float = 7.5
    width: int | None = None
    height: int | None = None


class GenerateOutput(msgspec.Struct):
    image: FileRef
    model_key: str
    seed: int


@worker_function(ResourceRequirements())
def generate(
    ctx: ActionContext,
    pipeline: Annotated[
        DiffusionPipeline,
        ModelRef(Src.PAYLOAD, "model_key"),  # Reads from payload.model_key
    ],
    payload: GenerateInput,
) -> GenerateOutput:
    """Draw a picture with the checkpoint of your choice."""

    def on_step(pipe: Any, step: int, timestep: int, state: dict[str, Any]) -> dict[str, Any]:
        ctx.progress(step + 1, payload.num_inference_steps)
        pipe._interrupt = ctx.cancelled
        return state

    draw: Any = pipeline  # the base class promises no call; every pipeline has one
    drawn: Any = draw(
        prompt=payload.prompt,
        negative_prompt=payload.negative_prompt,
        num_inference_steps=payload.num_inference_steps,
        guidance_scale=payload.guidance_scale,
        width=payload.width,
        height=payload.height,
        generator=torch.Generator().manual_seed(ctx.seed),
        callback_on_step_end=on_step,
    )
    ctx.raise_if_cancelled()
    return GenerateOutput(ctx.save_image(drawn.images[0], "picture.png"), payload.model_key, ctx.seed)
