"""The engine whisper on a tiny Whisper of CTranslate2: what it hears, what it refuses, what it takes."""

import io
import os
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy
import pytest
from faster_whisper.feature_extractor import FeatureExtractor

from stoker.schemas.job_events import ValueOutput
from stoker.schemas.jobs import Attachment, TranscriptionInput
from stoker.schemas.transcripts import Transcript
from stoker.services.worker.engines.audio.features import PIECE_FRAMES, PiecewiseFeatures
from stoker.services.worker.engines.audio.sound import RATE_HZ, samples_of
from stoker.services.worker.engines.audio.whisper import WhisperEngine, create
from stoker.services.worker.engines.base import Cancellation, EngineError, ModelFiles, Request, Stopped
from stoker.services.worker.engines.registry import CAPABILITIES, ENGINES
from stoker.services.worker.models.weights.detect import UnknownCheckpoint
from stoker.services.worker.models.weights.speech import whisper_parameters
from tests.contract.engine_conformance import Emitted
from tests.fixtures.tiny_whisper import LANGUAGE, SAID, TRANSLATED, sound, tiny_whisper

NAME = "m"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_whisper(tmp_path_factory.mktemp("whisper") / "tiny")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[WhisperEngine]:
    made = create(CAPABILITIES["whisper"])
    made.load(ModelFiles(NAME, folder, {"n_threads": 1, "max_audio_s": 100}))
    yield made
    made.unload(NAME)


def asking(content: bytes, **fields: Any) -> TranscriptionInput:
    return TranscriptionInput({"audio": Attachment(content)}, **fields)


async def heard(engine: WhisperEngine, asked: TranscriptionInput, emit: Emitted | None = None) -> Transcript:
    request = Request("job", asked, 7, title=NAME, wants_events=True)
    output = await engine.run(NAME, request, emit or Emitted(), Cancellation())
    assert isinstance(output, ValueOutput)
    return msgspec.json.decode(msgspec.json.encode(output.value), type=Transcript)  # it has no numbers of numpy


async def refused(engine: WhisperEngine, asked: TranscriptionInput) -> EngineError:
    with pytest.raises(EngineError) as error:
        await heard(engine, asked)
    assert error.value.kind == "validation"
    return error.value


# What it hears ------------------------------------------------------------------------------------


async def test_segments_have_all_that_openai_tells_of_them(engine: WhisperEngine) -> None:
    emitted = Emitted()
    told = await heard(engine, asking(sound(2)), emitted)
    assert (told.task, told.language, told.duration) == ("transcribe", LANGUAGE, 2.0)
    assert told.text == " ".join(SAID) == "".join(emitted.texts)
    first, second = told.segments
    assert (first.id, first.seek, first.start, first.end, first.text) == (0, 0, 0.0, 1.0, f" {SAID[0]}")
    assert (second.id, second.start, second.end) == (1, 1.02, 2.0)
    assert first.tokens and first.temperature == 0.0
    assert first.avg_logprob > -0.1 and first.no_speech_prob < 0.1 and first.compression_ratio > 0.1
    assert told.words == ()
    assert emitted.tokens == [len(first.tokens), len(second.tokens)]


async def test_what_is_asked_for_is_done(engine: WhisperEngine) -> None:
    told = await heard(
        engine, asking(sound(2), task="translate", language="fr", has_words=True, prompt="Once upon")
    )
    assert (told.task, told.language, told.text) == ("translate", "fr", TRANSLATED)
    assert [word.word for word in told.words] == TRANSLATED.split()
    assert all(0 <= word.start <= word.end <= 3 and 0 <= word.probability <= 1 for word in told.words)
    warm = await heard(engine, asking(sound(2), temperature=0.4))
    assert {one.temperature for one in warm.segments} == {0.4}


async def test_a_window_after_the_other_is_heard_with_its_times(engine: WhisperEngine) -> None:
    told = await heard(engine, asking(sound(65)))
    assert [one.seek for one in told.segments] == [0, 0, 3000, 3000, 6000, 6000]
    assert [one.start for one in told.segments] == [0.0, 1.02, 30.0, 31.02, 60.0, 61.02]


