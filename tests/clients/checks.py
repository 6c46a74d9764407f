"""Official clients in Python, unmodified, against a running Stoker: `python checks.py URL FOLDER`.

Runs in an environment of its own (requirements.txt). Prints a line of JSON for each check: the client, its
version, what was done, and what went wrong ("": nothing). FOLDER has what the checks send: sound.wav.
"""

import asyncio
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

URL = sys.argv[1].rstrip("/")
FOLDER = Path(sys.argv[2])
V1 = URL + "/v1"
CHAT, THINKS, EMBEDS, DRAWS, LISTENS = "smol", "think", "first", "picture", "whisper"
QUESTION = "What is the capital of France?"
USER: Any = [{"role": "user", "content": QUESTION}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}

Check = Callable[[], None]
CHECKS: list[tuple[str, str, str, Check]] = []


def check(client: str, package: str, what: str) -> Callable[[Check], Check]:
    def add(made: Check) -> Check:
        CHECKS.append((client, package, what, made))
        return made

    return add


class City(BaseModel):
    name: str
    is_capital: bool


class Answer(BaseModel):
    kind: Literal["city", "river"]
    city: City


# openai-python ------------------------------------------------------------------------------------


def _openai() -> Any:
    import openai

    return openai.OpenAI(base_url=V1, api_key="none", max_retries=0)


@check("openai-python", "openai", "chat")
def _() -> None:
    answer = _openai().chat.completions.create(model=CHAT, messages=USER, max_tokens=16, n=2, logprobs=True)
    assert len(answer.choices) == 2 and answer.choices[1].logprobs.content


@check("openai-python", "openai", "chat, streamed with its helper")
def _() -> None:
    with _openai().chat.completions.stream(model=CHAT, messages=USER, temperature=0, stop=[".", ","]) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "content.delta" in kinds and final.choices[0].message.content


@check("openai-python", "openai", "chat, parsed into a class")
def _() -> None:
    parsed = _openai().chat.completions.parse(
        model=CHAT, messages=USER, response_format=Answer, max_tokens=80, temperature=0
    )
    assert isinstance(parsed.choices[0].message.parsed, Answer)


@check("openai-python", "openai", "tools, with their results")
def _() -> None:
    tool: Any = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
    client = _openai()
    first = client.chat.completions.create(
        model=CHAT, messages=USER, tools=[tool], tool_choice="required", max_tokens=60, temperature=0
    )
    message = first.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
    second = client.chat.completions.create(
        model=CHAT, messages=[*USER, message, result], tools=[tool], max_tokens=8
    )
    assert second.choices[0].message.role == "assistant"


@check("openai-python", "openai", "what a model thinks")
def _() -> None:
    answer = _openai().chat.completions.create(
        model=THINKS,
        messages=USER,
        max_tokens=20,
        extra_body={"chat_template_kwargs": {"enable_thinking": True}},
    )
    assert answer.choices[0].message.reasoning_content


@check("openai-python", "openai", "completions")
def _() -> None:
    answer = _openai().completions.create(
        model=CHAT, prompt=["One, two,", "Three, four,"], max_tokens=4, echo=True
    )
    assert [one.text[:3] for one in answer.choices] == ["One", "Thr"]


