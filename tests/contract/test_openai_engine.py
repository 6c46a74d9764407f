"""The engine for servers of OpenAI's API: what is sent, when it is sent again, and what a broken stream means."""

import asyncio
import gc
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiodns
import aiohttp
import pytest

from stoker.schemas.job_events import TextOutput
from stoker.schemas.jobs import EmbeddingInput, Sampling, TokensInput
from stoker.services.process.tasks import TaskOwner
from stoker.services.worker.engines.base import Cancellation, Closes, Engine, EngineError, ModelFiles, Stopped
from stoker.services.worker.engines.registry import create
from stoker.services.worker.engines.text.http_stream import Names, Server
from stoker.services.worker.models.weights.resolve import resolve
from stoker.services.worker.runner.in_process import InProcessRunner
from stoker.services.worker.runner.messages import Load, Loaded, Run, TextDone
from tests.contract.test_text_servers import Heard, chat, run
from tests.fixtures.openai_server import KEY, OpenAIStub
from tests.fixtures.serving import serving
from tests.waiting import eventually


class Upstream:
    """A stub, its address, and an engine that has its model `m`."""

    def __init__(self, stub: OpenAIStub, url: str) -> None:
        self.stub = stub
        self.url = url
        self.engine: Engine = create("openai")

    def load(self, **options: Any) -> Engine:
        env = options.pop("env", {})
        path = resolve(f"{self.url}/v1", lambda _: None)
        self.engine.load(ModelFiles("m", path, {"model": "big", **options}, env=env))
        return self.engine


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    stub = OpenAIStub()
    with serving(stub.app()) as url:
        yield Upstream(stub, url)


