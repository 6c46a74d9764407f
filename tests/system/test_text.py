"""The text API as clients use it: what models write before they answer, tools, limits, embeddings, the edge."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import DEMO, System
from tests.fixtures.text_models import KNOWS_TOOLS, THINKS, remade

MODELS = """\
models:
  small: {{engine: llamacpp, url: "file://{chat}", options: {{n_ctx: 256}}}}
  think: {{engine: llamacpp, url: "file://{folder}/think.gguf"}}
  tool: {{engine: llamacpp, url: "file://{folder}/tool.gguf"}}
  first: {{engine: llamacpp, url: "file://{folder}/first.gguf"}}
  last: {{engine: llamacpp, url: "file://{folder}/last.gguf"}}
  slow: {{engine: synthetic, slots: 1, options: {{token_interval_s: 0.5}}}}
workers:
  - {{count: 1, memory: 2GB, engines: [llamacpp, synthetic]}}
"""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
        },
    }
    for name in ("add", "remove")
]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder: Path = tmp_path_factory.mktemp("text")
    remade(folder / "think.gguf", template=THINKS)
    remade(folder / "tool.gguf", template=KNOWS_TOOLS)
    remade(folder / "first.gguf", pooling=2)
    remade(folder / "last.gguf", pooling=3)
    found = System(
        folder, MODELS.format(chat=DEMO / "chat.gguf", folder=folder), "--cors-origin", "http://page"
    )
    try:
        found.wait_ready()
        yield found
    finally:
        found.stop()


def chat(system: System, model: str, content: str = "What is Stoker?", **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, **more}
    return httpx.post(system.url + "/v1/chat/completions", json=body, timeout=60)


def chunks_of(answer: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


# What comes before the answer ---------------------------------------------------------------------


def test_what_a_model_thinks_is_given_and_is_no_answer(system: System) -> None:
    answer = chat(system, "think", max_tokens=24).json()
    message = answer["choices"][0]["message"]
    assert message["content"] == "" and message["reasoning_content"]
    assert answer["usage"]["completion_tokens"] == 24


def test_it_is_streamed_as_it_is_made_and_is_the_same(system: System) -> None:
    whole = chat(system, "think", max_tokens=24).json()["choices"][0]["message"]["reasoning_content"]
    deltas = [
        one["choices"][0]["delta"] for one in chunks_of(chat(system, "think", max_tokens=24, stream=True))
    ]
    assert "".join(one.get("reasoning_content", "") for one in deltas) == whole
    assert sum("reasoning_content" in one for one in deltas) >= 2


@pytest.mark.parametrize(
    "asked", [{"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}]
)
def test_it_can_be_switched_off(system: System, asked: dict[str, Any]) -> None:
    message = chat(system, "think", max_tokens=24, **asked).json()["choices"][0]["message"]
    assert message["content"] and "reasoning_content" not in message


def test_a_job_keeps_it(system: System) -> None:
    body = {"model": "think", "input": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 8}}
    job = httpx.post(system.url + "/v1/jobs", json=body).json()["id"]
    assert system.ended(job)["result"]["reasoning"]


# Tools --------------------------------------------------------------------------------------------


def test_a_demanded_call_is_never_prose(system: System) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "remove"}}):
        answer = chat(system, "tool", tools=TOOLS, tool_choice=choice, max_tokens=200)
        if answer.status_code == 200:
            [call] = answer.json()["choices"][0]["message"]["tool_calls"]
            assert call["function"]["name"] in ("add", "remove")
            assert isinstance(json.loads(call["function"]["arguments"])["n"], int)
        else:
            assert answer.json()["error"]["code"] == "tool_call_incomplete"


def test_a_streamed_call_has_no_prose_either(system: System) -> None:
    answer = chat(system, "tool", tools=TOOLS, tool_choice="required", max_tokens=200, stream=True)
    if answer.status_code == 200 and "error" not in answer.text:
        deltas = [one["choices"][0]["delta"] for one in chunks_of(answer)]
        assert not any(one.get("content") for one in deltas)
        assert any(one.get("tool_calls") for one in deltas)
    else:
        assert "tool_call_incomplete" in answer.text


def test_a_tool_that_is_not_there_and_a_schema_that_nothing_enforces_are_refused(system: System) -> None:
    named = {"type": "function", "function": {"name": "nope"}}
    refused = chat(system, "tool", tools=TOOLS, tool_choice=named).json()["error"]
    assert refused["param"] == "tool_choice" and "add, remove" in refused["message"]
    looks = {"type": "object", "properties": {"e": {"type": "string", "pattern": "^(?!a)b+$"}}}
    for asked in ({}, {"json_schema": {"name": "x", "schema": looks}}):
        answer = chat(system, "small", response_format={"type": "json_schema", **asked})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format")


# Limits -------------------------------------------------------------------------------------------


def test_a_prompt_that_is_too_long_is_the_clients_mistake_and_said_once(system: System) -> None:
    asked: list[httpx.Request] = []
    http = httpx.Client(event_hooks={"request": [asked.append]})
    client = openai.OpenAI(base_url=system.url + "/v1", api_key="x", http_client=http)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="small", messages=[{"role": "user", "content": "word " * 600}])
    assert refused.value.code == "context_length_exceeded"
    assert "256" in str(refused.value) and "n_ctx" in str(refused.value)
    assert len(asked) == 1
    streamed = chat(system, "small", "word " * 600, stream=True)
    assert (streamed.status_code, streamed.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_no_limit_and_off_are_minus_one_and_null_is_not_given(system: System) -> None:
    nulls = dict.fromkeys(("n", "tools", "stream", "logprobs", "seed", "stop"))
    assert chat(system, "small", max_tokens=-1, top_k=-1, **nulls).status_code == 200


def test_usage_says_what_was_cached(system: System) -> None:
    first, second = (chat(system, "small", "What is NATS?", max_tokens=2).json()["usage"] for _ in range(2))
    assert second["prompt_tokens_details"]["cached_tokens"] > 0
    assert first["prompt_tokens"] == second["prompt_tokens"]


# Embeddings ---------------------------------------------------------------------------------------


def embed(system: System, model: str, given: Any) -> httpx.Response:
    body = {"model": model, "input": given}
    return httpx.post(system.url + "/v1/embeddings", json=body, timeout=60)


def test_embeddings_are_pooled_as_the_file_says(system: System) -> None:
    text = "a worker keeps models hot"
    vectors = {
        name: embed(system, name, text).json()["data"][0]["embedding"] for name in ("think", "first", "last")
    }
    assert len({json.dumps(vector) for vector in vectors.values()}) == 3


def test_what_fits_the_context_can_be_embedded_and_one_that_does_not_is_named(system: System) -> None:
    assert len(embed(system, "think", "word " * 600).json()["data"][0]["embedding"]) > 10
    refused = embed(system, "small", ["a", "word " * 400, "b"])
    assert refused.status_code == 400
    assert (refused.json()["error"]["code"], refused.json()["error"]["param"]) == (
        "context_length_exceeded",
        "input[1]",
    )


def test_texts_may_be_token_ids(system: System) -> None:
    several = embed(system, "small", [[1, 2, 3], [4, 5]]).json()
    assert (len(several["data"]), several["usage"]["prompt_tokens"]) == (2, 5)
    assert len(embed(system, "small", [1, 2, 3]).json()["data"]) == 1
    assert embed(system, "small", ["a", [1]]).status_code == 400


def test_fewer_dimensions_are_the_first_ones_of_length_one(system: System) -> None:
    whole = embed(system, "small", "a text").json()["data"][0]["embedding"]
    body = {"model": "small", "input": "a text", "dimensions": 32}
    short = httpx.post(system.url + "/v1/embeddings", json=body, timeout=60).json()["data"][0]["embedding"]
    assert len(short) == 32 and sum(number**2 for number in short) == pytest.approx(1.0)
    assert short[0] / short[1] == pytest.approx(whole[0] / whole[1])
    refused = httpx.post(system.url + "/v1/embeddings", json=body | {"dimensions": 5000}, timeout=60)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "dimensions")


# The edge -----------------------------------------------------------------------------------------


def test_a_stream_that_waits_has_no_event_without_data(system: System) -> None:
    """Hand-made parsers take each empty line for the end of an event."""
    system.submit("slow", max_tokens=14)
    answer = chat(system, "slow", stream=True, max_tokens=3)
    assert answer.text.startswith(": queued")
    for event in answer.text.split("\n\n"):
        assert not event or any(line.startswith("data: ") for line in event.splitlines()), answer.text[:300]


@pytest.mark.parametrize("path", ["/health/live", "/v1/models", "/", "/v1/events"])
def test_head_is_answered_without_a_body(system: System, path: str) -> None:
    answer = httpx.head(system.url + path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_every_answer_says_what_the_request_is_called(system: System) -> None:
    named = httpx.get(system.url + "/v1/models", headers={"X-Request-Id": "abc-1"})
    assert named.headers["x-request-id"] == "abc-1"
    paths = ("/v1/models", "/v1/nothing", "/nothing", "/schema", "/v1/jobs/nobody")
    ours = [httpx.get(system.url + path).headers["x-request-id"] for path in paths]
    assert len(set(ours)) == len(paths) and all(one.startswith("req_") for one in ours)
    spoilt = httpx.get(system.url + "/v1/models", headers={"X-Request-Id": "a b"}).headers["x-request-id"]
    assert spoilt.startswith("req_")


def test_a_compressed_body_is_read_and_other_encodings_are_named(system: System) -> None:
    body = json.dumps(
        {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    ).encode()
    for encoding, status in (("gzip", 200), ("br", 415)):
        headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
        answer = httpx.post(
            system.url + "/v1/chat/completions", content=gzip.compress(body), headers=headers, timeout=60
        )
        assert answer.status_code == status


def test_what_nobody_reads_is_named_in_the_answer(system: System) -> None:
    told = chat(system, "small", max_tokens=2, verbosity="low", mirostat=2)
    assert told.headers["stoker-ignored"] == "verbosity, mirostat"
    refused = chat(system, "small", max_tokens=2, best_of=3)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "best_of"
    assert "stoker-ignored" not in chat(system, "small", max_tokens=2).headers


def test_an_unknown_path_below_v1_is_an_openai_error(system: System) -> None:
    for path in ("/v1/nothing", "/v1/assistants", "/openai/v1/nothing"):
        answer = httpx.post(system.url + path, json={})
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")


def test_a_page_that_is_named_may_ask_and_another_may_not(system: System) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    url = system.url + "/v1/chat/completions"
    answer = httpx.options(url, headers={"Origin": "http://page", **asked})
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "http://page"
    assert (
        "access-control-allow-origin"
        not in httpx.options(url, headers={"Origin": "http://other", **asked}).headers
    )
