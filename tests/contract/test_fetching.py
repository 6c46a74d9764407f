"""What requests name by a URL, from a real server that does what servers do."""

import asyncio
import base64
import gzip
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from stoker.schemas.jobs import ChatInput, Job
from stoker.schemas.keys import ApiKey
from stoker.schemas.openai import ChatMessage, ImagePart, ImageUrl
from stoker.services.gateway import fetching
from stoker.services.gateway.edge.access import current_key
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.fetching import ANY, AT_ONCE, AT_ONCE_EACH, MAX_PICTURE_BYTES, PUBLIC, Fetching
from stoker.services.gateway.jobs.remote_files import with_pictures
from stoker.services.gateway.jobs.url_rules import UrlRules
from tests.waiting import eventually

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
MOST = 1000
MB = 1024 * 1024


class Server:
    """Answers by path, one request a connection. asked: the paths, in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.heads: list[str] = []
        self.go_on = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head.lower())
        path = head.split()[1]
        self.asked.append(path)
        for part in await self.answer(path):
            writer.write(part)
        await writer.drain()
        writer.close()

    async def answer(self, path: str) -> list[bytes]:
        match path:
            case "/picture.png":
                return [head("200 OK", "Content-Type: image/png", f"Content-Length: {len(PNG)}"), PNG]
            case "/page.html":
                return [head("200 OK", "Content-Type: text/html; charset=utf-8"), b"<p>hello</p>"]
            case "/odd-type":
                return [head("200 OK", 'Content-Type: image/png"><script>'), PNG]
            case "/long":
                return [head("200 OK", "Content-Type: image/png"), b"x" * (MOST + 1)]
            case "/said-long":
                return [head("200 OK", "Content-Type: image/png", f"Content-Length: {MOST + 1}"), b"x"]
            case "/cut":
                return [head("200 OK", "Content-Type: image/png", "Content-Length: 100"), b"x"]
            case "/packed":
                return [head("200 OK", "Content-Type: image/png", "Content-Encoding: gzip"), gzip.compress(PNG)]
            case "/silent":
                await self.go_on.wait()
                return []
            case "/garbage":
                return [b"this is no HTTP\r\n\r\n"]
            case path if path.startswith("/mb/"):
                return [head("200 OK", "Content-Type: image/png"), bytes(int(path.removeprefix("/mb/")) * MB)]
            case path if path.startswith("/hop/"):
                left = int(path.removeprefix("/hop/"))
                return [head("302 Found", f"Location: {left - 1 if left else '/picture.png'}")]
            case "/to-file":
                return [head("302 Found", "Location: file:///etc/passwd")]
            case "/to-metadata":
                return [head("302 Found", "Location: http://169.254.169.254/latest/meta-data")]
            case "/nowhere":
                return [head("302 Found")]
        return [head("404 Not Found", "Content-Type: text/plain"), b"no"]


def head(status: str, *lines: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *lines, "", ""]).encode()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = Server()
    listening = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with listening:
        yield found
        found.go_on.set()


@pytest.fixture
async def local() -> AsyncIterator[Fetching]:
    """Fetches from this machine too."""
    async with _running(ANY) as found:
        yield found


class _running(AsyncExitStack):
    def __init__(self, rules: UrlRules | None) -> None:
        super().__init__()
        self._fetching = Fetching(rules)

    async def __aenter__(self) -> Any:
        await self.enter_async_context(self._fetching.running())
        return self._fetching


async def refused(found: Fetching, url: str, most: int = MOST) -> RequestError:
    with pytest.raises(RequestError) as error:
        await found.picture(url, "messages[0].content", most)
    assert error.value.field == "messages[0].content"
    return error.value


async def test_a_picture_becomes_a_data_url(server: Server, local: Fetching) -> None:
    got = await local.picture(server.url + "/picture.png", "f", MOST)
    assert got == "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert f"host: {server.url.removeprefix('http://')}\r\n" in server.heads[0]
    assert "accept-encoding: identity" in server.heads[0] and "authorization" not in server.heads[0]


async def test_three_redirects_are_followed_and_no_fourth(server: Server, local: Fetching) -> None:
    assert (await local.picture(server.url + "/hop/2", "f", MOST)).startswith("data:image/png")
    assert server.asked == ["/hop/2", "/hop/1", "/hop/0", "/picture.png"]
    error = await refused(local, server.url + "/hop/3")
    assert (error.status, error.code) == (400, "url_not_fetched")
    assert server.asked[4:] == ["/hop/3", "/hop/2", "/hop/1", "/hop/0"]


@pytest.mark.parametrize(
    ("path", "status", "why"),
    [
        ("/missing", 400, "answered 404"),
        ("/page.html", 400, "it is text/html, not a picture"),
        ("/odd-type", 400, "not a picture"),
        ("/long", 413, "more than 1000 bytes"),
        ("/said-long", 413, "more than 1000 bytes"),
        ("/cut", 400, "could not be fetched"),
        ("/packed", 400, "it comes as gzip"),
        ("/garbage", 400, "could not be fetched"),
        ("/to-file", 400, "it must be an http or https URL"),
        ("/nowhere", 400, "leads on more than"),
    ],
)
async def test_what_is_wrong_is_said(server: Server, local: Fetching, path: str, status: int, why: str) -> None:
    error = await refused(local, server.url + path)
    assert error.status == status and why in error.message, error.message
    assert server.url in error.message or "file:" in error.message
    got = await local.picture(server.url + "/picture.png", "f", MOST)
    assert got.startswith("data:image/png"), "the next one is fetched"


@pytest.mark.parametrize(
    "url", ["http://user:pw@example.org/a.png", "http://", "http://0x7f.1/", "http://[::1/", "https://a b/"]
)
async def test_what_is_no_good_url_is_not_asked_for(local: Fetching, url: str) -> None:
    assert (await refused(local, url)).status == 400


async def test_a_name_of_this_machine_is_not_public(server: Server) -> None:
    async with _running(PUBLIC) as public:
        port = int(server.url.rpartition(":")[2])
        error = await refused(public, server.url + "/picture.png")
        assert "not a public address" in error.message and "--input-urls any" in error.message
        error = await refused(public, f"http://localhost:{port}/picture.png")
        assert f"port {port} is not allowed" in error.message
    async with _running(UrlRules(ports=frozenset())) as public:
        error = await refused(public, f"http://localhost:{port}/picture.png")
        assert "which is not a public address" in error.message
    assert server.asked == []


async def test_a_redirect_is_checked_like_the_url(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this server's address is taken for a public one."""
    monkeypatch.setattr(
        "stoker.services.gateway.public_network.is_public", lambda address: address.startswith("127.")
    )
    monkeypatch.setattr(
        "stoker.services.gateway.jobs.url_rules.is_public", lambda address: address.startswith("127.")
    )
    async with _running(UrlRules(ports=frozenset())) as public:
        assert (await public.picture(server.url + "/picture.png", "f", MOST)).startswith("data:")
        error = await refused(public, server.url + "/to-metadata")
        assert "169.254.169.254 is not a public address" in error.message


