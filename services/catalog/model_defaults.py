"""What a model may have as defaults: checked when the configuration is read; no request could say otherwise."""

import math
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from stoker.schemas.drawing import MAX_CLIP_SKIP
from stoker.services.catalog.documents import Document, convert

Edge = Annotated[int, Meta(ge=8, le=2048, multiple_of=8)]


class Defaults(msgspec.Struct, frozen=True):
    """Defaults of pictures, videos, texts and speech."""

    width: Edge = 512
    height: Edge = 512
    num_inference_steps: Annotated[int, Meta(ge=1, le=150)] = 1
    guidance_scale: Annotated[float, Meta(ge=0, le=50)] = 0.0
    negative_prompt: str = ""
    num_frames: Annotated[int, Meta(ge=1, le=1000)] = 1
    prompt_weights: bool = False
    clip_skip: Annotated[int, Meta(ge=1, le=MAX_CLIP_SKIP)] = 1
    max_tokens: Annotated[int, Meta(ge=1)] = 1
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Meta(ge=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=-1)] = 0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    repeat_penalty: Annotated[float, Meta(gt=0)] = 1.0
    language: str = ""
    prompt: str = ""


def check_defaults(document: Document, path: tuple[str | int, ...], defaults: dict[str, Any]) -> None:
    """Raises ConfigurationError for a value that no request could have."""
    for name, value in defaults.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise document.place(*path, name).error(f"must be a number, not {value}")
    known = {name: value for name, value in defaults.items() if name in Defaults.__struct_fields__}
    convert(document, path, known, Defaults)
