"""Speech to text: Whisper as faster-whisper runs it on CTranslate2, from a folder of its converted weights.

Segments are given as they are made, half a minute of sound at a time; a run is stopped between them. Options of
the model: `device` (the GPU where there is one), `compute_type` (`default`: as the file has it), `n_threads`
(half the cores), `beam_size` (5), `max_audio_s` (7200; an hour of sound takes a gigabyte of RAM while it is
listened to).
"""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ctranslate2
import msgspec
from faster_whisper import WhisperModel

from stoker.schemas.job_events import FailureKind, ValueOutput
from stoker.schemas.jobs import TranscriptionInput
from stoker.schemas.transcripts import SpokenSegment, SpokenWord, Transcript
from stoker.schemas.workers import EngineCapability
from stoker.services.process.machine import Machine
from stoker.services.worker.engines.audio.features import PiecewiseFeatures
from stoker.services.worker.engines.audio.sound import samples_of
from stoker.services.worker.engines.base import (
    Cancellation,
    Emitter,
    EngineError,
    ModelFiles,
    Request,
    RunOutput,
    Stopped,
)
from stoker.services.worker.models.weights.detect import UnknownCheckpoint
from stoker.services.worker.models.weights.speech import whisper_parameters

AUDIO = "audio"
"""The file of an input that is listened to."""
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Tried one after the other until a window's text is neither unlikely nor repeats itself."""
BYTES_OF_A_WEIGHT = {"float32": 4, "float16": 2, "bfloat16": 2, "int16": 2}
"""By how CTranslate2 computes; 1 for its other ways, which are all of 8 bits."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a model; see the file's opening."""

    device: str = ""
    compute_type: str = "default"
    n_threads: int = 0
    beam_size: int = 5
    max_audio_s: float = 7200.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory. parameters: numbers of its weights."""

    model: Any
    options: Options
    parameters: int


class WhisperEngine:
    """See the file's opening."""

    def __init__(self, capability: EngineCapability) -> None:
        self.capability = capability
        self._models: dict[str, Loaded] = {}

    def load(self, files: ModelFiles) -> None:
        name = files.path.name
        try:
            options = msgspec.convert(files.options, Options)
            parameters = whisper_parameters(files.path)
            model = _open(str(files.path), options)
        except msgspec.ValidationError as error:
            raise EngineError(f"{name}: options: {error}", "load_failed") from error
        except UnknownCheckpoint as error:
            raise EngineError(str(error), "load_failed") from error
        except Exception as error:  # tokenizers raises bare ones
            raise EngineError(f"{name} cannot be loaded: {error}", _kind_of(error)) from error
        self._models[files.model] = Loaded(model, options, parameters)

    def unload(self, model: str) -> None:
        loaded = self._models.pop(model, None)
        if loaded is not None:
            loaded.model.model.unload_model()

    def park(self, model: str) -> None:
        self._models[model].model.model.unload_model(to_cpu=True)

    def unpark(self, model: str) -> None:
        try:
            self._models[model].model.model.load_model()
        except RuntimeError as error:
            raise EngineError(f"{model} cannot be loaded again: {error}", _kind_of(error)) from error

    def memory_bytes(self, model: str) -> int:
        loaded = self._models[model]
        return loaded.parameters * BYTES_OF_A_WEIGHT.get(loaded.model.model.compute_type, 1)

    async def run(self, model: str, request: Request, emit: Emitter, cancelled: Cancellation) -> RunOutput:
        asked = request.input
        if not isinstance(asked, TranscriptionInput) or AUDIO not in asked.files:
            raise EngineError("a speech model takes a sound file only", "validation", field="file")
        return await asyncio.to_thread(_listen, self._models[model], asked, emit, cancelled)