async def test_where_nothing_is_fetched_that_is_said(server: Server) -> None:
    async with _running(None) as nothing:
        assert "--input-urls none" in (await refused(nothing, server.url + "/picture.png")).message
    assert server.asked == []


async def test_a_server_that_says_nothing_is_given_up(
    server: Server, local: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PICTURE_TIMEOUT_S", 0.1)
    assert "took longer than 0.1 s" in (await refused(local, server.url + "/silent")).message


async def test_one_key_does_not_take_all_turns(server: Server, local: Fetching) -> None:
    key = ApiKey(id="k1", name="one", sha256="d", created_at=0.0)

    async def fetch() -> str:
        current_key.set(key)
        return await local.picture(server.url + "/silent", "f", MOST)

    async with asyncio.TaskGroup() as tasks:
        silent = [tasks.create_task(_swallowed(fetch())) for _ in range(AT_ONCE_EACH)]
        await eventually(lambda: len(server.asked) == AT_ONCE_EACH)
        with pytest.raises(RequestError) as error:
            await asyncio.create_task(fetch())
        assert (error.value.status, error.value.code) == (429, "too_many_fetches")
        assert (await local.picture(server.url + "/picture.png", "f", MOST)).startswith("data:")
        server.go_on.set()
    assert all(isinstance(one.result(), RequestError) for one in silent)
    assert not local.turns.senders


async def test_the_next_waits_for_a_turn_and_is_told_when_there_is_none(
    server: Server, local: Fetching
) -> None:
    local.turns.wait_s = 0.1
    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(_swallowed(local.picture(server.url + "/silent", "f", MOST)))
        await eventually(lambda: len(server.asked) == AT_ONCE)
        error = await refused(local, server.url + "/picture.png")
        assert (error.status, error.retry_after_s) == (503, 1)
        server.go_on.set()
    assert (await local.picture(server.url + "/picture.png", "f", MOST)).startswith("data:")


async def test_who_is_cancelled_gives_its_turn_back(server: Server, local: Fetching) -> None:
    for _ in range(AT_ONCE + 1):
        task = asyncio.create_task(local.picture(server.url + "/silent", "f", MOST))
        await eventually(lambda: server.asked)
        server.asked.clear()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (await local.picture(server.url + "/picture.png", "f", MOST)).startswith("data:")
    assert not local.turns.senders


async def _swallowed(waiting: Any) -> Any:
    try:
        return await waiting
    except RequestError as error:
        return error


# The pictures of a chat ---------------------------------------------------------------------------


def chat_with(*urls: str) -> Job:
    parts = tuple(ImagePart(ImageUrl(url)) for url in urls)
    asked = ChatInput(messages=(ChatMessage("user", "hi"), ChatMessage("user", parts)))
    return Job("j", "m", asked, "gw", 0.0)


async def test_the_pictures_of_a_request_are_counted_in_bytes(server: Server, local: Fetching) -> None:
    """12 MB and 8 MB are within 20 MB, also as base64, which is a third longer."""
    first, second = f"{server.url}/mb/12", f"{server.url}/mb/8"
    job = await with_pictures(local, chat_with(first, second, first))
    assert isinstance(job.input, ChatInput) and isinstance(job.input.messages[1].content, tuple)
    sizes = [
        len(base64.b64decode(part.image_url.url.partition(",")[2]))
        for part in job.input.messages[1].content
        if isinstance(part, ImagePart)
    ]
    assert sizes == [12 * MB, 8 * MB, 12 * MB]
    assert server.asked == ["/mb/12", "/mb/8"], "each once"


@pytest.mark.parametrize("sizes", [(12, 9), (20, 1), (20, 0, 1)])
async def test_pictures_that_are_too_large_together_are_said_so(
    server: Server, local: Fetching, sizes: tuple[int, ...]
) -> None:
    with pytest.raises(RequestError) as error:
        await with_pictures(local, chat_with(*(f"{server.url}/mb/{size}" for size in sizes)))
    assert (error.value.status, error.value.field) == (413, "messages[1].content")
    assert f"have at most {MAX_PICTURE_BYTES} bytes together" in error.value.message
