"""Which models a LoRA fits, read from its header: the width of the cross-attention that it was trained on."""

import re
from pathlib import Path

from stoker.services.worker.models.weights.detect import UnknownCheckpoint, tensor_shapes

# The first matrix of a low-rank pair on a cross-attention key, as peft, kohya and early diffusers name it: its
# last dimension is the width of the text encoding.
_DOWN = re.compile(r"attn2.*to_k.*(lora_A|lora_down|lora\.down)")


def cross_attention_dim(path: Path) -> int | None:
    """The cross-attention dimension of a LoRA; None where it touches no cross-attention.

    Raises UnknownCheckpoint when the file is no LoRA.
    """
    shapes = tensor_shapes(path)
    if not any("lora" in key for key in shapes):
        raise UnknownCheckpoint(f"{path.name} is not a LoRA: none of its {len(shapes)} tensors is named so")
    return next((shape[-1] for key, shape in shapes.items() if shape and _DOWN.search(key)), None)


def why_unfit(path: Path, model_dim: int | None) -> str:
    """Why a LoRA cannot be used with a model of this cross-attention dimension; "" when it can."""
    try:
        dim = cross_attention_dim(path)
    except UnknownCheckpoint as error:
        return str(error)
    if dim is not None and model_dim is not None and dim != model_dim:
        return f"{path.name} is for cross_attention_dim {dim}, the model has {model_dim}"
    return ""
