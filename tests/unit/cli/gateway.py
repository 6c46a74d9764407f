"""A server that answers as a gateway did: JSON by path, and what it was asked. Commands and clients are told by it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

Answer = tuple[int, Any]


class Answering(ThreadingHTTPServer):
    """answers: by "METHOD /path"; bytes as they are, else JSON. Everything else is a 404 problem."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = f"{self.command} {self.path}"
                owner.asked.append((asked, dict(self.headers), msgspec.json.decode(body) if body else None))
                missing = (404, {"detail": f"nothing at {self.path}", "type": "urn:stoker:not_found"})
                status, content = owner.answers.get(asked.partition("?")[0], missing)
                sent = content if isinstance(content, bytes) else msgspec.json.encode(content)
                self.send_response(status)
                if isinstance(content, bytes):
                    self.send_header("Content-Type", "text/event-stream")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            do_POST = do_GET

            def log_message(self, *_: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def answering(answers: dict[str, Answer]) -> Iterator[Answering]:
    server = Answering(answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def events(*pairs: tuple[str, Any]) -> bytes:
    """A stream of server-sent events."""
    return b"".join(
        f"id: {number}\nevent: {name}\ndata: {msgspec.json.encode(content).decode()}\n\n".encode()
        for number, (name, content) in enumerate(pairs)
    )
