"""From a request to listen to the input of a job: what is asked for, and what of it is refused. Pure."""

import re
from typing import Any, Literal

import msgspec

from stoker.schemas.catalog import Model
from stoker.schemas.jobs import Attachment, TranscriptionInput
from stoker.schemas.openai import TranscriptionRequest, TranslationRequest
from stoker.services.gateway.edge.encoded import decoded
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.request_rules import within

AUDIO = "audio"
"""The file of a transcription's input."""
MAX_PROMPT_CHARS = 10_000
"""Whisper reads the last 224 tokens of a prompt."""
MAX_TEMPERATURE = 1.0
STREAMED_FORMATS = ("json", "text")
_LANGUAGE = re.compile(r"[a-z]{2,3}")


class TranscriptionJobInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`input` of a transcription job. file: the sound as a data: URL, or the URL of another job's file."""

    file: str
    task: Literal["transcribe", "translate"] = "transcribe"
    language: str = ""
    prompt: str = ""
    temperature: float | None = None
    word_timestamps: bool = False


def check_formats(asked: TranscriptionRequest) -> None:
    """Raise RequestError 400 where the format of the answer has no place for what else is asked for."""
    if asked.timestamp_granularities and asked.response_format != "verbose_json":
        raise _invalid(
            "timestamp_granularities",
            f"timestamp_granularities need response_format verbose_json, not {asked.response_format}",
        )
    if asked.stream and asked.response_format not in STREAMED_FORMATS:
        formats = " or ".join(STREAMED_FORMATS)
        raise _invalid("stream", f"a stream has response_format {formats}, not {asked.response_format}")


def spoken_input(asked: TranslationRequest, model: Model) -> TranscriptionInput:
    """What is asked of a sound that is still to be given. Raises RequestError 400."""
    if isinstance(asked, TranscriptionRequest):
        check_formats(asked)
        has_words = "word" in asked.timestamp_granularities
        return _input(model, "transcribe", asked.prompt, asked.temperature, asked.language, has_words=has_words)
    return _input(model, "translate", asked.prompt, asked.temperature)


def transcription_job(asked: TranscriptionJobInput, model: Model) -> TranscriptionInput:
    """The input of a job. Its one file is the sound, or lies under the URL that names it (`with_files`).

    Raises RequestError 400.
    """
    made = _input(
        model,
        asked.task,
        asked.prompt,
        asked.temperature,
        asked.language,
        has_words=asked.word_timestamps,
        below="input.",
    )
    if not asked.file.startswith("data:"):
        return msgspec.structs.replace(made, files={asked.file: Attachment()})
    content = _content(asked.file)
    return with_audio(made, Attachment(content), len(content))


def with_audio(asked: TranscriptionInput, file: Attachment, size: int) -> TranscriptionInput:
    """The same with its sound, of so many bytes."""
    return msgspec.structs.replace(asked, files={AUDIO: file}, file_bytes=size)


def _input(
    model: Model,
    task: Literal["transcribe", "translate"],
    prompt: str,
    temperature: float | None,
    language: str = "",
    *,
    has_words: bool = False,
    below: str = "",
) -> TranscriptionInput:
    """below: where the fields stand in the body. What a request leaves out is the model's default."""
    defaults = model.defaults
    chosen = language or (str(defaults.get("language", "")) if task == "transcribe" else "")
    if chosen and not _LANGUAGE.fullmatch(chosen.lower()):
        raise _invalid(f"{below}language", f"language must be a code of ISO 639-1 such as en, not {chosen!r}")
    warmth: Any = defaults.get("temperature", 0.0) if temperature is None else temperature
    within(warmth, 0, MAX_TEMPERATURE, f"{below}temperature")
    said = prompt or str(defaults.get("prompt", ""))
    if len(said) > MAX_PROMPT_CHARS:
        raise _invalid(f"{below}prompt", f"prompt has at most {MAX_PROMPT_CHARS} characters")
    return TranscriptionInput(
        files={},
        task=task,
        language=chosen.lower(),
        prompt=said,
        temperature=float(warmth),
        has_words=has_words,
    )


def _content(url: str) -> bytes:
    content = decoded(url)
    if not content:
        raise _invalid("input.file", "file must look like data:audio/wav;base64,… and have something in it")
    return content


def _invalid(field: str, message: str) -> RequestError:
    return RequestError(400, message, field=field, code="invalid_value")
