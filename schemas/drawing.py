"""Fields that every way to ask for a picture has besides its own, as A1111 calls them, and what they become."""

import msgspec

MAX_CLIP_SKIP = 24
"""Text encoders of Stable Diffusion have 12 layers, or 24; the engine knows which."""
LATENT_UPSCALERS = (
    "Latent",
    "Latent (antialiased)",
    "Latent (bicubic)",
    "Latent (bicubic antialiased)",
    "Latent (nearest)",
    "Latent (nearest-exact)",
)
UPSCALERS = (*LATENT_UPSCALERS, "Lanczos", "Bicubic", "Nearest", "None")
"""What enlarges between the two passes of hires fix: in the latent space, or pictures. None is Lanczos too."""
MULTIPLE_PX = 8


class ControlRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A ControlNet of the model by its name, and the picture that it follows (base64, or a URL).

    weight: how strictly. guidance_start, guidance_end: from which share of the steps to which.
    """

    model: str
    image: str
    weight: float = 1.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0


class Control(msgspec.Struct, frozen=True, omit_defaults=True):
    """The same with the picture as a file. url: where that lies, until the gateway has fetched it."""

    name: str
    image: bytes
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    url: str = ""


class DrawingFields(msgspec.Struct, frozen=True, kw_only=True):
    """None: the model's default, or nothing.

    prompt_weights: brackets in the prompts are weights, as in A1111, and BREAK begins a piece of 75 tokens.
    clip_skip: the text encoder's layer that is used, counted from the end as A1111 does; 1 is the last.
    tiling: the picture goes on at its edges. subseed, subseed_strength: towards which other seed, and how far
    (0 to 1); a subseed of -1 is one by chance.
    enable_hr: draw, enlarge by hr_scale (or to hr_resize_x, hr_resize_y) with hr_upscaler, and draw from that
    at denoising_strength in hr_second_pass_steps (0: as many as before). controlnet: what the picture follows.
    """

    prompt_weights: bool | None = None
    clip_skip: int | None = None
    tiling: bool | None = None
    subseed: int | None = None
    subseed_strength: float | None = None
    enable_hr: bool | None = None
    hr_scale: float | None = None
    hr_upscaler: str | None = None
    hr_second_pass_steps: int | None = None
    hr_resize_x: int | None = None
    hr_resize_y: int | None = None
    denoising_strength: float | None = None
    controlnet: ControlRequest | None = None


class Variation(msgspec.Struct, frozen=True):
    """Another seed, and how far its noise is approached, 0 to 1. A negative seed is still to be chosen."""

    seed: int
    strength: float


class HiresFix(msgspec.Struct, frozen=True, omit_defaults=True):
    """A second pass over the enlarged picture. width, height: 0 is in proportion to the other; both 0: by
    scale.

    upscaler: one of UPSCALERS; "": the latent one where a model's latents can be enlarged, else Lanczos. steps:
    0 is as many as in the first pass. strength: how much is drawn anew, 0 to 1.
    """

    scale: float = 2.0
    width: int = 0
    height: int = 0
    upscaler: str = ""
    steps: int = 0
    strength: float = 0.75

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the second pass for those of the first, in pixels: multiples of MULTIPLE_PX."""
        if self.width or self.height:
            wide = self.width or self.height * width / height
            high = self.height or self.width * height / width
        else:
            wide, high = width * self.scale, height * self.scale
        return int(wide) // MULTIPLE_PX * MULTIPLE_PX, int(high) // MULTIPLE_PX * MULTIPLE_PX


def upscaler_named(name: str) -> str | None:
    """An upscaler as UPSCALERS has it, however it is written; None where there is none of the name."""
    return next((one for one in UPSCALERS if one.lower() == name.strip().lower()), None)
