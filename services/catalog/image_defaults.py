"""What a model that draws may have as defaults: checked when the configuration is read."""

from typing import Annotated, Any

import msgspec

from schemas.drawing import MAX_CLIP_SKIP
from services.catalog.documents import Document, convert

CHECKED = ("prompt_weights", "clip_skip")


class _Checked(msgspec.Struct, frozen=True):
    prompt_weights: bool = False
    clip_skip: Annotated[int, msgspec.Meta(ge=1, le=MAX_CLIP_SKIP)] = 1


def check_image_defaults(document: Document, path: tuple[str | int, ...], defaults: dict[str, Any]) -> None:
    """Raises ConfigurationError for a value that no request could have."""
    convert(document, path, {name: defaults[name] for name in CHECKED if name in defaults}, _Checked)
