"""Videos: what a pipeline draws as frames, and writes as MP4, WebP, GIF or animated PNG."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy
from PIL import Image

from stoker.schemas.discovery import FRAMES
from stoker.schemas.formats import OutputFormat
from stoker.schemas.jobs import ImageInput
from stoker.services.worker.engines.base import EngineError

RATES = {
    "AnimateDiff": 8,
    "CogVideoX": 8,
    "HunyuanVideo": 24,
    "Kandinsky5": 24,
    "LTX": 24,
    "Mochi": 30,
    "StableVideoDiffusion": 7,
    "Wan": 16,
}
"""Frames per second that families were trained at, by the beginning of their class's name."""
DEFAULT_RATE = 16
MAX_RATE = 120
BEST_CRF, WORST_CRF = 14, 51
"""x264's scale. Quality 100 is the first; two points of quality are one of it: 92 is 18, which looks like
what was drawn."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames of one size. rate: frames per second."""

    frames: list[Image.Image]
    rate: float

    @property
    def width(self) -> int:
        return self.frames[0].width

    @property
    def height(self) -> int:
        return self.frames[0].height


def makes_clips(known: Mapping[str, Any]) -> bool:
    """Whether a pipeline with these parameters makes videos."""
    return any(name in known for name in FRAMES)


def rate_of(name: str, known: Mapping[str, Any], given: Mapping[str, Any], asked: ImageInput) -> float:
    """Frames per second of a video: of the request, else the family's; 0 of pictures.

    name: of the pipeline's class. known: its parameters. given: the call's arguments. Raises EngineError, also
    for a file that what is drawn cannot be.
    """
    if not makes_clips(known):
        if asked.output_format in ("mp4", "gif"):
            message = f"{name} makes no videos: ask for png, jpeg or webp"
            raise EngineError(message, "validation", field="output_format")
        return 0.0
    if asked.output_format == "jpeg":
        message = "a video is no JPEG: ask for mp4, webp, gif or png (animated)"
        raise EngineError(message, "validation", field="output_format")
    own = given.get("frame_rate") or given.get("fps")
    trained = next((rate for start, rate in RATES.items() if name.startswith(start)), DEFAULT_RATE)
    rate = asked.fps or own or trained
    if not isinstance(rate, int | float) or not 0 < rate <= MAX_RATE:
        message = f"fps must be a number over 0 and at most {MAX_RATE}, not {rate!r}"
        raise EngineError(message, "validation", field="fps")
    return float(rate)


def clips_of(drawn: Any, rate: float) -> list[Clip | None]:
    """drawn: [n, frames, height, width, 3] of 0 to 1, or lists of pictures. None for one that is NaN."""
    found: list[Clip | None] = []
    for frames in drawn:
        if isinstance(frames, numpy.ndarray):
            if not numpy.isfinite(frames).all():
                found.append(None)
                continue
            frames = [Image.fromarray(one) for one in (frames * 255).round().astype("uint8")]
        found.append(Clip(list(frames), rate))
    return found


def written_clip(clip: Clip, kind: OutputFormat | None, quality: int, text: str = "") -> tuple[bytes, str]:
    """A video as a file, with its media type. kind: None is MP4. text: how it was made."""
    match kind:
        case None | "mp4":
            return _mp4(clip, quality, text), "video/mp4"
        case "png" | "webp" | "gif":
            return _animated(clip, kind, quality), f"image/{kind}"
    raise AssertionError("refused before it was drawn")


def _animated(clip: Clip, kind: str, quality: int) -> bytes:
    content = io.BytesIO()
    first, *others = clip.frames
    options: dict[str, Any] = {"save_all": True, "append_images": others, "duration": round(1000 / clip.rate)}
    options |= {"quality": quality} if kind == "webp" else {}
    first.save(content, kind.upper(), loop=0, **options)
    return content.getvalue()


def _mp4(clip: Clip, quality: int, text: str) -> bytes:
    """H.264, which every browser plays. One thread: the same frames make the same bytes on every machine."""
    try:
        import av
    except ImportError as error:
        message = "this worker has no av, which writes MP4: pip install av, or ask for webp"
        raise EngineError(message, "validation", field="output_format") from error
    content = io.BytesIO()
    size = (clip.width - clip.width % 2, clip.height - clip.height % 2)  # the colours are at half size
    with av.open(content, "w", format="mp4") as container:
        if text:
            container.metadata["comment"] = text
        rate = Fraction(clip.rate).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        crf = min(BEST_CRF + (100 - quality) // 2, WORST_CRF)
        # mbtree reads memory that nobody has written to: of 180 files of the same frames 8 were others
        stream.options = {"crf": str(crf), "preset": "fast", "x264-params": "mbtree=0"}
        for frame in clip.frames:
            whole = frame if frame.size == size else frame.crop((0, 0, *size))
            container.mux(stream.encode(av.VideoFrame.from_image(whole)))
        container.mux(stream.encode())
    return content.getvalue()