@check("openai-python", "openai", "responses: kept, gone on with, streamed, in the background")
def _() -> None:
    client = _openai()
    first = client.responses.create(model=CHAT, input="My name is Ada.", max_output_tokens=8)
    second = client.responses.create(
        model=CHAT, input="My name?", previous_response_id=first.id, max_output_tokens=8
    )
    assert client.responses.retrieve(second.id).output_text == second.output_text
    with client.responses.stream(model=CHAT, input="Hi", max_output_tokens=8) as stream:
        kinds = {event.type for event in stream}
    assert "response.output_text.delta" in kinds
    later = client.responses.create(model=CHAT, input="Hi", max_output_tokens=4, background=True)
    deadline = time.monotonic() + 60
    while (found := client.responses.retrieve(later.id)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert found.output_text
    parsed = client.responses.parse(model=CHAT, input=QUESTION, text_format=City, max_output_tokens=60)
    assert isinstance(parsed.output_parsed, City)


@check("openai-python", "openai", "embeddings")
def _() -> None:
    answer = _openai().embeddings.create(model=EMBEDS, input=["a", "b"], dimensions=16)
    assert [len(one.embedding) for one in answer.data] == [16, 16]


@check("openai-python", "openai", "images")
def _() -> None:
    answer = _openai().images.generate(
        model=DRAWS, prompt="red seven", size="64x64", response_format="b64_json"
    )
    assert len(answer.data[0].b64_json) > 100


@check("openai-python", "openai", "audio: transcription, whole and streamed")
def _() -> None:
    client = _openai()
    sound = (FOLDER / "sound.wav").read_bytes()
    whole = client.audio.transcriptions.create(
        model=LISTENS, file=("sound.wav", sound), response_format="verbose_json"
    )
    assert whole.duration > 0
    with client.audio.transcriptions.create(model=LISTENS, file=("sound.wav", sound), stream=True) as events:
        assert [event.type for event in events][-1] == "transcript.text.done"


@check("openai-python", "openai", "files and batches")
def _() -> None:
    client = _openai()
    lines = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": CHAT, "messages": USER, "max_tokens": 4},
        }
        for number in range(3)
    ]
    content = "\n".join(json.dumps(line) for line in lines).encode()
    file = client.files.create(file=("in.jsonl", io.BytesIO(content)), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    deadline = time.monotonic() + 90
    while (batch := client.batches.retrieve(batch.id)).status not in (
        "completed",
        "failed",
        "expired",
        "cancelled",
    ):
        assert time.monotonic() < deadline, batch
        time.sleep(0.3)
    assert batch.status == "completed" and batch.output_file_id, batch
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert {one["custom_id"] for one in answers} == {f"line-{number}" for number in range(3)}


@check("openai-python", "openai", "errors that are the client's")
def _() -> None:
    import openai

    long = [{"role": "user", "content": "word " * 20000}]
    try:
        _openai().chat.completions.create(model=CHAT, messages=long)
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded"
    else:
        raise AssertionError("a prompt that is too long was answered")


# anthropic-sdk-python -----------------------------------------------------------------------------


def _anthropic() -> Any:
    import anthropic

    return anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)


@check("anthropic-sdk-python", "anthropic", "messages, count_tokens")
def _() -> None:
    client = _anthropic()
    answer = client.messages.create(model=CHAT, max_tokens=8, messages=USER, system="Be brief.")
    assert answer.content[0].text
    assert client.messages.count_tokens(model=CHAT, messages=USER).input_tokens > 5


@check("anthropic-sdk-python", "anthropic", "messages, streamed, with a tool and its result")
def _() -> None:
    client = _anthropic()
    tool = {"name": "get_weather", "description": "weather", "input_schema": WEATHER}
    asked: Any = {"model": CHAT, "max_tokens": 60, "tools": [tool]}
    with client.messages.stream(messages=USER, tool_choice={"type": "any"}, **asked) as stream:
        final = stream.get_final_message()
    use = final.content[0]
    assert final.stop_reason == "tool_use" and set(use.input) == {"city"}
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
    turns = [*USER, {"role": "assistant", "content": final.content}, {"role": "user", "content": [result]}]
    assert client.messages.create(messages=turns, **asked | {"max_tokens": 8}).role == "assistant"


@check("anthropic-sdk-python", "anthropic", "what a model thinks")
def _() -> None:
    with _anthropic().messages.stream(model=THINKS, max_tokens=20, messages=USER) as stream:
        assert stream.get_final_message().content[0].type == "thinking"


# Frameworks ---------------------------------------------------------------------------------------