async def test_two_models_listen_at_once(engine: WhisperEngine, folder: Path) -> None:
    other = ModelFiles(
        "other", folder, {"n_threads": 1, "beam_size": 1, "compute_type": "int8", "device": "cpu"}
    )
    engine.load(other)
    request = Request("job", asking(sound(2)), 7)
    output = await engine.run("other", request, Emitted(), Cancellation())
    assert isinstance(output, ValueOutput) and output.value["text"] == " ".join(SAID)
    assert engine.memory_bytes("other") * 4 == engine.memory_bytes(NAME), "8 bits in place of 32"
    engine.unload("other")


# Sound --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("flac", "flac", 44100),
        ("ogg", "libopus", 48000),
        ("mp3", "mp3", 22050),
        ("webm", "libopus", 48000),
        ("mp4", "aac", 44100),
        ("wav", "pcm_f32le", 8000),
    ],
)
async def test_every_common_format_is_read(
    engine: WhisperEngine, container: str, codec: str, rate: int
) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as written:
        stream = written.add_stream(codec, rate=rate, layout="stereo")
        samples = numpy.zeros((1, rate * 2 * 2), "int16")
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format, stream.layout, rate, frame_size=stream.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            written.mux(stream.encode(part))
        written.mux(stream.encode(None))
    told = await heard(engine, asking(file.getvalue()))
    assert told.duration == pytest.approx(2.0, abs=0.2)
    assert told.text == " ".join(SAID)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no sound that can be read"),
        (b"\0" * 4000, "no sound that can be read"),
        (b"%PDF-1.7 ...", "send flac, mp3"),
        (sound(0), "no sound"),
        (sound(1)[:40], "no sound"),
        (sound(101), "longer than 100 s"),
    ],
)
async def test_a_file_that_cannot_be_heard_is_the_callers_fault(
    engine: WhisperEngine, content: bytes, says: str
) -> None:
    error = await refused(engine, asking(content))
    assert error.field == "file" and says in str(error)


async def test_a_file_that_breaks_off_is_heard_up_to_there(engine: WhisperEngine) -> None:
    told = await heard(engine, asking(sound(4)[:32_044]))
    assert told.duration == pytest.approx(2.0)


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\n{path}\n", "ffconcat version 1.0\nfile '{path}'\n"])
async def test_a_file_that_names_another_does_not_lead_there(
    engine: WhisperEngine, tmp_path: Path, text: str
) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(sound(2))
    await refused(engine, asking(text.format(path=secret).encode()))


def test_a_picture_has_no_sound(engine: WhisperEngine) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as written:
        stream = written.add_stream("libvpx", rate=1)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for image in [av.VideoFrame(64, 64, "yuv420p"), None]:
            written.mux(stream.encode(image))
    with pytest.raises(EngineError, match="has no sound in it"):
        samples_of(file.getvalue(), 10, Cancellation())


def test_samples_are_of_one_channel_between_minus_one_and_one() -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(2)
        written.setsampwidth(2)
        written.setframerate(RATE_HZ)
        written.writeframes(b"\x00\x40\x00\x40" * RATE_HZ)
    found = samples_of(file.getvalue(), 10, Cancellation())
    assert (found.shape, found.dtype, found[5000]) == ((RATE_HZ,), numpy.float32, pytest.approx(0.5))


def test_reading_stops_when_it_is_cancelled() -> None:
    cancelled = Cancellation()
    cancelled.set()
    with pytest.raises(Stopped):
        samples_of(sound(10), 100, cancelled)


@pytest.mark.parametrize(
    "count", [1, 161, 16_000, PIECE_FRAMES * 160, PIECE_FRAMES * 160 + 1, PIECE_FRAMES * 400]
)
@pytest.mark.parametrize("pitches", [80, 128])
def test_features_in_pieces_are_those_of_the_library(count: int, pitches: int) -> None:
    waveform = numpy.random.default_rng(count).standard_normal(count).astype("float32")
    mine, theirs = PiecewiseFeatures(pitches)(waveform), FeatureExtractor(pitches)(waveform)
    assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
    assert numpy.abs(mine - theirs).max() < 1e-5


