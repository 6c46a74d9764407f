"""The types of ASGI. Every scope is a request: uvicorn is told to speak neither WebSocket nor lifespan.

They are Litestar's, for who checks types alone: importing it takes a quarter of a second, which a gateway that
starts has better uses for. It is there once somebody asks for the OpenAPI document.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litestar.types import HTTPRequestEvent, HTTPScope, Message, Receive, Send
else:
    HTTPRequestEvent = HTTPScope = Message = Receive = Send = Any

ASGIApp = Callable[[HTTPScope, Receive, Send], Awaitable[None]]

__all__ = ["ASGIApp", "HTTPRequestEvent", "HTTPScope", "Message", "Receive", "Send"]
