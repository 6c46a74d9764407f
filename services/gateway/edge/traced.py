"""A span for every request that asks for work, from its first byte on; its jobs go on below it."""

import asyncio
import time

from stoker.services.gateway.edge.asgi import ASGIApp, HTTPScope, Message, Receive, Send
from stoker.services.gateway.edge.connections import RECEIVED
from stoker.services.process.tracing import HEADER, Recorder, Served, current_request, in_trace

WORKING_METHODS = ("POST", "PUT")
NAMED_SEGMENTS = 2
"""Of a path in a span's name: what follows may be an id."""


def _waited_s(scope: HTTPScope) -> float:
    """Since the request's first byte was read."""
    at = (scope.get("extensions") or {}).get(RECEIVED, {}).get("at")
    return asyncio.get_running_loop().time() - at if isinstance(at, float) else 0.0


def with_traces(app: ASGIApp, recorder: Recorder | None) -> ASGIApp:
    """The same application, recorded."""
    if recorder is None:
        return app

    async def traced(scope: HTTPScope, receive: Receive, send: Send) -> None:
        if scope["method"] not in WORKING_METHODS:
            await app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        parent = headers.get(HEADER.encode(), b"").decode("latin-1")
        method, path = scope["method"], scope["path"]
        name = "/".join(path.split("/")[: NAMED_SEGMENTS + 1])
        began_at = time.time() - _waited_s(scope)
        span, context = recorder.begin(f"{method} {name}", parent, began_at)
        span.set_attribute("http.request.method", method)
        span.set_attribute("url.path", path)
        has_begun = False

        async def send_and_tell(message: Message) -> None:
            nonlocal has_begun
            await send(message)
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
                if job := dict(message["headers"]).get(b"x-job-id"):
                    span.set_attribute("stoker.job", job.decode())
            elif not has_begun:
                has_begun = True
                span.add_event("first byte")

        request = Served(span, context, began_at)
        token = current_request.set(request)
        try:
            with in_trace(context):
                await app(scope, receive, send_and_tell)
        finally:
            current_request.reset(token)
            if request.told_at:
                recorder.record("answer", context, request.told_at, time.time(), "", {})
            span.end()

    return traced
