"""Transcripts in the forms in which clients ask for them: JSON, text, and subtitles as SRT and WebVTT. Pure."""

import html
from collections.abc import Sequence

import msgspec

from stoker.schemas import wire
from stoker.schemas.openai import (
    SoundUsage,
    TimedWord,
    Transcription,
    TranscriptionRequest,
    TranslationRequest,
    VerboseTranscription,
)
from stoker.schemas.transcripts import SpokenSegment, Transcript

PLAIN = "text/plain; charset=utf-8"
JSON = "application/json"


def answer_of(transcript: Transcript, asked: TranslationRequest) -> tuple[bytes, str]:
    """The body of the answer that is asked for, and its media type."""
    match asked.response_format:
        case "json":
            return wire.encode(Transcription(transcript.text, SoundUsage(transcript.duration))), JSON
        case "verbose_json":
            return wire.encode(verbose(transcript, asked)), JSON
        case "text":
            return f"{transcript.text}\n".encode(), PLAIN
        case "srt":
            return srt(transcript.segments).encode(), PLAIN
        case "vtt":
            return vtt(transcript.segments).encode(), "text/vtt; charset=utf-8"


def verbose(transcript: Transcript, asked: TranslationRequest) -> VerboseTranscription:
    """With segments, unless words alone are asked for."""
    wanted = asked.timestamp_granularities if isinstance(asked, TranscriptionRequest) else ()
    words = tuple(TimedWord(word.word, word.start, word.end) for word in transcript.words)
    return VerboseTranscription(
        task=transcript.task,
        language=transcript.language,
        duration=transcript.duration,
        text=transcript.text,
        usage=SoundUsage(transcript.duration),
        words=words if "word" in wanted else msgspec.UNSET,
        segments=transcript.segments if "segment" in wanted or not wanted else msgspec.UNSET,
    )


def srt(segments: Sequence[SpokenSegment]) -> str:
    """SubRip: cues are numbered from 1, and milliseconds follow a comma."""
    cues = []
    for number, one in enumerate(segments, 1):
        times = f"{_clock(one.start, ',')} --> {_clock(one.end, ',')}"
        cues.append(f"{number}\n{times}\n{_line(one.text).replace('-->', '->')}\n\n")
    return "".join(cues)


def vtt(segments: Sequence[SpokenSegment]) -> str:
    """WebVTT: a heading comes first, and milliseconds follow a point."""
    cues = ["WEBVTT\n\n"]
    for one in segments:
        times = f"{_clock(one.start, '.')} --> {_clock(one.end, '.')}"
        cues.append(f"{times}\n{html.escape(_line(one.text), quote=False)}\n\n")
    return "".join(cues)


def _clock(seconds: float, point: str) -> str:
    """HH:MM:SS and milliseconds after `point`."""
    minutes, milliseconds = divmod(round(max(seconds, 0.0) * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, part = divmod(milliseconds, 1000)
    return f"{hours:02}:{minutes:02}:{whole:02}{point}{part:03}"


def _line(text: str) -> str:
    """In one line: an empty one would end the cue."""
    return " ".join(text.split())
