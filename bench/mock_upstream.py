"""A server of OpenAI's API that does as little as can be: what routers and Stoker are measured in front of.

    python -m bench.mock_upstream PORT [INTERVAL_S]

A chat that is not streamed is answered at once with a short text; a streamed one with `max_tokens` tokens, one
each INTERVAL_S.
"""

import asyncio
import json
import sys
from typing import cast

import uvloop

CHAT = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "t0 "}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()
MODELS = b'{"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "mock"}]}'
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
END = CHUNK + b'[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = CHUNK + b'[],"usage":{"prompt_tokens":1,"completion_tokens":%d,"total_tokens":%d}}\n\n'


def whole(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


ANSWERS = {b"GET /v1/models": whole(MODELS), b"POST /v1/chat/completions": whole(CHAT)}
OTHERWISE = whole(b"{}")


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def token(number: int) -> bytes:
    return chunk(CHUNK + b'[{"index":0,"delta":{"content":"t%d "},"finish_reason":null}]}\n\n' % number)


class Mock(asyncio.Protocol):
    """One connection, one request at a time. interval_s: between tokens."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, rest = self._buffer.partition(b"\r\n\r\n")
            size = 0
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    size = int(line[15:])
            if len(rest) < size:
                return
            self._buffer = rest[size:]
            self._answer(head, rest[:size])

    def _answer(self, head: bytes, body: bytes) -> None:
        if b'"stream":true' in body.replace(b" ", b""):
            self._transport.write(STREAM_HEAD)
            self._token(0, int(json.loads(body).get("max_tokens", 16)))
            return
        self._transport.write(ANSWERS.get(b" ".join(head.split(b" ", 2)[:2]), OTHERWISE))

    def _token(self, number: int, count: int) -> None:
        if number < count:
            self._transport.write(token(number))
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._interval_s, self._token, number + 1, count)
        else:
            usage = USAGE % (count, count + 1)
            self._transport.write(chunk(END) + chunk(usage) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def serve(port: int, interval_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Mock(interval_s), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.02))
