"""CLIP skip: the layer of a text encoder that is used, as people count it and as diffusers does.

People count as A1111 does, from the end: 1 is the last layer, 2 the one before it. diffusers counts the layers
that are left out beyond what the model was trained with, which for Stable Diffusion 1.x is none, and for models
with two text encoders (SDXL) one already: there 1 and 2 are both the model's own layer.
"""

from typing import Any

from stoker.services.worker.engines.base import EngineError


def layers_skipped(pipeline: Any, clip_skip: int | None) -> int | None:
    """The pipeline's `clip_skip` for A1111's; None where nothing is to be left out."""
    own = 2 if getattr(pipeline, "tokenizer_2", None) is not None else 1
    return None if clip_skip is None or clip_skip <= own else clip_skip - own


def check_layers(pipeline: Any, skipped: Any) -> None:
    """skipped: the pipeline's `clip_skip`. Raises EngineError where the encoder has not so many layers."""
    encoders = (getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2"))
    layers = [getattr(one.config, "num_hidden_layers", 0) for one in encoders if one is not None]
    most = min((one for one in layers if one), default=1) - 1
    if skipped is not None and not (isinstance(skipped, int) and 0 <= skipped <= most):
        message = f"clip_skip leaves out {skipped} layers of the text encoder, which can spare {most}: lower it"
        raise EngineError(message, "validation", field="clip_skip")
