"""Bad requests end in the pure code, with the field and the remedy."""

from typing import Any

import msgspec
import pytest

from stoker.schemas.catalog import Adapter, Feature, Model, Spec
from stoker.schemas.jobs import DEFAULT_RUN_TIMEOUT_S
from stoker.schemas.openai import ChatCompletionRequest, ImageGenerationRequest
from stoker.services.gateway.edge.decoding import decode
from stoker.services.gateway.edge.problems import RequestError, openai_error, problem
from stoker.services.gateway.jobs.request_rules import split_adapter, within
from stoker.services.gateway.jobs.requests import JobRequest, generation_input, job_input, parse_size
from stoker.services.gateway.jobs.text_requests import chat_input


def model(name: str = "m", features: tuple[Feature, ...] = ("TextGeneration",), **defaults: Any) -> Model:
    spec = Spec(name="default", engine="synthetic", url="", adapters=(Adapter("style", "file:///x"),))
    return Model(name=name, features=features, specs=(spec,), defaults=defaults)


def chat(**fields: Any) -> bytes:
    return msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields)


def refused(body: bytes, known: Model | None = None) -> RequestError:
    with pytest.raises(RequestError) as found:
        chat_input(decode(ChatCompletionRequest, body), known or model())
    return found.value


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", None),
        (b"\xff\xff", None),
        (b"[" * 100_000, None),
        (b"[]", None),
        (b'{"model": "m"}', "messages"),
        (chat(messages="hi"), "messages"),
        (chat(messages=[]), "messages"),
        (chat(messages=[{"role": "king", "content": "x"}]), "messages[0].role"),
        (chat(temperature="warm"), "temperature"),
        (chat(temperature=11), "temperature"),
        (chat(top_p=1.5), "top_p"),
        (chat(max_tokens=0), "max_tokens"),
        (chat(stop=["a"] * 17), "stop"),
        (chat(stop=[""]), "stop"),
        (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
        (chat(top_logprobs=1), "top_logprobs"),
    ],
)
def test_a_bad_chat_request_names_its_field(body: bytes, field: str | None) -> None:
    error = refused(body)
    assert (error.status, error.field) == (400, field)
    assert error.message


def test_the_request_wins_over_the_models_defaults() -> None:
    known = model(temperature=0.5, max_tokens=7)
    asked = decode(ChatCompletionRequest, chat(temperature=0.0))
    made = chat_input(asked, known)
    assert (made.sampling.temperature, made.max_tokens) == (0.0, 7)


def test_a_model_with_the_wrong_feature_is_refused() -> None:
    error = refused(chat(), model(features=("ImageGeneration",)))
    assert (error.status, error.code) == (400, "wrong_feature")


def test_an_adapter_is_part_of_the_name() -> None:
    models = {"m": model(), "m_other": model("m_other")}
    assert split_adapter("m_style", models)[1] == "style"
    assert split_adapter("m_other", models) == (models["m_other"], "")
    with pytest.raises(RequestError) as found:
        split_adapter("m_nothing", models)
    assert (found.value.status, found.value.code) == (404, "model_not_found")
    with pytest.raises(RequestError) as bad:
        split_adapter("a\nb", models)
    assert bad.value.status == 400


@pytest.mark.parametrize("size", ["512", "512X512", "513x512", "32x512", "4096x512", "1e3x512", "99999999x512"])
def test_absurd_sizes_are_refused(size: str) -> None:
    asked = ImageGenerationRequest(model="m", prompt="x", size=size)
    with pytest.raises(RequestError) as found:
        generation_input(asked, model(features=("ImageGeneration",)))
    assert (found.value.status, found.value.field) == (400, "size")


def test_a_size_is_width_then_height() -> None:
    assert parse_size("768x512") == (768, 512)
    assert parse_size(None) == parse_size("auto") == (None, None)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"prompt": "x", "messages": []}, "input"),
        ({}, "input"),
        ({"prompt": 3}, "input.prompt"),
        ({"promt": "x"}, "input"),
        ({"prompt": "x", "temperature": -1}, "temperature"),
    ],
)
def test_a_jobs_input_is_checked_against_its_model(given: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as found:
        job_input(JobRequest(model="m", input=given), model())
    assert (found.value.status, found.value.field) == (400, field)


def test_errors_have_both_shapes() -> None:
    error = RequestError(404, "no model", field="model", code="model_not_found")
    assert openai_error(error).error.code == "model_not_found"
    shown = problem(error)
    assert (shown.status, shown.type, shown.field) == (404, "urn:stoker:model_not_found", "model")


@pytest.mark.parametrize("value", [10**400, -(10**400), 1e308, -1e308, 2**63])
def test_a_number_of_any_size_is_refused_by_its_field(value: float) -> None:
    """One of 400 digits, which no float holds, was an internal error."""
    with pytest.raises(RequestError, match="n must be between 1 and 4, not ") as refused:
        within(value, 1, 4, "n")
    assert (refused.value.status, refused.value.field) == (400, "n")


@pytest.mark.parametrize("seconds", [0.0, -1.0, DEFAULT_RUN_TIMEOUT_S + 1, float("nan")])
def test_a_run_may_be_limited_below_what_its_model_says(seconds: float) -> None:
    asked = JobRequest(model="m", input={"prompt": "x"}, run_timeout_s=DEFAULT_RUN_TIMEOUT_S)
    job_input(asked, model())
    with pytest.raises(RequestError, match="run_timeout_s") as refused:
        job_input(msgspec.structs.replace(asked, run_timeout_s=seconds), model())
    assert (refused.value.status, refused.value.field) == (400, "run_timeout_s")
