"""Engines that speak to a server of their own: Ollama (a stub that follows its API document) and real vLLM."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.functions.output import OutputPart
from stoker.schemas.catalog import Adapter
from stoker.schemas.job_events import EmbeddingOutput, TextOutput
from stoker.schemas.jobs import ChatInput, CompletionInput, EmbeddingInput, JobInput, Sampling, TokensInput
from stoker.schemas.openai import ChatMessage, ImagePart, ImageUrl, TextPart
from stoker.services.worker.engines.base import (
    Cancellation,
    Engine,
    EngineError,
    HasCard,
    Measured,
    ModelFiles,
    Request,
    Stopped,
)
from stoker.services.worker.engines.registry import VLLM_VARIABLE, create
from tests.conftest import ROOT
from tests.fixtures.ollama_server import OllamaStub
from tests.fixtures.serving import serving
from tests.fixtures.tiny_llama import tiny_llama
from tests.waiting import eventually

VLLM = ROOT / ".venv-vllm" / "bin" / "vllm"
NAME = "llama-3.1-3b"


class Heard:
    """An emitter that remembers, and may cancel after some text."""

    def __init__(self, cancelled: Cancellation | None = None) -> None:
        self.texts: list[str] = []
        self._cancelled = cancelled

    def text(self, text: str, tokens: int = 1, *, is_reasoning: bool = False, logprobs: Any = ()) -> None:
        self.texts.append(text)
        if self._cancelled is not None and len(self.texts) == 2:
            self._cancelled.set()

    def calls(self, parts: Any, tokens: int) -> None: ...

    def step(self, step: int, steps: int) -> None: ...

    def preview(self, index: int, step: int, width: int, height: int, png: bytes) -> None: ...

    def printed(self, output: OutputPart) -> None: ...


async def run(engine: Engine, asked: JobInput, heard: Heard | None = None, **request: Any) -> Any:
    found = Request(job="j", input=asked, seed=request.pop("seed", 1), **request)
    cancelled = heard._cancelled if heard is not None and heard._cancelled is not None else Cancellation()
    return await engine.run("m", found, heard or Heard(), cancelled)


def chat(text: str, **fields: Any) -> ChatInput:
    return ChatInput((ChatMessage("user", text),), **fields)


# Ollama -----------------------------------------------------------------------------------------------


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[OllamaStub]:
    found = OllamaStub()
    with serving(found.app()) as url:
        monkeypatch.setenv("OLLAMA_HOST", url.removeprefix("http://"))
        yield found


@pytest.fixture
def ollama(stub: OllamaStub) -> Engine:
    engine = create("ollama")
    engine.load(ModelFiles("m", Path(NAME), {"num_ctx": 64}))
    return engine


def test_a_model_is_pulled_with_progress_once_and_loaded(stub: OllamaStub) -> None:
    engine = create("ollama")
    percents: list[float] = []
    engine.load(ModelFiles("m", Path(NAME), {}, report=percents.append))
    assert percents == [0.0, pytest.approx(33.3, abs=0.1), pytest.approx(66.7, abs=0.1), 100.0]
    assert list(stub.loaded) == [NAME]
    assert engine.memory_bytes("m") == 3_000_000
    engine.load(ModelFiles("m", Path(NAME), {}, report=percents.append))
    assert len(percents) == 4
    engine.unload("m")
    assert stub.loaded == {}


def test_a_model_that_the_registry_does_not_have_is_said(stub: OllamaStub) -> None:
    with pytest.raises(
        EngineError, match="Ollama cannot pull nothing: pull model manifest: file does not exist"
    ):
        create("ollama").load(ModelFiles("m", Path("nothing"), {}))


def test_without_a_server_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    monkeypatch.setenv("PATH", "")
    remedy = r"no Ollama answers at http://127\.0\.0\.1:9 .* start one, or set OLLAMA_HOST"
    with pytest.raises(EngineError, match=remedy):
        create("ollama").load(ModelFiles("m", Path(NAME), {}))


async def test_chat_streams_and_takes_sampling(ollama: Engine, stub: OllamaStub) -> None:
    heard = Heard()
    asked = chat("one two three four", max_tokens=3, stop=("x",), sampling=Sampling(temperature=0.5, top_k=4))
    output = await run(ollama, asked, heard, seed=9)
    assert isinstance(output, TextOutput)
    assert (output.text, heard.texts) == ("one two three", ["one", " two", " three"])
    assert output.finish_reason == "length"
    assert (output.usage.completion_tokens, output.usage.prompt_tokens) == (3, 5)
    options = stub.bodies[-1]["options"]
    assert options == {
        "num_ctx": 64, "seed": 9, "temperature": 0.5, "top_k": 4, "num_predict": 3, "stop": ["x"],
    }  # fmt: skip


async def test_completions_go_on_after_what_was_sent(ollama: Engine, stub: OllamaStub) -> None:
    output = await run(ollama, CompletionInput("a b"), sent_text=" c")
    assert stub.bodies[-1]["prompt"] == "a b c"
    assert output.text == " ca b c"


async def test_tool_calls_come_as_openai_has_them(ollama: Engine) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    output = await run(ollama, chat("weather?", tools=(tool,)))
    assert output.finish_reason == "tool_calls"
    [call] = output.tool_calls
    assert call["function"] == {"name": "weather", "arguments": '{"city":"Bonn"}'}


def with_picture(url: str) -> ChatInput:
    parts = (TextPart("What is it?"), ImagePart(ImageUrl(url)))
    return ChatInput((ChatMessage("user", parts),))


async def test_pictures_are_sent_and_those_that_lie_elsewhere_are_refused(
    ollama: Engine, stub: OllamaStub
) -> None:
    await run(ollama, with_picture("data:image/png;base64,iVBORw0KGgo="))
    [message] = stub.bodies[-1]["messages"]
    assert (message["content"], message["images"]) == ("What is it?", ["iVBORw0KGgo="])
    with pytest.raises(EngineError) as refused:
        await run(ollama, with_picture("https://example.com/a.png"))
    assert (refused.value.kind, refused.value.field) == ("validation", "messages")


async def test_a_demanded_call_may_come_in_the_engines_own_way_and_is_checked(
    ollama: Engine, stub: OllamaStub
) -> None:
    def asked(name: str, parameters: dict[str, Any]) -> ChatInput:
        tool = {"type": "function", "function": {"name": name, "parameters": parameters}}
        return chat("weather?", tools=(tool,), tool_choice="required")

    output = await run(ollama, asked("weather", {"type": "object", "required": ["city"]}))
    assert (output.text, output.finish_reason) == ("", "tool_calls")
    assert output.tool_calls[0]["function"]["name"] == "weather"
    assert stub.bodies[-1]["format"]["properties"]["name"] == {"const": "weather"}
    with pytest.raises(EngineError) as refused:
        await run(ollama, asked("weather", {"type": "object", "required": ["zip"]}))
    assert refused.value.code == "tool_call_failed"


async def test_embeddings(ollama: Engine) -> None:
    output = await run(ollama, EmbeddingInput(("abc", "de")))
    assert isinstance(output, EmbeddingOutput)
    assert output.vectors == ((3.0, 1.0), (2.0, 1.0))
    assert output.prompt_tokens == 7


async def test_a_cancel_breaks_the_request_off(ollama: Engine, stub: OllamaStub) -> None:
    cancelled = Cancellation()
    began = time.monotonic()
    with pytest.raises(Stopped):
        await run(ollama, chat("word " * 500), Heard(cancelled))
    assert time.monotonic() - began < 5
    await eventually(lambda: stub.broken_off)


# vLLM -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def vllm(llama: Path) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VLLM_VARIABLE, str(VLLM))
        engine = create("vllm")
        env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        compact = '--structured-outputs-config={"backend": "xgrammar", "disable_any_whitespace": true}'
        arguments = ("--enforce-eager", "--max-model-len=256", compact)
        engine.load(ModelFiles("m", llama, {}, (), arguments, env))
        yield engine
        engine.unload("m")


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_vllm_streams_repeats_itself_and_stops_when_told(vllm: Engine) -> None:
    heard = Heard()
    asked = chat("hello", max_tokens=12, sampling=Sampling(temperature=1.0))
    first = await run(vllm, asked, heard, seed=3)
    assert "".join(heard.texts) == first.text
    assert len(heard.texts) > 1
    assert (first.usage.completion_tokens <= 12, first.usage.prompt_tokens > 5) == (True, True)
    again = await run(vllm, asked, seed=3)
    assert again.text == first.text
    completion = await run(vllm, CompletionInput("hello", max_tokens=4))
    assert completion.usage.completion_tokens <= 4
    with pytest.raises(EngineError, match=r"vLLM: .*(context|maximum|256)") as refused:
        await run(vllm, chat("x" * 400, max_tokens=4))
    assert (refused.value.kind, refused.value.code) == ("validation", "context_length_exceeded")

    cancelled = Cancellation()
    began = time.monotonic()
    with pytest.raises(Stopped):
        long = chat("go", max_tokens=230, sampling=Sampling(temperature=1.0, logit_bias={"1": -100}))
        await run(vllm, long, Heard(cancelled))
    assert time.monotonic() - began < 10
    assert isinstance(vllm, Measured)
    assert {"requests_running", "requests_waiting"} <= (await vllm.metrics()).keys()

    async def is_idle() -> bool:
        return not (await vllm.metrics())["requests_running"]

    assert await eventually(is_idle)  # its figures lag; an aborted request is no longer among them
    assert vllm.memory_bytes("m") > 10**8


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_vllm_tells_chances_counts_tokens_and_keeps_demands(vllm: Engine) -> None:
    loaded: Any = vllm
    loaded._servers["m"].server.close()  # its connections belong to the loop of the test before
    asked = chat("hello", max_tokens=6, sampling=Sampling(temperature=1.0, repeat_penalty=1.5), logprobs=2)
    heard = Heard()
    output = await run(vllm, asked, heard)
    assert len(output.logprobs) == output.usage.completion_tokens
    assert all(len(one.top) == 2 for one in output.logprobs)
    bare = await run(vllm, CompletionInput("hello", max_tokens=3, logprobs=0))
    assert bare.logprobs and all(one.top == () for one in bare.logprobs)
    tokens = await run(vllm, TokensInput("hello there"))
    assert tokens.value["context_tokens"] == 256 and len(tokens.value["pieces"]) == len(tokens.value["tokens"])
    back = await run(vllm, TokensInput(tokens=tuple(tokens.value["tokens"])))
    assert "hello there" in back.value["text"]
    prompt = await run(vllm, TokensInput(messages=(ChatMessage("user", "hello"),)))
    usage = (await run(vllm, chat("hello", max_tokens=1))).usage
    assert len(prompt.value["tokens"]) == usage.prompt_tokens
    by_tokens = CompletionInput("", max_tokens=3, tokens=tuple(tokens.value["tokens"]))
    assert (await run(vllm, by_tokens)).usage.prompt_tokens == len(tokens.value["tokens"])
    parameters = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    [call] = (await run(vllm, chat("go", max_tokens=80, tools=(tool,), tool_choice="required"))).tool_calls
    assert call["function"]["name"] == "weather" and "city" in call["function"]["arguments"]
    assert isinstance(vllm, HasCard) and vllm.card("m").context_tokens == 256


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_wrong_argument_of_vllm_is_shown_with_the_tail_of_its_log(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VLLM_VARIABLE, str(VLLM))
    with pytest.raises(EngineError, match=r"vllm serve \S+ ended with status \d+: .*no-such-flag"):
        create("vllm").load(ModelFiles("m", llama, {}, (), ("--no-such-flag",)))


def test_a_vllm_that_is_not_there_is_said_with_the_remedy(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VLLM_VARIABLE, "/nowhere/vllm")
    with pytest.raises(EngineError, match="/nowhere/vllm: No such file"):
        create("vllm").load(ModelFiles("m", llama, {}, (Adapter("poet", "/p"),)))