def _open(path: str, options: Options) -> Any:
    """Raises whatever the libraries raise."""
    has_gpu = ctranslate2.get_cuda_device_count() > 0
    device = options.device or (os.environ.get("CUDA_DEVICE", "cuda:0") if has_gpu else "cpu")
    kind, _, index = device.partition(":")
    model = WhisperModel(
        path,
        device=kind,
        device_index=int(index or 0),
        compute_type=options.compute_type,
        cpu_threads=options.n_threads or max(Machine().processors() // 2, 1),
        local_files_only=True,
    )
    model.feature_extractor = PiecewiseFeatures(**model.feat_kwargs)
    return model


def _listen(loaded: Loaded, asked: TranscriptionInput, emit: Emitter, cancelled: Cancellation) -> ValueOutput:
    """Raises EngineError, Stopped."""
    if cancelled.is_set():
        raise Stopped
    _check(loaded, asked)
    samples = samples_of(asked.files[AUDIO].content, loaded.options.max_audio_s, cancelled)
    try:
        found, info = loaded.model.transcribe(
            samples,
            language=asked.language or None,
            task=asked.task,
            initial_prompt=asked.prompt or None,
            temperature=[asked.temperature] if asked.temperature else TEMPERATURES,
            beam_size=loaded.options.beam_size,
            word_timestamps=asked.has_words,
        )
        segments: list[SpokenSegment] = []
        words: list[SpokenWord] = []
        texts: list[str] = []
        for segment in _until_cancelled(found, cancelled):
            text = segment.text if texts else segment.text.lstrip()
            emit.text(text, len(segment.tokens))
            texts.append(text)
            segments.append(_segment(len(segments), segment))
            words += [_word(word) for word in segment.words or ()]
    except RuntimeError as error:
        kind = _kind_of(error, otherwise="fatal")
        raise EngineError(f"the sound could not be listened to: {error}", kind) from error
    transcript = Transcript(
        task=asked.task,
        language=info.language,
        duration=round(info.duration, 3),
        text="".join(texts),
        segments=tuple(segments),
        words=tuple(words),
    )
    return ValueOutput(msgspec.to_builtins(transcript))


def _check(loaded: Loaded, asked: TranscriptionInput) -> None:
    """Raises EngineError (validation) for what this model cannot do."""
    languages = _languages(loaded.model)
    if asked.language and asked.language not in languages:
        known = ", ".join(languages)
        message = f"language {asked.language!r} is none that this model knows; it knows {known}"
        raise EngineError(message, "validation", code="invalid_value", field="language")
    if asked.task == "translate" and not loaded.model.model.is_multilingual:
        message = "this model knows English only, and has nothing to translate: take a multilingual one"
        raise EngineError(message, "validation", code="wrong_feature", field="model")


def _languages(model: Any) -> list[str]:
    """Those of the library for which this model has a token."""
    if not model.model.is_multilingual:
        return ["en"]
    known: list[str] = model.supported_languages
    return [code for code in known if model.hf_tokenizer.token_to_id(f"<|{code}|>") is not None]


def _until_cancelled(found: Iterator[Any], cancelled: Cancellation) -> Iterator[Any]:
    """The segments as they are made. Raises Stopped."""
    for segment in found:
        if cancelled.is_set():
            raise Stopped
        yield segment
    if cancelled.is_set():
        raise Stopped


def _segment(index: int, made: Any) -> SpokenSegment:
    return SpokenSegment(
        id=index,
        seek=made.seek,
        start=round(float(made.start), 3),
        end=round(float(made.end), 3),
        text=made.text,
        tokens=tuple(made.tokens),
        temperature=made.temperature,
        avg_logprob=made.avg_logprob,
        compression_ratio=made.compression_ratio,
        no_speech_prob=made.no_speech_prob,
    )


def _word(made: Any) -> SpokenWord:
    start, end = round(float(made.start), 3), round(float(made.end), 3)
    return SpokenWord(made.word.strip(), start, end, float(made.probability))


def _kind_of(error: Exception, otherwise: FailureKind = "load_failed") -> FailureKind:
    """What CTranslate2's exceptions of one class stand for."""
    return "resource" if "out of memory" in str(error).lower() else otherwise


def create(capability: EngineCapability) -> WhisperEngine:
    return WhisperEngine(capability)
