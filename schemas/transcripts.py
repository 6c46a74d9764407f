"""What was said in a sound file, and when: the value of a transcription's result.

Times are seconds from the beginning of the sound.
"""

import msgspec


class SpokenWord(msgspec.Struct, frozen=True):
    """probability: 0 to 1."""

    word: str
    start: float
    end: float
    probability: float


class SpokenSegment(msgspec.Struct, frozen=True):
    """A sentence or so, with what the model says of it.

    id: counts from 0. seek: where its window of half a minute begins, in hundredths of a second. tokens: its
    words and times as the model's own tokens. no_speech_prob: 0 to 1.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class Transcript(msgspec.Struct, frozen=True):
    """language: ISO 639-1, as it was given or heard. duration: of the sound. text: of all segments.

    words: none unless they were asked for.
    """

    task: str
    language: str
    duration: float
    text: str
    segments: tuple[SpokenSegment, ...]
    words: tuple[SpokenWord, ...] = ()
