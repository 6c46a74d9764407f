"""Webhooks: signed, repeated until taken, never posted to a private address unless that is allowed."""

import hashlib
import hmac
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import SYNTHETIC, System, wait_for

SECRET = "whsec-test"


class Receiver(ThreadingHTTPServer):
    """Refuses the first post, keeps all."""

    def __init__(self) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.posts.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(500 if len(receiver.posts) == 1 else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_a_webhook_is_signed_and_repeated_until_it_is_taken(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "STOKER_WEBHOOK_SECRET", SECRET)
    monkeypatch.setitem(os.environ, "STOKER_WEBHOOK_PRIVATE", "true")
    system = System(tmp_path, SYNTHETIC)
    try:
        system.wait_ready()
        body = {"model": "echo", "input": {"prompt": "x", "max_tokens": 2}, "webhook": receiver.url}
        job = system.post("/v1/jobs", body).json()["id"]
        wait_for(lambda: len(receiver.posts) >= 2, 20, "a second post")
    finally:
        system.stop()
    headers, content = receiver.posts[1]
    timestamp, _, digest = headers["stoker-signature"].removeprefix("t=").partition(",v1=")
    expected = hmac.new(SECRET.encode(), f"{timestamp}.".encode() + content, hashlib.sha256).hexdigest()
    assert digest == expected
    told = json.loads(content)
    assert (told["id"], told["status"], told["result"]["text"]) == (job, "completed", "t0 t1 ")


def test_a_private_address_is_never_posted_to(receiver: Receiver, synthetic: System) -> None:
    body = {"model": "echo", "input": {"prompt": "x"}, "webhook": receiver.url}
    answer = synthetic.post("/v1/jobs", body)
    assert (answer.status_code, answer.json()["field"]) == (400, "webhook"), "it is said at once"
    by_name = receiver.url.replace("127.0.0.1", "localhost").replace(f":{receiver.server_port}", ":8080")
    synthetic.ended(synthetic.post("/v1/jobs", body | {"webhook": by_name}).json()["id"])
    wait_for(lambda: "webhook.refused" in synthetic.log.read_text(), 20, "the refusal in the log")
    assert receiver.posts == []


@pytest.mark.parametrize("url", ["ftp://example.org/x", "not a url", "http://", "http://" + "x" * 3000])
def test_what_is_no_url_is_refused_at_once(synthetic: System, url: str) -> None:
    answer = synthetic.post("/v1/jobs", {"model": "echo", "input": {"prompt": "x"}, "webhook": url})
    assert (answer.status_code, answer.json()["field"]) == (400, "webhook")
