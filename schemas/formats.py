"""Formats of files that are drawn."""

from typing import Literal

PictureFormat = Literal["png", "jpeg", "webp"]
OutputFormat = Literal["png", "jpeg", "webp", "gif", "mp4"]
"""Of pictures the first three, of videos all but JPEG (PNG and WebP are animated then)."""
DIALECT = "https://json-schema.org/draft/2020-12/schema"
"""What our JSON Schemas are written in."""
