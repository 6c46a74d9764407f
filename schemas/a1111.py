"""The API of AUTOMATIC1111's web UI (/sdapi/v1), as far as Stoker serves it."""

from typing import Any

import msgspec


class Txt2ImgRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is left out is the model's own, not A1111's. Seeds of -1: by chance. hr_*: see DrawingFields."""

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = -1
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: int = 1
    n_iter: int = 1
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    override_settings: dict[str, Any] = {}
    override_settings_restore_afterwards: bool = True
    send_images: bool = True
    save_images: bool = False
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    styles: tuple[str, ...] = ()
    subseed: int = -1
    subseed_strength: float = 0.0
    seed_resize_from_w: int = 0
    seed_resize_from_h: int = 0
    enable_hr: bool = False
    denoising_strength: float | None = None
    hr_scale: float | None = None
    hr_upscaler: str | None = None
    hr_second_pass_steps: int | None = None
    hr_resize_x: int | None = None
    hr_resize_y: int | None = None
    hr_checkpoint_name: str | None = None
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    hr_prompt: str = ""
    hr_negative_prompt: str = ""
    restore_faces: bool | None = None
    refiner_checkpoint: str | None = None
    tiling: bool | None = None
    script_name: str | None = None
    alwayson_scripts: dict[str, Any] = {}


class Img2ImgRequest(Txt2ImgRequest, frozen=True, kw_only=True):
    """init_images, mask: base64, or URLs. inpainting_mask_invert: 1 draws where the mask is black.

    inpainting_fill: 0 covers what is to be drawn with the blur of its surroundings first, 1 draws over it as it
    is.
    """

    init_images: tuple[str, ...] = ()
    mask: str | None = None
    inpainting_mask_invert: int = 0
    inpainting_fill: int = 1


class Drawn(msgspec.Struct, frozen=True):
    """images: base64. info: JSON as a text, with the seeds and a line about each picture."""

    images: tuple[str, ...]
    parameters: dict[str, Any]
    info: str


class SdModel(msgspec.Struct, frozen=True):
    title: str
    model_name: str
    hash: str | None
    sha256: str | None
    filename: str
    config: str | None = None


class NamedSampler(msgspec.Struct, frozen=True):
    name: str
    aliases: tuple[str, ...] = ()
    options: dict[str, str] = {}


class NamedScheduler(msgspec.Struct, frozen=True):
    name: str
    label: str
    aliases: tuple[str, ...] = ()
    default_rho: float = -1.0
    need_inner_model: bool = False


class NamedLora(msgspec.Struct, frozen=True):
    name: str
    alias: str
    path: str
    metadata: dict[str, Any] = {}


class Embedding(msgspec.Struct, frozen=True, omit_defaults=True):
    """A textual inversion. shape: width of its vectors, all encoders together; reason: why it is left out."""

    shape: int
    vectors: int
    reason: str = ""
    step: int | None = None
    sd_checkpoint: str | None = None
    sd_checkpoint_name: str | None = None


class Embeddings(msgspec.Struct, frozen=True):
    """Textual inversions by the words that they are asked for with."""

    loaded: dict[str, Embedding]
    skipped: dict[str, Embedding]


class Options(msgspec.Struct, frozen=True, omit_defaults=True):
    """Settings, of which there is one: the model that requests without one use."""

    sd_model_checkpoint: str | None = None


class ProgressState(msgspec.Struct, frozen=True):
    job: str = ""
    job_count: int = 0
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0
    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job_timestamp: str = ""


class DrawingProgress(msgspec.Struct, frozen=True):
    """progress: 0 to 1; 0 while nothing is drawn. eta_relative: seconds."""

    progress: float
    eta_relative: float
    state: ProgressState
    current_image: str | None = None
    textinfo: str | None = None