@check("LangChain", "langchain-openai", "ChatOpenAI: invoke, stream, structured output, tools; embeddings")
def _() -> None:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    chat = ChatOpenAI(model=CHAT, base_url=V1, api_key="none", temperature=0, max_tokens=60)
    assert chat.invoke(QUESTION).content
    assert len(list(chat.stream(QUESTION))) > 3
    assert isinstance(chat.with_structured_output(City).invoke(QUESTION), City)
    assert isinstance(chat.with_structured_output(City, method="function_calling").invoke(QUESTION), City)
    tool = {"name": "get_weather", "description": "weather", "parameters": WEATHER}
    assert chat.bind_tools([tool], tool_choice="any").invoke(QUESTION).tool_calls
    vectors = OpenAIEmbeddings(
        model=EMBEDS, base_url=V1, api_key="none", check_embedding_ctx_length=False
    ).embed_documents(["a", "b"])
    assert len(vectors) == 2 and len(vectors[0]) > 16


@check("LangChain", "langchain-anthropic", "ChatAnthropic: invoke, stream")
def _() -> None:
    from langchain_anthropic import ChatAnthropic

    chat = ChatAnthropic(model=CHAT, base_url=URL, api_key="none", max_tokens=16)
    assert chat.invoke(QUESTION).content and list(chat.stream(QUESTION))


@check("LangChain", "langchain-ollama", "ChatOllama: invoke, stream, structured output; embeddings")
def _() -> None:
    from langchain_ollama import ChatOllama, OllamaEmbeddings

    chat = ChatOllama(model=CHAT, base_url=URL, num_predict=60, temperature=0)
    assert chat.invoke(QUESTION).content and len(list(chat.stream(QUESTION))) > 3
    assert isinstance(chat.with_structured_output(City).invoke(QUESTION), City)
    assert len(OllamaEmbeddings(model=EMBEDS, base_url=URL).embed_query("a")) > 16


@check("LlamaIndex", "llama-index-llms-openai-like", "chat, stream; embeddings")
def _() -> None:
    from llama_index.core.llms import ChatMessage
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding
    from llama_index.llms.openai_like import OpenAILike

    llm = OpenAILike(model=CHAT, api_base=V1, api_key="none", is_chat_model=True, max_tokens=16)
    said = [ChatMessage(role="user", content=QUESTION)]
    assert llm.chat(said).message.content and len(list(llm.stream_chat(said))) > 3
    embeddings = OpenAILikeEmbedding(model_name=EMBEDS, api_base=V1, api_key="none")
    assert len(embeddings.get_text_embedding("a")) > 16


@check("instructor", "instructor", "its default mode (tools), and JSON schema")
def _() -> None:
    import instructor

    asked: Any = {"model": CHAT, "messages": USER, "response_model": City, "max_tokens": 60, "temperature": 0}
    assert isinstance(instructor.from_openai(_openai()).chat.completions.create(**asked), City)
    json_schema = instructor.from_openai(_openai(), mode=instructor.Mode.JSON_SCHEMA)
    assert isinstance(json_schema.chat.completions.create(**asked), City)


@check("litellm", "litellm", "openai/, anthropic/ and ollama_chat/ models; embeddings")
def _() -> None:
    import litellm

    asked: Any = {"messages": USER, "max_tokens": 16, "api_key": "none"}
    for model, base in ((f"openai/{CHAT}", V1), (f"anthropic/{CHAT}", URL), (f"ollama_chat/{CHAT}", URL)):
        assert litellm.completion(model=model, api_base=base, **asked).choices[0].message.content
        assert list(litellm.completion(model=model, api_base=base, stream=True, **asked))
    made = litellm.embedding(model=f"openai/{EMBEDS}", api_base=V1, api_key="none", input=["a"])
    assert len(made.data[0]["embedding"]) > 16


