"""The text APIs on a real model (SmolLM2): OpenAI's official client, and plain HTTP where there is none here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import xllamacpp
from openai.types.responses import Response
from pydantic import BaseModel

from tests.conftest import System, wait_for
from tests.fixtures.smollm2 import smollm2
from tests.fixtures.text_models import THINKS, remade

MODELS = """\
models:
  smol: {{engine: llamacpp, url: "file://{smol}", options: {{n_ctx: 1024}}}}
  tiny: {{engine: llamacpp, url: "file://{folder}/tiny.gguf"}}
  think: {{engine: llamacpp, url: "file://{folder}/think.gguf"}}
  first: {{engine: llamacpp, url: "file://{folder}/first.gguf"}}
  rank: {{engine: llamacpp, url: "file://{folder}/rank.gguf", features: [Reranking]}}
  slow: {{engine: synthetic, slots: 1, options: {{token_interval_s: 0.2}}}}
workers:
  - {{count: 1, memory: 4GB, engines: [llamacpp, synthetic]}}
"""
USER: Any = {"role": "user", "content": "What is the capital of France?"}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}]


class City(BaseModel):
    name: str
    is_capital: bool


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder: Path = tmp_path_factory.mktemp("apis")
    remade(folder / "tiny.gguf")
    remade(folder / "think.gguf", template=THINKS)
    remade(folder / "first.gguf", pooling=2)
    remade(folder / "rank.gguf", pooling=4)
    found = System(folder, MODELS.format(smol=smollm2(), folder=folder))
    try:
        found.wait_ready()
        yield found
    finally:
        found.stop()


@pytest.fixture
def client(system: System) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=system.url + "/v1", api_key="none", max_retries=0) as found:
        yield found


def post(system: System, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(system.url + path, json=body, timeout=60)


# Chat and completions -----------------------------------------------------------------------------


def test_a_text_at_temperature_0_is_what_llama_cpp_says(client: openai.OpenAI) -> None:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(smollm2())
    parameters.n_ctx, parameters.verbosity, parameters.fit_params = 1024, 0, False
    server = xllamacpp.Server(parameters)
    for messages in ([USER], [{"role": "system", "content": "Answer in one word."}, USER]):
        body = {"messages": messages, "max_tokens": 24, "temperature": 0, "seed": 1}
        direct = server.handle_chat_completions(body)["choices"][0]["message"]["content"]
        ours = client.chat.completions.create(model="smol", messages=messages, max_tokens=24, temperature=0)
        assert ours.choices[0].message.content == direct and len(direct) > 20
    text = {"prompt": "The capital of France is", "max_tokens": 12, "temperature": 0}
    direct = server.handle_completions(text)["choices"][0]["text"]
    assert client.completions.create(model="smol", **text).choices[0].text == direct


def test_several_answers_whole_and_streamed_are_the_same(client: openai.OpenAI) -> None:
    asked: Any = {"model": "smol", "messages": [USER], "max_tokens": 6, "n": 3, "seed": 5}
    whole = client.chat.completions.create(**asked)
    texts = [choice.message.content for choice in whole.choices]
    assert len(set(texts)) > 1
    streamed = ["", "", ""]
    with client.chat.completions.create(**asked, stream=True) as chunks:
        for chunk in chunks:
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    assert whole.usage is not None and whole.usage.completion_tokens == 18
    alone = client.chat.completions.create(**asked | {"n": 1, "seed": 7})
    assert alone.choices[0].message.content == texts[2]  # seeds follow each other


def test_more_answers_than_may_be_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="smol", messages=[USER], n=129)
    assert refused.value.param == "n"


def test_chances_are_told_for_each_token(client: openai.OpenAI) -> None:
    asked: Any = {"model": "smol", "messages": [USER], "max_tokens": 5, "temperature": 0, "seed": 1}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3)
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert "".join(one.token for one in logprobs.content) == whole.choices[0].message.content
    for one in logprobs.content:
        assert one.token == one.top_logprobs[0].token and len(one.top_logprobs) == 3
    streamed = []
    with client.chat.completions.create(**asked, logprobs=True, top_logprobs=3, stream=True) as chunks:
        for chunk in chunks:
            for choice in chunk.choices:
                streamed += (choice.logprobs.content or []) if choice.logprobs else []
    assert [one.token for one in streamed] == [one.token for one in logprobs.content]
    bare = client.chat.completions.create(**asked, logprobs=True).choices[0].logprobs
    assert bare is not None and bare.content is not None
    assert [(one.token, one.top_logprobs) for one in bare.content] == [
        (one.token, []) for one in logprobs.content
    ]
    text = client.completions.create(model="smol", prompt="Paris is", max_tokens=4, logprobs=2, temperature=0)
    told = text.choices[0].logprobs
    assert told is not None and told.tokens is not None and told.text_offset is not None
    assert "".join(told.tokens) == text.choices[0].text and told.text_offset[0] == 0


def test_prompts_may_be_several_or_tokens_and_may_be_echoed(system: System, client: openai.OpenAI) -> None:
    prompts = ["The capital of France is", "One, two, three,"]
    asked: Any = {"model": "smol", "max_tokens": 4, "temperature": 0}
    both = client.completions.create(prompt=prompts, echo=True, **asked)
    alone = [client.completions.create(prompt=prompt, **asked).choices[0].text for prompt in prompts]
    assert [choice.text for choice in both.choices] == [p + a for p, a in zip(prompts, alone, strict=True)]
    tokens = post(system, "/v1/tokenize", {"model": "smol", "prompt": prompts[0]}).json()["tokens"]
    assert client.completions.create(prompt=tokens, **asked).choices[0].text == alone[0]
    with client.completions.create(prompt=prompts, echo=True, stream=True, **asked) as chunks:
        streamed = ["", ""]
        for chunk in chunks:
            streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [choice.text for choice in both.choices]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"best_of": 3}, "best_of"), ({"suffix": "end"}, "suffix"), ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"prompt": []}, "prompt"), ({"prompt": [[1], "x", 2]}, "prompt"),
    ],
)  # fmt: skip
def test_what_is_not_done_is_refused_by_name(system: System, fields: dict[str, Any], field: str) -> None:
    answer = post(system, "/v1/completions", {"model": "smol", "prompt": "a", "max_tokens": 2, **fields})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == field


def test_a_schema_is_kept_on_a_model_that_knows_nothing_of_it(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(
        model="smol", messages=[USER], response_format=City, max_tokens=60, temperature=0
    )
    city = parsed.choices[0].message.parsed
    assert isinstance(city, City)
    forced = client.chat.completions.create(
        model="smol", messages=[USER], tools=TOOLS, tool_choice="required", temperature=0, max_tokens=60
    )
    [call] = forced.choices[0].message.tool_calls or ()
    assert call.type == "function" and set(json.loads(call.function.arguments)) == {"city"}
    assert len(call.id) == 9 and call.id.isalnum()


def test_a_long_conversation_is_read_to_its_end_and_its_beginning_is_cached(client: openai.OpenAI) -> None:
    facts = " ".join(f"Fact {number} is that room {number} is blue." for number in range(60))
    messages: Any = [{"role": "user", "content": facts}]
    first = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4, temperature=0)
    messages += [{"role": "assistant", "content": first.choices[0].message.content}, USER]
    second = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4, temperature=0)
    assert first.usage is not None and second.usage is not None
    assert first.usage.prompt_tokens > 600
    details = second.usage.prompt_tokens_details
    assert details is not None and (details.cached_tokens or 0) > 600


# Responses ----------------------------------------------------------------------------------------


def test_responses_go_on_from_each_other_and_are_kept(client: openai.OpenAI) -> None:
    first = client.responses.create(model="smol", input="My name is Ada.", max_output_tokens=8, temperature=0)
    second = client.responses.create(
        model="smol",
        input="What is my name?",
        previous_response_id=first.id,
        max_output_tokens=8,
        temperature=0,
    )
    whole = client.chat.completions.create(
        model="smol", max_tokens=8, temperature=0,
        messages=[
            {"role": "user", "content": "My name is Ada."},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "What is my name?"},
        ],
    )  # fmt: skip
    assert second.output_text == whole.choices[0].message.content
    assert client.responses.retrieve(second.id).output_text == second.output_text
    assert client.responses.input_items.list(second.id).data[0].type == "message"
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="smol", input="x", previous_response_id="resp_none")
    assert unknown.value.param == "previous_response_id"


def test_a_response_that_is_not_stored_is_not_kept(client: openai.OpenAI) -> None:
    made = client.responses.create(model="smol", input="hi", max_output_tokens=2, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_a_response_in_the_background_is_looked_up_and_cancelled(client: openai.OpenAI) -> None:
    made = client.responses.create(model="slow", input="hi", max_output_tokens=500, background=True)
    assert made.status == "queued"
    assert client.responses.retrieve(made.id).status in ("queued", "in_progress")
    with pytest.raises(openai.BadRequestError) as early:
        client.responses.create(model="slow", input="x", previous_response_id=made.id)
    assert early.value.param == "previous_response_id"
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"


def test_a_response_in_the_background_is_streamed_and_streamed_again_from_any_event(
    system: System, client: openai.OpenAI
) -> None:
    events = client.responses.create(
        model="slow", input="hi", max_output_tokens=12, background=True, stream=True
    )
    had: list[Any] = []
    with events:
        for event in events:  # and the client goes away
            had.append(event)
            if sum(one.type == "response.output_text.delta" for one in had) == 2:
                break
    assert [one.type for one in had[:2]] == ["response.created", "response.queued"]
    made = had[0].response.id
    rest: list[Any] = list(client.responses.retrieve(made, stream=True, starting_after=had[-1].sequence_number))
    assert rest[-1].type == "response.completed"
    again: list[Any] = list(client.responses.retrieve(made, stream=True))
    whole = client.responses.retrieve(made).output_text
    for events_ in (had + rest, again):
        assert "".join(one.delta for one in events_ if one.type == "response.output_text.delta") == whole
    assert len(whole.split()) == 12
    for wrong in ("starting_after=3", "stream=true&starting_after=-1"):
        answer = httpx.get(f"{system.url}/v1/responses/{made}?{wrong}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "starting_after")


def test_thoughts_and_calls_are_items_of_a_streamed_response(client: openai.OpenAI) -> None:
    with client.responses.stream(model="think", input="What is Stoker?", max_output_tokens=20) as stream:
        events = list(stream)
    last: Any = events[-1]
    assert "response.reasoning_text.delta" in {event.type for event in events}
    assert last.type in ("response.completed", "response.incomplete")
    assert last.response.output[0].type == "reasoning"
    tools: Any = [{"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": True}]
    with client.responses.stream(
        model="smol", input="weather in Paris?", tools=tools, tool_choice="required", temperature=0
    ) as stream:
        called = stream.get_final_response().output[0]
    assert called.type == "function_call" and called.name == "get_weather"
    parsed = client.responses.parse(
        model="smol", input="Paris", text_format=City, max_output_tokens=200, temperature=0
    )
    assert isinstance(parsed.output_parsed, City)


def test_what_is_wrong_with_a_response_is_openais_error(system: System) -> None:
    answer = post(system, "/v1/responses", {"model": "smol", "input": [{"type": "computer_call"}]})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "input[0]"
    made = post(system, "/openai/v1/responses", {"model": "smol", "input": "hi", "max_output_tokens": 2})
    Response.model_validate(made.json(), strict=False)


# Anthropic's and Ollama's -------------------------------------------------------------------------


def test_a_message_in_anthropics_form(system: System) -> None:
    asked = {"model": "smol", "max_tokens": 8, "messages": [USER], "temperature": 0, "system": "Be brief."}
    answer = post(system, "/v1/messages", asked)
    assert answer.status_code == 200 and answer.headers["x-job-id"] in answer.json()["id"]
    assert answer.json()["content"][0]["type"] == "text"
    count = post(
        system, "/v1/messages/count_tokens", {"model": "smol", "messages": [USER], "system": "Be brief."}
    )
    usage = answer.json()["usage"]
    assert count.json()["input_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]
    missing = post(system, "/v1/messages", asked | {"model": "none"})
    assert missing.status_code == 404 and missing.json()["error"]["type"] == "not_found_error"
    unread = post(system, "/v1/messages", {"model": "smol", "messages": [USER]})
    assert unread.status_code == 400 and "max_tokens" in unread.json()["error"]["message"]
    nowhere = httpx.get(system.url + "/v1/messages/batches")
    assert nowhere.status_code == 404 and nowhere.json()["type"] == "error"


def test_a_forced_call_in_anthropics_form_is_streamed(system: System) -> None:
    tool = {"name": "get_weather", "input_schema": WEATHER}
    asked = {
        "model": "smol", "max_tokens": 60, "messages": [USER], "tools": [tool], "tool_choice": {"type": "any"},
        "stream": True, "temperature": 0,
    }  # fmt: skip
    text = post(system, "/v1/messages", asked).text
    events = [
        json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")
    ]
    assert [one["type"] for one in events][:2] == ["message_start", "content_block_start"]
    parts = [one["delta"]["partial_json"] for one in events if one["type"] == "content_block_delta"]
    assert set(json.loads("".join(parts))) == {"city"}
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_ollamas_clients_find_models_and_chat(system: System) -> None:
    tags = httpx.get(system.url + "/api/tags").json()["models"]
    assert {"smol", "think", "slow"} <= {one["name"] for one in tags}
    asked = {"model": "smol:latest", "messages": [USER], "options": {"temperature": 0, "num_predict": 8}}
    whole = post(system, "/api/chat", asked | {"stream": False}).json()
    streamed = post(system, "/api/chat", asked)
    assert streamed.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in streamed.text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == whole["message"]["content"]
    assert lines[-1]["done"] and lines[-1]["eval_count"] == whole["eval_count"] == 8
    shown = post(system, "/api/show", {"model": "smol"}).json()
    assert shown["details"]["quantization_level"] == "Q4_1" and "completion" in shown["capabilities"]
    running = httpx.get(system.url + "/api/ps").json()["models"]
    assert "smol" in {one["name"] for one in running}


def test_ollamas_texts_and_vectors(system: System, client: openai.OpenAI) -> None:
    text = {"model": "smol", "prompt": "The capital of France is", "raw": True, "stream": False}
    made = post(system, "/api/generate", text | {"options": {"temperature": 0, "num_predict": 5}}).json()
    ours = client.completions.create(model="smol", prompt=text["prompt"], max_tokens=5, temperature=0)  # type: ignore[call-overload]
    assert made["response"] == ours.choices[0].text
    found = post(system, "/api/embed", {"model": "first", "input": ["a", "b"]}).json()["embeddings"]
    vector = client.embeddings.create(model="first", input="a").data[0].embedding
    assert found[0] == pytest.approx(vector, abs=1e-6)
    old = post(system, "/api/embeddings", {"model": "first", "prompt": "a"}).json()["embedding"]
    for path, body, said in (
        ("/api/embed", {"input": ""}, {"embeddings": []}),
        ("/api/embed", {"input": []}, {"embeddings": []}),
        ("/api/embeddings", {"prompt": ""}, {"embedding": []}),
    ):
        loaded = post(system, path, {"model": "first", **body})
        assert loaded.status_code == 200 and said.items() <= loaded.json().items(), loaded.text
    lost = {"truncate": True, "options": {"num_ctx": 5}, "keep_alive": "5m"}
    told = post(system, "/api/embed", {"model": "first", "input": "a", **lost}).headers["stoker-ignored"]
    assert set(told.split(", ")) == {"truncate", "options.num_ctx", "keep_alive"}
    assert old == pytest.approx(found[0], abs=1e-6)
    no_token = post(system, "/v1/embeddings", {"model": "first", "input": [10**9]}).json()["error"]
    assert no_token["param"] == "input", no_token


def test_an_ollama_that_should_change_models_says_where_they_come_from(system: System) -> None:
    refused = post(system, "/api/pull", {"model": "x"})
    assert refused.status_code == 501 and "catalog" in refused.json()["error"]
    assert post(system, "/api/chat", {"model": "none", "messages": [USER]}).json()["error"]
    assert post(system, "/api/generate", {"model": "smol"}).json()["done_reason"] == "load"
    options = {"num_ctx": 4, "num_predict": 1}
    assert (
        post(system, "/api/chat", {"model": "smol", "messages": [USER], "options": options}).headers[
            "stoker-ignored"
        ]
        == "options.num_ctx"
    )


# Tokens, ranks, and what a model can do -----------------------------------------------------------


def test_tokens_go_there_and_back(system: System) -> None:
    text = "Hello wörld 🦊"
    asked = {"model": "smol", "prompt": text, "return_token_strs": True}
    found = post(system, "/v1/tokenize", asked).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] == 1024
    back = post(system, "/detokenize", {"model": "smol", "tokens": found["tokens"]})
    assert back.json() == {"prompt": text}
    assert post(system, "/v1/detokenize", {"model": "smol", "tokens": []}).json() == {"prompt": ""}
    chat = post(system, "/tokenize", {"model": "smol", "messages": [USER]}).json()
    used = post(system, "/v1/chat/completions", {"model": "smol", "messages": [USER], "max_tokens": 1}).json()
    assert chat["count"] == used["usage"]["prompt_tokens"]
    assert post(system, "/v1/tokenize", {"model": "smol"}).status_code == 400


def test_documents_are_ranked_by_a_model_that_ranks_and_by_one_that_embeds(system: System) -> None:
    documents = ["the weather", {"text": "a model server"}, "x"]
    for model in ("rank", "first"):
        asked = {"model": model, "query": "a model server", "documents": documents}
        ranking = post(system, "/v1/rerank", asked).json()
        scores = [one["relevance_score"] for one in ranking["results"]]
        assert scores == sorted(scores, reverse=True) and len(scores) == 3
        assert {one["index"] for one in ranking["results"]} == {0, 1, 2}
        best = post(system, "/rerank", asked | {"top_n": 1, "return_documents": False}).json()["results"]
        assert [one["index"] for one in best] == [ranking["results"][0]["index"]] and "document" not in best[0]
        for wrong, param in (
            ({"query": ""}, "query"),
            ({"documents": [""]}, "documents"),
            ({"documents": ["word " * 5000]}, "documents"),
        ):
            assert post(system, "/rerank", asked | wrong).json()["error"]["param"] == param
    assert ranking["results"][0]["document"] == {"text": "a model server"}


def test_pairs_are_scored(system: System) -> None:
    same = post(system, "/v1/score", {"model": "first", "text_1": "a", "text_2": ["a", "b"]}).json()["data"]
    assert same[0]["score"] == pytest.approx(1.0) and same[1]["score"] < 0.99
    pairs = {"model": "first", "text_1": ["a", "b"], "text_2": ["b", "b"]}
    found = post(system, "/v1/score", pairs).json()["data"]
    assert [one["score"] for one in found] == pytest.approx([same[1]["score"], 1.0])
    wrong = post(system, "/v1/score", pairs | {"text_1": ["a", "b", "c"]})
    assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "text_1"


def test_what_a_loaded_model_can_do_is_shown(system: System, client: openai.OpenAI) -> None:
    client.embeddings.create(model="first", input="a")
    client.chat.completions.create(model="think", messages=[USER], max_tokens=1)
    card: Any = client.models.retrieve("smol").model_dump()
    assert card["max_model_len"] == 1024
    assert card["capabilities"]["quantisation"] == "Q4_1" and card["capabilities"]["abilities"] == ["system"]
    first: Any = client.models.retrieve("first").model_dump()
    assert first["capabilities"]["pooling"] == "cls"
    think: Any = client.models.retrieve("think").model_dump()
    assert "thinking" in think["capabilities"]["abilities"]


def test_a_runner_that_dies_costs_no_token_and_no_chance(system: System, client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": [USER], "max_tokens": 60, "temperature": 0, "logprobs": True}
    asked["messages"] = [{"role": "user", "content": "Tell me a long story about a lighthouse."}]
    whole = client.chat.completions.create(**asked).choices[0]
    text, tokens = "", []
    with client.chat.completions.create(**asked, stream=True) as chunks:
        for number, chunk in enumerate(chunks):
            for choice in chunk.choices:
                text += choice.delta.content or ""
                tokens += [one.token for one in (choice.logprobs.content or [])] if choice.logprobs else []
            if number == 8:
                runners = psutil.Process(system.pid("worker-1")).children()
                [runner] = [one for one in runners if one.cmdline()[-1] == "text"]
                runner.kill()
    assert text == whole.message.content
    assert whole.logprobs is not None and tokens == [one.token for one in whole.logprobs.content or ()]


def test_a_client_that_leaves_cancels_all_its_answers(system: System) -> None:
    asked = {"model": "slow", "messages": [USER], "max_tokens": 200, "n": 3, "stream": True}
    with httpx.stream("POST", system.url + "/v1/chat/completions", json=asked, timeout=60) as answer:
        jobs = answer.headers["x-job-id"].split(", ")
        next(answer.iter_bytes())
    assert len(jobs) == 3

    def are_over() -> bool:
        return {system.get(f"/v1/jobs/{job}")["status"] for job in jobs} == {"cancelled"}

    wait_for(are_over, 20, "all three to be cancelled")


def test_of_several_answers_none_is_given_where_one_fails(system: System) -> None:
    asked = {"model": "smol", "prompt": ["short", "long " * 2000], "max_tokens": 2}
    refused = post(system, "/v1/completions", asked)
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "context_length_exceeded"
    with httpx.stream(
        "POST", system.url + "/v1/completions", json=asked | {"stream": True}, timeout=60
    ) as answer:
        said = answer.read().decode()
    assert "context_length_exceeded" in said and "[DONE]" not in said
