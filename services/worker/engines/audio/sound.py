"""From a sound file to samples: whatever FFmpeg reads of FORMATS, as PyAV brings it along.

The bytes are a stranger's: only these formats are tried, none of which names further files or addresses, and
what unpacks to more than a limit is refused before it is in memory.
"""

import io
from collections.abc import Iterator
from typing import Any

import av
import numpy

from stoker.services.worker.engines.base import Cancellation, EngineError, Stopped

RATE_HZ = 16_000
"""What Whisper listens to: one channel of so many samples a second."""
FORMATS = (
    "wav",
    "mp3",
    "flac",
    "ogg",
    "matroska",
    "webm",
    "mov",
    "mp4",
    "m4a",
    "aac",
    "mpeg",
    "aiff",
    "au",
    "amr",
)
FULL_SCALE = 32768.0


def samples_of(content: bytes, most_s: float, cancelled: Cancellation) -> Any:
    """Samples as float32 of -1 to 1, shape [samples], RATE_HZ a second. A file that breaks off is read up to
    there.

    Raises EngineError (validation, `file`) for what is no sound or lasts longer than `most_s` seconds, Stopped.
    """
    pieces: list[Any] = []
    count = 0
    try:
        for piece in _pieces(content):
            if cancelled.is_set():
                raise Stopped
            pieces.append(piece)
            count += len(piece)
            if count > most_s * RATE_HZ:
                message = (
                    f"the sound is longer than {most_s:g} s: send it in parts, or raise the model's max_audio_s"
                )
                raise _refused(message, "audio_too_long")
    except (av.FFmpegError, ValueError) as error:
        if not count:
            raise _refused(f"the file is no sound that can be read ({_reason(error)}): {_REMEDY}") from error
    if not count:
        raise _refused(f"the file has no sound in it: {_REMEDY}")
    return numpy.concatenate(pieces).astype(numpy.float32) / FULL_SCALE


_REMEDY = "send flac, mp3, mp4, m4a, ogg, wav or webm"


def _pieces(content: bytes) -> Iterator[Any]:
    """The samples in order, int16, as they are unpacked. Raises av.FFmpegError, ValueError."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
    options = {"format_whitelist": ",".join(FORMATS)}
    with av.open(io.BytesIO(content), mode="r", metadata_errors="ignore", options=options) as container:
        if not container.streams.audio:
            return
        for frame in container.decode(audio=0):
            frame.pts = None  # files that were cut have times that do not begin at 0
            for unpacked in resampler.resample(frame):
                yield unpacked.to_ndarray()[0]
        for unpacked in resampler.resample(None):
            yield unpacked.to_ndarray()[0]


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", "") or error)


def _refused(message: str, code: str = "invalid_value") -> EngineError:
    return EngineError(message, "validation", code=code, field="file")
