"""Pictures and files that requests name by URLs, from a server on this machine to engines and functions."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from stoker import CallFailed, Client
from tests.conftest import ROOT, System
from tests.fixtures.openai_server import OpenAIStub
from tests.fixtures.remote_files import FETCHED, serving_pictures
from tests.fixtures.serving import serving

CONFIG = """\
models:
  seeing: {{engine: OpenAI, url: "{upstream}/v1", options: {{model: big}}}}
workers:
- {{count: 1, engines: [openai, function]}}
"""


def png(edge: int) -> bytes:
    kept = io.BytesIO()
    Image.effect_noise((edge, edge), 100).save(kept, "PNG")
    return kept.getvalue()


PICTURE, LARGE = png(64), png(1500)
"""The other does not fit a message of NATS."""


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    with serving_pictures({"a.png": PICTURE, "large.png": LARGE}) as url:
        yield url


@pytest.fixture(scope="module")
def stub() -> OpenAIStub:
    return OpenAIStub()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, stub: OpenAIStub) -> Iterator[System]:
    with serving(stub.app()) as upstream:
        folder = tmp_path_factory.mktemp("remote")
        config = CONFIG.format(upstream=upstream)
        functions = str(ROOT / "examples" / "functions")
        found = System(folder, config, "--functions", functions, environment=FETCHED)
        try:
            found.wait_ready()
            yield found
        finally:
            found.stop()


def data_url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def chat(*urls: str) -> dict[str, Any]:
    pictures = [{"type": "image_url", "image_url": {"url": url, "detail": "low"}} for url in urls]
    content = [{"type": "text", "text": "what is this ?"}, *pictures]
    return {"model": "seeing", "messages": [{"role": "user", "content": content}]}


def seen(stub: OpenAIStub) -> list[str]:
    return [part["image_url"]["url"] for part in stub.bodies[-1]["messages"][-1]["content"][1:]]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_chat_sees_the_pictures_at_its_urls(
    system: System, stub: OpenAIStub, files: str, is_streamed: bool
) -> None:
    client = openai.OpenAI(base_url=system.url + "/v1", api_key="x", max_retries=0)
    asked = chat(files + "/a.png", files + "/large.png", data_url(PICTURE), files + "/a.png")
    answer: Any = client.chat.completions.create(**asked, stream=is_streamed)
    said = (
        "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
        if is_streamed
        else answer.choices[0].message.content
    )
    assert said == "what is this ? "
    assert seen(stub) == [data_url(PICTURE), data_url(LARGE), data_url(PICTURE), data_url(PICTURE)]
    assert stub.bodies[-1]["messages"][-1]["content"][1]["image_url"]["detail"] == "low"


def test_so_do_responses_messages_and_jobs(system: System, stub: OpenAIStub, files: str) -> None:
    url = files + "/a.png"
    parts = [{"type": "input_text", "text": "hi"}, {"type": "input_image", "image_url": url}]
    answer = system.post("/v1/responses", {"model": "seeing", "input": [{"role": "user", "content": parts}]})
    assert answer.json()["status"] == "completed", answer.text
    assert seen(stub) == [data_url(PICTURE)]
    parts = [{"type": "text", "text": "hi"}, {"type": "image", "source": {"type": "url", "url": url}}]
    asked = {"model": "seeing", "max_tokens": 5, "messages": [{"role": "user", "content": parts}]}
    assert system.post("/v1/messages", asked).status_code == 200
    assert seen(stub) == [data_url(PICTURE)]
    job = system.post("/v1/jobs", {"model": "seeing", "input": {"messages": chat(url)["messages"]}}).json()
    assert system.ended(job["id"])["status"] == "completed"
    assert seen(stub) == [data_url(PICTURE)]


def test_a_picture_that_cannot_be_had_is_the_requests_fault(
    system: System, stub: OpenAIStub, tmp_path: Path
) -> None:
    before = len(stub.bodies)
    answer = system.post("/v1/chat/completions", chat("http://127.0.0.1:9/a.png"))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (
        400,
        "url_not_fetched",
        "messages[0].content",
    )
    assert (
        "http://127.0.0.1:9/a.png could not be fetched" in error["message"] and "data: URL" in error["message"]
    )
    answer = system.post("/v1/chat/completions", chat("ftp://example.org/a.png"))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages[0].content")
    assert len(stub.bodies) == before


def test_a_function_reads_the_file_at_a_url(system: System, files: str) -> None:
    with Client(system.url) as client:
        shrunk = client.run("shrink", picture=files + "/large.png", edge=20)
        assert (shrunk["width"], shrunk["height"]) == (20, 20)
        assert client.run("shrink", picture={"url": files + "/a.png"}, edge=20)["width"] == 20
        with pytest.raises(CallFailed) as refused:
            client.run("shrink", picture="http://127.0.0.1:9/a.png", edge=20)
    assert "picture: http://127.0.0.1:9/a.png could not be fetched" in str(refused.value)


def test_unless_it_is_allowed_no_private_address_is_asked(synthetic: System, files: str) -> None:
    """The default: public hosts alone."""
    answer = synthetic.post("/v1/chat/completions", chat(files + "/a.png") | {"model": "echo"})
    assert answer.status_code == 400, answer.text
    assert "not a public address; `--input-urls any` allows it" in answer.json()["error"]["message"]
    assert httpx.get(synthetic.url + "/health/ready").status_code == 200
