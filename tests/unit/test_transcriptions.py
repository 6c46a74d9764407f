"""Transcripts: what may be asked for, and the forms in which it is given."""

import base64
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.catalog import Model, Spec
from stoker.schemas.jobs import Attachment, TranscriptionInput
from stoker.schemas.openai import TranscriptionRequest, TranslationRequest
from stoker.schemas.transcripts import SpokenSegment, SpokenWord, Transcript
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.requests import JobRequest, job_input
from stoker.services.gateway.jobs.transcriptions import MAX_PROMPT_CHARS, spoken_input, with_audio
from stoker.services.gateway.jobs.transcripts import answer_of, srt, vtt


def model(**defaults: Any) -> Model:
    return Model("ears", ("SpeechToText",), (Spec("default", "whisper", ""),), defaults=defaults)


def segment(text: str, start: float = 0.0, end: float = 1.0, number: int = 0) -> SpokenSegment:
    return SpokenSegment(number, 0, start, end, text, (1, 2), 0.0, -0.1, 1.0, 0.0)


TRANSCRIPT = Transcript(
    "transcribe",
    "en",
    3725.5,
    "One. Two.",
    (segment(" One.", 0.0, 1.25), segment(" Two.", 3723.0, 3725.5, 1)),
    (SpokenWord("One.", 0.1, 1.2, 0.9), SpokenWord("Two.", 3723.1, 3725.0, 0.8)),
)


# Subtitles ----------------------------------------------------------------------------------------


def test_subrip() -> None:
    assert srt(TRANSCRIPT.segments) == (
        "1\n00:00:00,000 --> 00:00:01,250\nOne.\n\n2\n01:02:03,000 --> 01:02:05,500\nTwo.\n\n"
    )
    assert srt(()) == ""


def test_webvtt() -> None:
    assert vtt(TRANSCRIPT.segments) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.250\nOne.\n\n01:02:03.000 --> 01:02:05.500\nTwo.\n\n"
    )
    assert vtt(()) == "WEBVTT\n\n"


def test_nothing_that_is_said_ends_a_cue_or_begins_a_time() -> None:
    said = (segment(" a --> b\n\n2\n<v>&"),)
    assert srt(said).split("\n\n") == ["1\n00:00:00,000 --> 00:00:01,000\na -> b 2 <v>&", ""]
    assert vtt(said).split("\n\n")[1:] == ["00:00:00.000 --> 00:00:01.000\na --&gt; b 2 &lt;v&gt;&amp;", ""]


@given(st.lists(st.tuples(st.text(max_size=20), st.floats(-1, 360_000), st.floats(-1, 360_000)), max_size=4))
def test_every_cue_has_its_two_times(said: list[tuple[str, float, float]]) -> None:
    segments = tuple(segment(*one) for one in said)
    for text, point in ((srt(segments), ","), (vtt(segments), r"\.")):
        clock = rf"\d\d+:[0-5]\d:[0-5]\d{point}\d\d\d"
        assert len(re.findall(rf"^{clock} --> {clock}$", text, re.MULTILINE)) == text.count("-->") == len(said)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0004, "00:00:00,000"), (59.9996, "00:01:00,000"), (3599.9999, "01:00:00,000"), (360_000.0, "100:00:00,000")],
)  # fmt: skip
def test_times_are_rounded_to_whole_milliseconds(seconds: float, shown: str) -> None:
    assert srt((segment("x", seconds, seconds),)).splitlines()[1] == f"{shown} --> {shown}"


# Answers ------------------------------------------------------------------------------------------


def asked(**fields: Any) -> TranscriptionRequest:
    return msgspec.convert({"model": "ears", **fields}, TranscriptionRequest)


def answered(**fields: Any) -> Any:
    body, media_type = answer_of(TRANSCRIPT, asked(**fields))
    return msgspec.json.decode(body) if media_type == "application/json" else (body.decode(), media_type)


def test_json_is_the_text_and_what_it_is_billed_by() -> None:
    assert answered() == {"text": "One. Two.", "usage": {"type": "duration", "seconds": 3725.5}}


@pytest.mark.parametrize(
    ("granularities", "present"),
    [((), {"segments"}), (("segment",), {"segments"}), (("word",), {"words"}), (("word", "segment"), {"words", "segments"})],
)  # fmt: skip
def test_verbose_json_has_what_is_asked_for(granularities: tuple[str, ...], present: set[str]) -> None:
    told = answered(response_format="verbose_json", timestamp_granularities=granularities)
    assert told.keys() - {"task", "language", "duration", "text", "usage"} == present
    if "words" in present:
        assert told["words"][0] == {"word": "One.", "start": 0.1, "end": 1.2}
    if "segments" in present:
        assert told["segments"][1] == msgspec.to_builtins(TRANSCRIPT.segments[1]) | {"tokens": [1, 2]}


