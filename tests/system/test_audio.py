"""Speech to text as clients use it: forms, formats, streams, jobs, OpenAI's own client; on a real Whisper."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import System, events_of
from tests.fixtures.tiny_whisper import LANGUAGE, SAID, SAID_AT, TRANSLATED, sound, tiny_whisper

MODELS = """\
models:
  ears: {{engine: whisper, url: "file://{folder}/tiny", options: {{n_threads: 1, max_audio_s: 3600}}}}
  spanish: {{engine: whisper, url: "file://{folder}/tiny", defaults: {{language: es, temperature: 0.2}}}}
  echo: {{engine: synthetic}}
workers:
  - {{count: 2, memory: 1GB, engines: [whisper, synthetic, function]}}
"""
RECORDER = """\
import base64
import msgspec
from stoker import ActionContext, FileRef, worker_function

class Tape(msgspec.Struct):
    wav: str

@worker_function()
def play(ctx: ActionContext, payload: Tape) -> FileRef:
    return ctx.save_file(base64.b64decode(payload.wav), "tape.wav")
"""
"""A function whose result is a sound."""
TEXT = " ".join(SAID)
SHORT = sound(2)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder: Path = tmp_path_factory.mktemp("audio")
    tiny_whisper(folder / "tiny")
    project = folder / "recorder"
    project.mkdir()
    (project / "app.py").write_text(RECORDER)
    (project / "pyproject.toml").write_text('[tool.stoker]\nmodules = ["app"]\n')
    found = System(folder, MODELS.format(folder=folder), "--functions", str(project))
    try:
        found.wait_ready()
        yield found
    finally:
        found.stop()


def ask(system: System, what: str = "transcriptions", content: bytes = SHORT, **fields: Any) -> httpx.Response:
    return httpx.post(
        f"{system.url}/v1/audio/{what}",
        data={"model": "ears", **fields},
        files={"file": ("speech.wav", content)},
        timeout=60,
    )


def events(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines]


# Formats ------------------------------------------------------------------------------------------


def test_what_is_said_is_written_down(system: System) -> None:
    answer = ask(system)
    assert answer.json() == {"text": TEXT, "usage": {"type": "duration", "seconds": 2.0}}
    assert answer.headers["x-stoker-spec"] == "default" and answer.headers["x-job-id"]
    other = httpx.post(
        f"{system.url}/openai/v1/audio/transcriptions",
        data={"model": "ears"},
        files={"file": SHORT},
        timeout=60,
    )
    assert other.json() == answer.json()


def test_a_translation_is_english(system: System) -> None:
    assert ask(system, "translations").json()["text"] == TRANSLATED
    told = ask(system, "translations", response_format="verbose_json", prompt="Once").json()
    assert (told["task"], [one["text"].strip() for one in told["segments"]]) == ("translate", [TRANSLATED])


def test_subtitles_have_the_times(system: System) -> None:
    srt = ask(system, response_format="srt")
    assert srt.headers["content-type"].startswith("text/plain")
    assert srt.text.startswith(f"1\n00:00:00,000 --> 00:00:01,000\n{SAID[0]}\n\n2\n00:00:01,020 --> ")
    vtt = ask(system, response_format="vtt")
    assert vtt.text == (
        f"WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n{SAID[0]}\n\n00:00:01.020 --> 00:00:02.000\n{SAID[1]}\n\n"
    )
    assert ask(system, response_format="text").text == TEXT + "\n"


def test_verbose_has_segments_and_words_where_they_are_asked_for(system: System) -> None:
    plain = ask(system, response_format="verbose_json").json()
    assert (plain["language"], plain["duration"], plain["task"]) == (LANGUAGE, 2.0, "transcribe")
    assert [(one["id"], one["start"], one["end"]) for one in plain["segments"]] == [
        (number, *times) for number, times in enumerate(SAID_AT)
    ]
    assert "words" not in plain
    both = ask(
        system, response_format="verbose_json", **{"timestamp_granularities[]": ["word", "segment"]}
    ).json()
    assert [one["word"] for one in both["words"]] == TEXT.split()
    assert all(one["start"] <= one["end"] for one in both["words"]) and both["segments"]
    words = ask(system, response_format="verbose_json", **{"timestamp_granularities[]": "word"}).json()
    assert "segments" not in words and len(words["words"]) == 6


def test_a_long_file_travels_as_a_blob_and_is_heard_to_its_end(system: System) -> None:
    told = ask(system, content=sound(100), response_format="verbose_json", language="fr").json()
    assert (told["language"], told["duration"]) == ("fr", 100.0)
    assert [one["text"].strip() for one in told["segments"]] == [*SAID] * 4
    assert [one["seek"] for one in told["segments"]] == [0, 0, 3000, 3000, 6000, 6000, 9000, 9000]


def test_a_model_has_defaults(system: System) -> None:
    told = ask(system, model="spanish", response_format="verbose_json").json()
    assert (told["language"], told["segments"][0]["temperature"]) == ("es", 0.2)
    assert (
        ask(system, model="spanish", language="en", response_format="verbose_json").json()["language"] == "en"
    )


# Streams ------------------------------------------------------------------------------------------


def test_a_stream_gives_segments_as_they_are_heard(system: System) -> None:
    told = events(ask(system, content=sound(65), stream="true"))
    assert [one["type"] for one in told] == ["transcript.text.delta"] * (len(told) - 1) + [
        "transcript.text.done"
    ]
    assert "".join(one["delta"] for one in told[:-1]) == told[-1]["text"] == " ".join([TEXT] * 3)


def test_a_stream_that_fails_before_it_begins_is_a_plain_error(system: System) -> None:
    answer = ask(system, content=b"no sound", stream="true")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")


def test_a_client_that_goes_away_stops_the_listening(system: System) -> None:
    asked = {"data": {"model": "ears", "stream": "true"}, "files": {"file": sound(1200, rate=4000)}}
    with httpx.stream("POST", f"{system.url}/v1/audio/transcriptions", timeout=60, **asked) as answer:
        job = answer.headers["x-job-id"]
        for line in answer.iter_lines():
            if "delta" in line:
                break
    assert system.ended(job)["status"] == "cancelled"
    assert ask(system).json()["text"] == TEXT, "and the next is heard"


def test_a_stream_whose_worker_dies_goes_on_where_it_was(system: System) -> None:
    asked = {"data": {"model": "ears", "stream": "true"}, "files": {"file": sound(1800, rate=4000)}}
    told: list[Any] = []
    with httpx.stream("POST", f"{system.url}/v1/audio/transcriptions", timeout=60, **asked) as answer:
        job = answer.headers["x-job-id"]
        for line in answer.iter_lines():
            if line.startswith("data: "):
                told.append(json.loads(line.removeprefix("data: ")))
                if len(told) == 1:
                    system.kill(system.job(job)["worker"])
    assert "".join(one["delta"] for one in told[:-1]) == told[-1]["text"] == " ".join([TEXT] * 60)
    assert system.ended(job)["attempt"] == 2


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"response_format": "yaml"}, "response_format", "Invalid enum value 'yaml'"),
        ({"temperature": "1.5"}, "temperature", "between 0 and 1"),
        ({"temperature": "warm"}, "temperature", "Expected `float"),
        ({"language": "english"}, "language", "ISO 639-1"),
        ({"language": "it"}, "language", "it knows"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities", "verbose_json"),
        ({"timestamp_granularities[]": ["word", "phone"], "response_format": "verbose_json"}, "timestamp_granularities[1]", "phone"),
        ({"stream": "true", "response_format": "srt"}, "stream", "json or text"),
        ({"model": "echo"}, "model", "does not do SpeechToText; it does TextGeneration"),
        ({"prompt": "x" * 10_001}, "prompt", "10000"),
    ],
)  # fmt: skip
def test_a_field_that_is_wrong_is_named(system: System, fields: dict[str, Any], param: str, says: str) -> None:
    answer = ask(system, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert says in answer.json()["error"]["message"]


def test_a_file_that_is_none_is_the_clients_mistake(system: System) -> None:
    for content, says in (
        (b"", "file is empty: send audio"),
        (b"\0" * 5000, "no sound"),
        (b"#EXTM3U\nx.ts\n", "wav"),
    ):
        refused = ask(system, content=content)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "file"), content[:9]
        assert says in refused.json()["error"]["message"]
    url = f"{system.url}/v1/audio/transcriptions"
    assert httpx.post(url, files={"file": SHORT}).json()["error"]["param"] == "model"
    assert "the audio as a file" in httpx.post(url, data={"model": "ears"}).json()["error"]["message"]
    missing = httpx.post(url, data={"model": "ears"}, files={"sound": SHORT}).json()["error"]
    assert missing["param"] == "file"
    assert httpx.post(url, data={"model": "nobody"}, files={"file": SHORT}).status_code == 404


def test_what_nobody_reads_is_named_in_the_answer(system: System) -> None:
    told = ask(system, **{"include[]": "logprobs", "chunking_strategy": "auto"})
    assert told.headers["stoker-ignored"] == "include, chunking_strategy"
    assert "stoker-ignored" not in ask(system, temperature="0").headers
    assert ask(system, "translations", language="de").headers["stoker-ignored"] == "language"


# Jobs ---------------------------------------------------------------------------------------------


def url_of(content: bytes) -> str:
    return f"data:audio/wav;base64,{base64.b64encode(content).decode()}"


def test_a_job_listens_too_and_can_be_watched(system: System) -> None:
    body = {"model": "ears", "input": {"file": url_of(sound(65)), "task": "translate", "word_timestamps": True}}
    job = system.post("/v1/jobs", body).json()["id"]
    result = system.ended(job)["result"]
    assert (result["text"], result["task"]) == (" ".join([TRANSLATED] * 3), "translate")
    assert {"word", "start", "end", "probability"} == result["words"][0].keys()
    seen = list(events_of(f"{system.url}/v1/jobs/{job}/events"))
    assert seen[-1]["data"]["result"]["text"] == result["text"]


def test_a_job_listens_to_what_a_function_has_made(system: System) -> None:
    for seconds in (2, 40):  # the longer one travels as a blob
        tape = {"wav": base64.b64encode(sound(seconds)).decode()}
        made = system.post("/v1/functions/play", tape).json()
        body = {"model": "ears", "input": {"file": made["url"]}}
        result = system.ended(system.post("/v1/jobs", body).json()["id"])["result"]
        assert result["duration"] == seconds and result["text"].startswith(TEXT)
    gone = {"model": "ears", "input": {"file": made["url"].replace("files/0", "files/7")}}
    assert system.post("/v1/jobs", gone).status_code == 404


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "input"),
        ({"file": "data:audio/wav;base64,@@"}, "input.file"),
        ({"file": "data:audio/wav,x"}, "input.file"),
        ({"file": "/etc/passwd"}, "input.file"),
        ({"file": "/v1/jobs/nobody/files/0"}, "input.file"),
        ({"file": "data:;base64,eA==", "language": "x"}, "input.language"),
        ({"file": "data:;base64,eA==", "language": "en", "task": "sing"}, "input.task"),
        ({"file": "data:;base64,eA==", "messages": []}, "input"),
    ],
)
def test_a_job_whose_input_is_wrong_is_refused(system: System, given: dict[str, Any], field: str) -> None:
    answer = system.post("/v1/jobs", {"model": "ears", "input": given})
    assert answer.status_code in (400, 404)
    assert answer.json()["field"] == field


# OpenAI's own client ------------------------------------------------------------------------------


def test_the_client_of_openai_is_served(system: System) -> None:
    client = openai.OpenAI(base_url=system.url + "/v1", api_key="x")
    file = ("speech.wav", SHORT)
    audio = client.audio
    assert audio.transcriptions.create(model="ears", file=file).text == TEXT
    assert audio.translations.create(model="ears", file=file).text == TRANSLATED
    verbose = audio.transcriptions.create(
        model="ears", file=file, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert verbose.words and [one.word for one in verbose.words] == TEXT.split()
    assert verbose.segments and verbose.segments[1].tokens
    subtitles: Any = audio.transcriptions.create(model="ears", file=file, response_format="vtt")
    assert subtitles.startswith("WEBVTT")
    streamed = list(audio.transcriptions.create(model="ears", file=file, stream=True))
    assert [one.type for one in streamed][-1] == "transcript.text.done"
    with pytest.raises(openai.BadRequestError) as refused:
        audio.transcriptions.create(model="ears", file=("x.wav", b"none"))
    assert refused.value.param == "file"
