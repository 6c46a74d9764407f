"""What Whisper listens to, worked out in pieces: faster-whisper's own takes three gigabytes for an hour."""

from typing import Any

import numpy
from faster_whisper.feature_extractor import FeatureExtractor

PIECE_FRAMES = 6000
"""A minute. A frame is a hundredth of a second."""
RANGE = 8.0
"""What is softer than the loudest by more than so many powers of ten counts as that soft."""


class PiecewiseFeatures(FeatureExtractor):  # type: ignore[misc]  # it has no types
    """The same numbers as the library's class gives."""

    def __call__(self, waveform: Any, padding: int = 160, chunk_length: int | None = None) -> Any:
        """The loudness of each pitch as powers of ten, float32, shape [pitches, frames].

        waveform: float32, shape [samples]. chunk_length: as the library has it; it is not used here.
        """
        edge = self.n_fft // 2
        padded = numpy.pad(numpy.pad(waveform, (0, padding)), edge, mode="reflect")
        frames = (len(padded) - self.n_fft) // self.hop_length
        window = numpy.hanning(self.n_fft + 1)[:-1].astype("float32")
        loudness = numpy.empty((len(self.mel_filters), frames), "float32")
        for first in range(0, frames, PIECE_FRAMES):
            end = min(first + PIECE_FRAMES, frames)
            piece = padded[first * self.hop_length : (end - 1) * self.hop_length + self.n_fft]
            waves = self.stft(
                piece, self.n_fft, self.hop_length, window=window, center=False, return_complex=True
            )
            power = numpy.abs(waves.astype("complex64")) ** 2
            loudness[:, first:end] = numpy.log10(numpy.maximum(self.mel_filters @ power, 1e-10))
        numpy.maximum(loudness, loudness.max() - RANGE, out=loudness)
        return (loudness + 4.0) / 4.0