async def test_a_server_whose_name_is_not_told_holds_up_no_other(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four such names, and no other was looked up for half a minute."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        asking = partial(aiodns.DNSResolver, ["127.0.0.1"], udp_port=silent.getsockname()[1])
        monkeypatch.setattr(aiodns, "DNSResolver", asking)
        server = Server("http://none.example", "x")
        lost = [asyncio.create_task(server.post("/", {}, dict)) for _ in range(12)]
        try:
            await asyncio.to_thread(silent.recv, 512)
            upstream.url = upstream.url.replace("127.0.0.1", "localhost")
            engine = upstream.load()
            assert (await run(engine, chat("one two"))).text == "one two "
            assert isinstance(engine, Closes)
            await engine.close()
            assert not any(one.done() for one in lost)
        finally:
            for one in lost:
                one.cancel()
            await asyncio.gather(*lost, return_exceptions=True)
            await server.aclose()


async def test_a_name_that_no_name_server_knows_the_system_may_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `box.local` of the local network."""
    asked: list[str] = []

    async def unknown(_: object, host: str, **more: object) -> None:
        asked.append(host)
        raise aiodns.error.DNSError(aiodns.error.ARES_ENOTFOUND, "Domain name not found")

    monkeypatch.setattr(aiodns.DNSResolver, "getaddrinfo", unknown)
    names = Names()
    assert {one["host"] for one in await names.resolve("localhost", 80)} == {"127.0.0.1"}
    assert asked == ["localhost"]
    await names.close()


async def test_a_chat_streams_word_by_word_and_names_the_servers_model(upstream: Upstream) -> None:
    engine, heard = upstream.load(), Heard()
    found = await run(
        engine, chat("one two three", sampling=Sampling(temperature=0.5)), heard, wants_events=True
    )
    assert isinstance(found, TextOutput)
    assert (found.text, found.finish_reason) == ("one two three ", "stop")
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (3, 3)
    assert heard.texts == ["one ", "two ", "three "]
    [body] = upstream.stub.bodies
    assert (body["model"], body["temperature"], body["stream"]) == ("big", 0.5, True)
    assert "top_k" not in body, "what nobody asked for is not sent: hosted APIs refuse what they do not know"


async def test_an_answer_that_nobody_watches_is_asked_for_as_a_whole(upstream: Upstream) -> None:
    found = await run(upstream.load(), chat("one two three", max_tokens=2))
    assert found.text == "one two "
    assert "stream" not in upstream.stub.bodies[0]


async def test_names_bodies_and_headers_of_the_server(upstream: Upstream) -> None:
    engine = upstream.load(names={"max_tokens": "max_completion_tokens"}, body={"store": False})
    await run(engine, chat("one two", max_tokens=9))
    [body] = upstream.stub.bodies
    assert (body["max_completion_tokens"], body["store"]) == (9, False)
    assert "max_tokens" not in body


@pytest.mark.parametrize(
    ("effort", "template", "rest"),
    [
        ("low", {"reasoning_effort": "low"}, None),
        ("none", {"enable_thinking": False, "style": 1}, {"style": 1}),
        ("low", {"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
    ],
    ids=["alone", "with more for a template", "a template is told otherwise"],
)
async def test_an_effort_is_told_as_openais_api_has_it(
    upstream: Upstream, effort: str, template: dict[str, Any], rest: dict[str, Any] | None
) -> None:
    await run(upstream.load(), chat("one", effort=effort, template=template))
    await run(upstream.load(continues="vllm"), chat("one", effort=effort, template=template))
    hosted, vllm = upstream.stub.bodies
    assert (hosted["reasoning_effort"], hosted.get("chat_template_kwargs")) == (effort, rest)
    assert (vllm.get("reasoning_effort"), vllm["chat_template_kwargs"]) == (None, template)


async def test_a_field_that_a_server_refuses_is_left_out(upstream: Upstream) -> None:
    await run(upstream.load(names={"seed": ""}), chat("one"))
    assert "seed" not in upstream.stub.bodies[0] and "" not in upstream.stub.bodies[0]


async def test_a_key_is_read_from_the_workers_environment(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.stub.needs_key = True
    with pytest.raises(EngineError, match="refuses the key") as refused:
        upstream.load()
    assert refused.value.kind == "load_failed"
    with pytest.raises(EngineError, match=r"MY_KEY .* is not set"):
        upstream.load(api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", KEY)
    engine = upstream.load(api_key_env="MY_KEY")
    assert (await run(engine, chat("one"))).text == "one "
    assert (await run(upstream.load(api_key_env="OTHER", env={"OTHER": KEY}), chat("one"))).text == "one "


async def test_a_key_that_was_good_and_is_revoked_is_the_operators_affair(upstream: Upstream) -> None:
    engine = upstream.load()
    upstream.stub.needs_key = True
    with pytest.raises(EngineError, match="refuses the key of this worker") as refused:
        await run(engine, chat("one"))
    assert refused.value.kind == "resource", "not the client's key: 503, not 401"
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_busy_server_is_asked_again_as_it_says(upstream: Upstream, *, is_streamed: bool) -> None:
    engine = upstream.load()
    upstream.stub.refusals = [(429, {"retry-after": "1"}), (503, {"retry-after": "0"})]
    began = time.monotonic()
    found = await run(engine, chat("one two"), wants_events=is_streamed)
    assert (found.text, len(upstream.stub.bodies)) == ("one two ", 3)
    assert time.monotonic() - began >= 1.0


async def test_what_stays_busy_is_for_another_worker(upstream: Upstream) -> None:
    engine = upstream.load(retries=1)
    upstream.stub.refusals = [(429, {"retry-after": "0"})] * 2
    with pytest.raises(EngineError, match="not now") as refused:
        await run(engine, chat("one"))
    assert (refused.value.kind, len(upstream.stub.bodies)) == ("retryable", 2)


async def test_what_the_server_finds_wrong_is_the_clients_own_and_not_sent_again(upstream: Upstream) -> None:
    engine = upstream.load()
    upstream.stub.refusals = [(422, {})]
    with pytest.raises(EngineError, match="not now") as refused:
        await run(engine, chat("one"))
    assert (refused.value.kind, len(upstream.stub.bodies)) == ("validation", 1)


async def test_a_stream_that_breaks_is_not_made_anew_where_it_cannot_go_on(upstream: Upstream) -> None:
    engine, heard = upstream.load(), Heard()
    upstream.stub.breaks_after = 2
    with pytest.raises(EngineError, match="cannot go on with it") as refused:
        await run(engine, chat("one two three"), heard, wants_events=True)
    assert (refused.value.kind, heard.texts, len(upstream.stub.bodies)) == ("fatal", ["one ", "two "], 1)
    with pytest.raises(EngineError, match="cannot go on with it"):
        await run(engine, chat("one two three"), sent_text="one ", sent_tokens=1, wants_events=True)


async def test_a_stream_that_breaks_before_its_first_word_is_asked_for_again(upstream: Upstream) -> None:
    engine, heard = upstream.load(), Heard()
    upstream.stub.breaks_after = 0
    with pytest.raises(EngineError) as refused:
        await run(engine, chat("one two"), heard, wants_events=True)
    assert (refused.value.kind, len(upstream.stub.bodies)) == ("retryable", 3)


async def test_a_server_that_can_go_on_is_told_what_was_sent(upstream: Upstream) -> None:
    engine = upstream.load(continues="vllm")
    await run(engine, chat("one two"), sent_text="one ", sent_tokens=1, wants_events=True)
    [body] = upstream.stub.bodies
    assert body["messages"][-1] == {"role": "assistant", "content": "one "}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


async def test_a_cancel_breaks_the_request_off(upstream: Upstream) -> None:
    heard = Heard(Cancellation())
    with pytest.raises(Stopped):
        await run(upstream.load(), chat("word " * 500), heard, wants_events=True)
    await eventually(lambda: upstream.stub.broken_off == 1)


async def test_embeddings_and_what_such_a_server_has_not(upstream: Upstream) -> None:
    engine = upstream.load()
    found = await run(engine, EmbeddingInput(("ab", "abc")))
    assert (found.vectors, found.prompt_tokens) == (((2.0, 1.0), (3.0, 1.0)), 5)
    with pytest.raises(EngineError, match="text, embeddings and ranks only"):
        await run(engine, TokensInput("x"))


def test_a_server_that_is_not_there_is_said() -> None:
    with pytest.raises(EngineError, match="nothing answers at http:") as refused:
        create("openai").load(ModelFiles("m", Path("http://127.0.0.1:9/v1"), {}))
    assert refused.value.kind == "load_failed"


def open_sessions() -> list[aiohttp.ClientSession]:
    return [one for one in gc.get_objects() if type(one) is aiohttp.ClientSession and not one.closed]


async def test_a_runner_that_ends_ends_its_connections(upstream: Upstream) -> None:
    """aiohttp says what was left open when it is collected; an operator would read that at each stop."""
    gc.collect()
    before = len(open_sessions())
    said: list[Any] = []
    runner = InProcessRunner(said.append)
    async with TaskOwner("test") as tasks:
        tasks.start(runner.serve)
        load = Load("m", "openai", str(resolve(f"{upstream.url}/v1", lambda _: None)), {"model": "big"})
        runner.send(load)
        await eventually(lambda: any(isinstance(one, Loaded) for one in said))
        runner.send(Run("a", "m", chat("one two"), 0))
        await eventually(lambda: any(isinstance(one, TextDone) for one in said))
        assert len(open_sessions()) == before + 1
        tasks.cancel()
    assert len(open_sessions()) == before
