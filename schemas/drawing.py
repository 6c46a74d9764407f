"""Fields that every way to ask for a picture has besides its own, as A1111 calls them."""

import msgspec

MAX_CLIP_SKIP = 24
"""Text encoders of Stable Diffusion have 12 layers, or 24; the engine knows which."""


class DrawingFields(msgspec.Struct, frozen=True, kw_only=True):
    """None: the model's default.

    prompt_weights: brackets in the prompts are weights, as in A1111, and BREAK begins a piece of 75 tokens.
    clip_skip: the text encoder's layer that is used, counted from the end as A1111 does; 1 is the last.
    """

    prompt_weights: bool | None = None
    clip_skip: int | None = None
