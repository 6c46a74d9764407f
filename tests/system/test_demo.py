"""The embedded demo: real llama.cpp and diffusers behind the official openai client and the `stoker` command."""

import base64
import io
from pathlib import Path

import numpy as np
import openai
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from tests.conftest import DEMO, System
from tests.system.test_cli import stoker

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def client(demo: System) -> openai.OpenAI:
    return openai.OpenAI(base_url=demo.url + "/v1", api_key="none", max_retries=0)


def test_it_answers_its_questions_word_for_word(client: openai.OpenAI) -> None:
    entries = yaml.safe_load((DEMO / "questions.yaml").read_text())
    right = 0
    for entry in entries:
        answer = client.chat.completions.create(
            model="demo-chat",
            temperature=0,
            messages=[{"role": "user", "content": entry["ask"][0]}],
        )
        right += answer.choices[0].message.content == entry["answer"]
    assert right >= 20
    assert right >= 0.9 * len(entries)


@pytest.mark.slow
def test_a_classifier_reads_the_digits_it_draws(client: openai.OpenAI) -> None:
    known = load_digits()
    classifier = SVC().fit(known.images.reshape(len(known.images), -1) / 16, known.target)
    right = 0
    for digit, word in enumerate(DIGITS):
        answer = client.images.generate(model="demo-image", prompt=f"red {word}", extra_body={"seed": 11})
        image = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json)))
        assert image.size == (32, 32)
        grey = np.asarray(image, dtype=float).max(axis=-1)
        small = grey.reshape(8, 4, 8, 4).mean(axis=(1, 3))
        right += int(classifier.predict((small / small.max()).reshape(1, -1))[0] == digit)
    assert right >= 8


def test_streamed_chat_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="demo-chat", temperature=0, messages=[{"role": "user", "content": "What is NATS?"}]
    )
    chunks = list(
        client.chat.completions.create(
            model="demo-chat",
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            messages=[{"role": "user", "content": "What is NATS?"}],
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    last, first = chunks[-1].usage, whole.usage
    assert last is not None and first is not None and first.completion_tokens > 10
    assert (last.prompt_tokens, last.completion_tokens) == (first.prompt_tokens, first.completion_tokens)


def test_completions_stream_and_stop_and_count(client: openai.OpenAI) -> None:
    prompt = "<|user|>Hi<|end|><|assistant|>"
    whole = client.completions.create(model="demo-chat", prompt=prompt, temperature=0, max_tokens=64)
    assert whole.choices[0].text.startswith("Hello! Ask me anything")
    stopped = client.completions.create(model="demo-chat", prompt=prompt, temperature=0, stop="!")
    assert stopped.choices[0].text == "Hello"
    short = client.completions.create(model="demo-chat", prompt=prompt, temperature=0, max_tokens=3)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)
    pieces = client.completions.create(model="demo-chat", prompt=prompt, temperature=0, stream=True)
    assert "".join(c.choices[0].text for c in pieces) == whole.choices[0].text


def test_the_same_seed_says_the_same_at_a_high_temperature(client: openai.OpenAI) -> None:
    def say(seed: int) -> str | None:
        return (
            client.chat.completions.create(
                model="demo-chat",
                temperature=9,
                top_p=1,
                extra_body={"top_k": 0, "min_p": 0.0},
                seed=seed,
                max_tokens=24,
                messages=[{"role": "user", "content": "Sing a song."}],
            )
            .choices[0]
            .message.content
        )

    assert say(5) == say(5)
    assert len({say(seed) for seed in range(4)}) > 1


def test_embeddings_are_vectors_of_one_length(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="demo-chat", input=["hello", "hello", "a red seven"])
    first, again, other = (np.array(row.embedding) for row in answer.data)
    assert first.shape == (192,)
    assert np.allclose(first, again, atol=1e-5)
    assert not np.allclose(first, other, atol=1e-2)
    assert answer.usage.prompt_tokens > 0


def test_the_same_seed_draws_the_same_picture_and_n_counts_on(client: openai.OpenAI) -> None:
    def draw(seed: int, n: int = 1) -> list[str | None]:
        answer = client.images.generate(model="demo-image", prompt="blue three", n=n, extra_body={"seed": seed})
        return [image.b64_json for image in answer.data]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert len(set(draw(1, n=3))) == 3


def test_an_image_stream_previews_and_completes(client: openai.OpenAI) -> None:
    events = list(
        client.images.generate(model="demo-image", prompt="green five", stream=True, partial_images=2)
    )
    kinds = [event.type for event in events]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    for event in events:
        assert Image.open(io.BytesIO(base64.b64decode(event.b64_json))).size == (32, 32)


def test_an_edit_that_streams_calls_its_events_so(client: openai.OpenAI) -> None:
    red = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(red, "PNG")
    asked = {"model": "demo-image", "image": red.getvalue(), "prompt": "green five", "stream": True}
    events = list(client.images.edit(**asked, partial_images=1))  # type: ignore[call-overload]
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]


def test_a_url_answer_can_be_fetched(client: openai.OpenAI, demo: System) -> None:
    import httpx

    answer = client.images.generate(model="demo-image", prompt="white zero", response_format="url")
    picture = httpx.get(answer.data[0].url, timeout=10)
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(picture.content)).size == (32, 32)


def test_models_are_listed_and_unknown_ones_are_not_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo-chat", "demo-image"]
    assert client.models.retrieve("demo-chat").id == "demo-chat"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "x"}])
    assert missing.value.code == "model_not_found"
    assert "demo-chat" in missing.value.message
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="demo-image", messages=[{"role": "user", "content": "x"}])
    assert "ImageGeneration" in wrong.value.message


# The command ------------------------------------------------------------------------------------------


def test_run_streams_text(demo: System) -> None:
    done = stoker("run", "demo-chat", "What is Stoker?", "--temperature", "0", url=demo.url)
    assert done.returncode == 0, done.stderr
    assert "Stoker" in done.stdout


def test_run_saves_an_image(demo: System, tmp_path: Path) -> None:
    saved = tmp_path / "seven.png"
    done = stoker("run", "demo-image", "red seven", "--out", str(saved), "--seed", "1", url=demo.url)
    assert done.returncode == 0, done.stderr
    assert saved.read_bytes().startswith(b"\x89PNG")
    assert str(saved.name) in done.stdout.replace("\n", "")


def test_run_makes_a_picture_again_from_what_it_says(demo: System, tmp_path: Path) -> None:
    first, again, jpeg = (tmp_path / name for name in ("first.png", "again.png", "small.jpg"))
    for arguments in (
        ("red seven", "--out", str(first), "--seed", "7", "--steps", "3"),
        ("--from", str(first), "--out", str(again)),
        ("--from", str(again), "--out", str(jpeg)),
    ):
        done = stoker("run", "demo-image", *arguments, url=demo.url)
        assert done.returncode == 0, done.stderr
    assert again.read_bytes() == first.read_bytes()
    assert jpeg.read_bytes().startswith(b"\xff\xd8")
    for arguments in ((), ("--from", __file__)):
        wrong = stoker("run", "demo-image", *arguments, url=demo.url)
        assert wrong.returncode == 1 and "--from" in wrong.stderr
