"""What a pipeline takes, read from its signature: the body of the discovery routes' `schema`."""

from typing import Any

import msgspec


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of a method. annotation: as it is written in the source."""

    name: str
    required: bool
    default: Any = None
    annotation: str = ""


class Method(msgspec.Struct, frozen=True):
    parameters: dict[str, Parameter]


class Inputs(msgspec.Struct, frozen=True):
    required: tuple[str, ...]
    optional: tuple[str, ...]


FRAMES = ("num_frames", "video_length")
"""Parameters that only pipelines have which make videos."""


class Schema(msgspec.Struct, frozen=True):
    """A model's schema, found without loading its weights and kept in the bucket `stoker_catalog`."""

    model_id: str
    pipeline_class: str
    architecture: str
    capabilities: tuple[str, ...]
    inputs: Inputs
    methods: dict[str, Method]
    defaults: dict[str, Any]


def makes_videos(schema: Schema) -> bool:
    """Whether the model draws frames."""
    own = schema.methods.get("__call__")
    return own is not None and any(name in own.parameters for name in FRAMES)