# What it refuses ----------------------------------------------------------------------------------


async def test_a_language_that_the_model_has_no_token_for_is_refused(engine: WhisperEngine) -> None:
    for language in ("it", "xx"):
        error = await refused(engine, asking(sound(1), language=language))
        assert error.field == "language" and str(error).endswith("it knows de, en, es, fr, zh")


async def test_a_model_of_english_only_knows_that(folder: Path, tmp_path: Path) -> None:
    """Its vocabulary has no empty token."""
    english = tmp_path / "english"
    shutil.copytree(folder, english)
    vocabulary = english / "vocabulary.json"
    vocabulary.write_text(vocabulary.read_text().replace('""', '"<none>"'))
    engine = create(CAPABILITIES["whisper"])
    engine.load(ModelFiles(NAME, english, {"n_threads": 1}))
    assert (await refused(engine, asking(sound(1), task="translate"))).field == "model"
    assert "it knows en" in str(await refused(engine, asking(sound(1), language="de")))
    assert (await heard(engine, asking(sound(1), language="en"))).language == "en"


async def test_an_input_without_its_file_is_refused(engine: WhisperEngine) -> None:
    assert (await refused(engine, TranscriptionInput({}))).field == "file"


# Weights ------------------------------------------------------------------------------------------


def test_its_parameters_are_counted(engine: WhisperEngine, folder: Path) -> None:
    parameters = whisper_parameters(folder)
    size = (folder / "model.bin").stat().st_size
    assert 0.9 * size < parameters * 4 <= size
    assert engine.memory_bytes(NAME) == parameters * 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / "model.bin").unlink(), "no model.bin; ct2-transformers-converter"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "vocabulary.json").unlink(), "no vocabulary.json"),
        (lambda folder: os.truncate(folder / "model.bin", 2000), "truncated: it has 2000 bytes"),
        (lambda folder: os.truncate(folder / "model.bin", 30), "truncated"),
        (lambda folder: (folder / "model.bin").write_bytes(b"GGUF" * 100), "something else"),
        (lambda folder: (folder / "model.bin").write_bytes(b"\6\0\0\0\3\0T5\0"), "but 'T5'"),
        (lambda folder: (folder / "model.bin").write_bytes(b"\6\0\0\0\x0c\0WhisperSpec\0\3\0\0\0" + b"\xff" * 4), "variables"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded"),
    ],
)  # fmt: skip
def test_weights_that_are_none_are_refused_with_what_is_wrong(
    folder: Path, tmp_path: Path, change: Any, says: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    change(copy)
    with pytest.raises(EngineError, match="copy") as error:
        create(CAPABILITIES["whisper"]).load(ModelFiles(NAME, copy, {}))
    assert says in str(error.value) and error.value.kind == "load_failed"


def test_every_cut_of_the_header_is_noticed(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for size in range(0, 1500, 7):
        os.truncate(copy / "model.bin", size)
        with pytest.raises(UnknownCheckpoint):
            whisper_parameters(copy)
        shutil.copy(folder / "model.bin", copy)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"beam_size": "many"}, "$.beam_size"),
        ({"threads": 3}, "threads"),
        ({"compute_type": "float17"}, "float17"),
        ({"device": "tpu"}, "tpu"),
    ],
)
def test_options_that_are_wrong_are_named(folder: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(EngineError, match="tiny") as error:
        create(CAPABILITIES["whisper"]).load(ModelFiles(NAME, folder, options))
    assert says in str(error.value)


def test_where_the_library_is_missing_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ENGINES["whisper"].missing() == ""
    monkeypatch.setattr("stoker.services.worker.engines.registry.find_spec", lambda _: None)
    assert ENGINES["whisper"].missing() == "pip install 'stoker[audio]'"