def test_a_translation_is_given_in_the_same_forms() -> None:
    body, _ = answer_of(TRANSCRIPT, TranslationRequest(model="ears", response_format="verbose_json"))
    assert msgspec.json.decode(body).keys() >= {"segments", "duration"}


def test_texts_have_their_own_types() -> None:
    assert answered(response_format="text") == ("One. Two.\n", "text/plain; charset=utf-8")
    assert answered(response_format="srt")[1] == "text/plain; charset=utf-8"
    assert answered(response_format="vtt")[1] == "text/vtt; charset=utf-8"


# What may be asked for ----------------------------------------------------------------------------


def refusal(asked: TranslationRequest, known: Model | None = None) -> RequestError:
    with pytest.raises(RequestError) as error:
        spoken_input(asked, known or model())
    assert error.value.status == 400
    return error.value


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"language": "English"}, "language"),
        ({"language": "e"}, "language"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"prompt": "x" * (MAX_PROMPT_CHARS + 1)}, "prompt"),
        ({"timestamp_granularities": ("word",)}, "timestamp_granularities"),
        ({"stream": True, "response_format": "verbose_json"}, "stream"),
        ({"stream": True, "response_format": "vtt"}, "stream"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(fields: dict[str, Any], field: str) -> None:
    assert refusal(asked(**fields)).field == field


def test_what_is_asked_for_goes_into_the_job() -> None:
    given = asked(
        language="DE", prompt="Once", temperature=1.0, response_format="verbose_json", timestamp_granularities=["word"]
    )  # fmt: skip
    made = spoken_input(given, model())
    assert made == TranscriptionInput({}, "transcribe", "de", "Once", 1.0, has_words=True)
    assert spoken_input(asked(stream=True, response_format="text"), model()) == TranscriptionInput({})
    assert spoken_input(TranslationRequest(model="ears"), model()) == TranscriptionInput({}, "translate")


def test_what_a_request_leaves_out_is_the_models_default() -> None:
    known = model(language="fr", prompt="Stoker", temperature=0.4)
    made = spoken_input(asked(), known)
    assert (made.language, made.prompt, made.temperature) == ("fr", "Stoker", 0.4)
    made = spoken_input(asked(language="en", prompt="x", temperature=0.0), known)
    assert (made.language, made.prompt, made.temperature) == ("en", "x", 0.0)
    translated = spoken_input(TranslationRequest(model="ears"), known)
    assert (translated.language, translated.temperature) == ("", 0.4), (
        "a translation is asked for without a language"
    )
    assert refusal(asked(), model(temperature=3)).field == "temperature"


# Jobs ---------------------------------------------------------------------------------------------

DATA = f"data:audio/wav;base64,{base64.b64encode(b'sound').decode()}"


def job(**given: Any) -> Any:
    made, seed = job_input(JobRequest(model="ears", input=given), model())
    assert seed is None
    return made


def test_a_job_has_its_sound_or_the_url_of_it() -> None:
    made = job(file=DATA, task="translate", word_timestamps=True)
    assert made.files == {"audio": Attachment(b"sound")}
    assert (made.file_bytes, made.task, made.has_words) == (5, "translate", True)
    named = job(file="/v1/jobs/j/files/0")
    assert named.files == {"/v1/jobs/j/files/0": Attachment()}
    brought = with_audio(named, Attachment(blob="b"), 7)
    assert (brought.files, brought.file_bytes) == ({"audio": Attachment(blob="b")}, 7)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"file": "data:audio/wav;base64,"}, "input.file"),
        ({"file": "data:audio/wav;base64,a"}, "input.file"),
        ({"file": "data:audio/wav;base64,ä==="}, "input.file"),
        ({"file": "data:audio/wav,plain"}, "input.file"),
        ({"file": DATA, "temperature": 2}, "input.temperature"),
        ({"file": DATA, "language": "Latin"}, "input.language"),
        ({"file": DATA, "stream": True}, "input"),
        ({"prompt": "x"}, "input"),
    ],
)
def test_a_job_whose_input_is_wrong_names_the_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as error:
        job(**given)
    assert (error.value.status, error.value.field) == (400, field)
