"""Enlarging pictures: finds the upscaler among the models, runs it, and says how it was done."""

from typing import get_args

from stoker.schemas.catalog import Model
from stoker.schemas.formats import PictureFormat
from stoker.schemas.job_events import ImageOutput
from stoker.schemas.jobs import Attachment, UpscaleInput
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.own_jobs import finished
from stoker.services.gateway.jobs.submission import with_input
from stoker.services.records.blobs import attach, get_pictures

MIN_MAGNITUDE, MAX_MAGNITUDE = 1, 3
FORMATS: tuple[PictureFormat, ...] = get_args(PictureFormat)
MAX_OUTPUT_PIXELS = 24_000_000
LEAST_SCALE = 2
"""Of an upscaler's pass."""


def check_options(magnitude: int, output_format: str, quality: int, prefix: str = "") -> None:
    """Raises RequestError 400 with the field."""
    if not MIN_MAGNITUDE <= magnitude <= MAX_MAGNITUDE:
        raise _invalid(f"{prefix}magnitude", f"must be {MIN_MAGNITUDE} to {MAX_MAGNITUDE}, not {magnitude}")
    if output_format not in FORMATS:
        name = f"{prefix}format" if prefix else "out_format"
        raise _invalid(name, f"must be one of {', '.join(FORMATS)}, not {output_format!r}")
    if not 1 <= quality <= 100:
        raise _invalid(f"{prefix}quality", f"must be 1 to 100, not {quality}")


def check_size(width: int | None, height: int | None, magnitude: int) -> None:
    """Raises RequestError 400 for a picture that no upscaler could enlarge so often; before it is drawn."""
    factor = LEAST_SCALE**magnitude
    if width and height and width * height * factor**2 > MAX_OUTPUT_PIXELS:
        raise _invalid(
            "superres_magnitude",
            f"{magnitude} makes {width}x{height} more than {MAX_OUTPUT_PIXELS // 10**6} megapixels: ask for "
            "less, or for a smaller size",
        )


def _format(name: str) -> PictureFormat:
    return next(known for known in FORMATS if known == name)


def _invalid(field: str, message: str) -> RequestError:
    return RequestError(400, f"{field} {message}", field=field, code="invalid_value")


def find_upscaler(gateway: Gateway) -> Model:
    """The upscaler of the catalog. Raises RequestError 503 when there is none that could run."""
    for name in sorted(gateway.models):
        model = gateway.models[name]
        depth = gateway.fleet.depths.get(name)
        if "SuperResolution" in model.features and (depth is None or not depth.impossible):
            return model
    raise RequestError(
        503,
        "super-resolution is not configured: add a model with `engine: spandrel` (or a diffusers upscaler with "
        "`features: [SuperResolution]`)",
        code="no_upscaler",
    )


async def enlarge(
    gateway: Gateway,
    exchange: Exchange,
    upscaler: Model,
    picture: bytes,
    magnitude: int,
    output_format: str,
    quality: int,
) -> tuple[bytes, str, dict[str, str]]:
    """The enlarged picture, its media type, and the headers that tell of it. The options are checked before.

    Raises RequestError.
    """
    job = gateway.submission.make_job(upscaler, "", UpscaleInput({}))
    file: Attachment = await attach(gateway.bus, f"{job.id}/input", picture)
    asked = UpscaleInput({"image": file}, magnitude, _format(output_format), quality)
    job = with_input(job, asked)
    completed, attached = await finished(gateway, exchange, job)
    output = completed.output
    assert isinstance(output, ImageOutput)
    (content,) = await get_pictures(gateway.bus, output, attached)
    headers = {
        "X-SR-Model": upscaler.name,
        "X-SR-Magnitude": str(magnitude),
        "X-SR-Passes": str(output.details.get("passes", magnitude)),
        "X-SR-Scale-Per-Pass": str(output.details.get("scale_per_pass", "")),
        "X-SR-Format": output_format,
    }
    return content, output.pictures[0].content_type, headers