@check("ollama-python", "ollama", "list, show, ps, chat, stream, tools, generate, embed, structured output")
def _() -> None:
    import ollama

    client = ollama.Client(host=URL)
    assert CHAT in {one.model for one in client.list().models}
    options = {"num_predict": 16, "temperature": 0}
    assert client.chat(model=CHAT, messages=USER, options=options).message.content
    assert len(list(client.chat(model=CHAT, messages=USER, options=options, stream=True))) > 3
    assert client.generate(model=CHAT, prompt=QUESTION, options=options).response
    assert len(client.embed(model=EMBEDS, input=["a", "b"]).embeddings) == 2
    schema = City.model_json_schema()
    made = client.chat(model=CHAT, messages=USER, format=schema, options={"num_predict": 60, "temperature": 0})
    City.model_validate_json(made.message.content or "")
    assert client.show(CHAT).details and client.ps().models
    tool = {"type": "function", "function": {"name": "get_weather", "description": "w", "parameters": WEATHER}}
    client.chat(model=CHAT, messages=USER, tools=[tool], options=options)


@check("llm", "llm", "the command, with a model of extra-openai-models.yaml")
def _() -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = f"- model_id: stoker\n  model_name: {CHAT}\n  api_base: {V1}\n  api_key_name: stoker\n"
        Path(folder, "extra-openai-models.yaml").write_text(text)
        environment = {**os.environ, "LLM_USER_PATH": folder}
        command = [
            str(Path(sys.executable).parent / "llm"),
            "-m",
            "stoker",
            "--key",
            "none",
            "-o",
            "max_tokens",
            "16",
        ]
        for more in ([], ["--no-stream"]):
            done = subprocess.run(
                [*command, *more, QUESTION],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0 and done.stdout.strip(), done.stderr


# A cold stream, read by every parser ---------------------------------------------------------------


def _cold() -> dict[str, Any]:
    return {"model": "cold", "messages": USER, "max_tokens": 4, "stream": True}


@check("httpx-sse", "httpx-sse", "a stream that waits for its model")
def _() -> None:
    import httpx
    from httpx_sse import connect_sse

    with (
        httpx.Client(timeout=60) as client,
        connect_sse(client, "POST", V1 + "/chat/completions", json=_cold()) as source,
    ):
        found = [event.data for event in source.iter_sse()]
    assert found[-1] == "[DONE]" and all(json.loads(one)["choices"] for one in found[:-1])


@check("sseclient-py", "sseclient-py", "a stream that waits for its model")
def _() -> None:
    import httpx
    import sseclient

    with httpx.stream("POST", V1 + "/chat/completions", json=_cold(), timeout=60) as answer:
        found = [event.data for event in sseclient.SSEClient(answer.iter_bytes()).events()]
    assert found[-1] == "[DONE]" and all(json.loads(one)["choices"] for one in found[:-1])


@check("a strict parser made by hand", "", "a stream that waits for its model: every block has data")
def _() -> None:
    import httpx

    with httpx.stream("POST", V1 + "/chat/completions", json=_cold(), timeout=60) as answer:
        text = b"".join(answer.iter_bytes()).decode()
    assert text.endswith("\n\n")
    blocks = [block for block in text.split("\n\n") if block]
    for block in blocks:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        assert len(lines) == 1 and lines[0].startswith("data: "), block
    assert blocks[-1].endswith("[DONE]")


@check("openai-python", "openai", "many streams at once (AsyncOpenAI)")
def _() -> None:
    import openai

    async def one(client: Any) -> str:
        text = ""
        stream = await client.chat.completions.create(model=CHAT, messages=USER, max_tokens=8, stream=True)
        async for chunk in stream:
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        return text

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=V1, api_key="none") as client:
            return list(await asyncio.gather(*(one(client) for _ in range(16))))

    assert all(asyncio.run(all_of_them()))


def main() -> None:
    for client, package, what, made in CHECKS:
        error = ""
        try:
            made()
        except Exception:
            error = traceback.format_exc()[-2000:]
        line = {"client": client, "version": version(package) if package else "", "what": what, "error": error}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
