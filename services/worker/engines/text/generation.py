"""What engines that speak OpenAI's dialect share: bodies of requests, and fragments put together again."""

from typing import Any, cast

import msgspec

from schemas.jobs import ChatInput, CompletionInput
from services.worker.engines.base import Request

Answer = dict[str, Any]


def _common(asked: ChatInput | CompletionInput, request: Request) -> Answer:
    body: Answer = {"stream": True, "stream_options": {"include_usage": True}, "seed": request.seed}
    if asked.max_tokens is not None:
        body["max_tokens"] = asked.max_tokens
    if asked.stop:
        body["stop"] = list(asked.stop)
    body |= cast(Answer, msgspec.to_builtins(asked.sampling))
    return body


def chat_body(asked: ChatInput, request: Request) -> Answer:
    """A body of /v1/chat/completions; what was sent already is given back as the assistant's beginning."""
    messages = cast(list[Answer], msgspec.to_builtins(asked.messages))
    if request.sent_text:
        messages.append({"role": "assistant", "content": request.sent_text})
    body = _common(asked, request) | {"messages": messages}
    if asked.response_format is not None:
        body["response_format"] = asked.response_format
    if asked.tools:
        body["tools"] = list(asked.tools)
    if asked.tool_choice is not None:
        body["tool_choice"] = asked.tool_choice
    return body


def completion_body(asked: CompletionInput, request: Request) -> Answer:
    """A body of /v1/completions, going on after what was sent already."""
    return _common(asked, request) | {"prompt": asked.prompt + request.sent_text}


class ToolCalls:
    """Puts streamed fragments of tool calls together; they are delivered whole, at the end."""

    def __init__(self) -> None:
        self._calls: dict[int, Answer] = {}

    def add(self, fragments: list[Answer]) -> None:
        for fragment in fragments:
            call = self._calls.setdefault(
                fragment.get("index", 0),
                {"id": "", "type": "function", "function": {"name": "", "arguments": ""}},
            )
            call["id"] = fragment.get("id") or call["id"]
            function = fragment.get("function", {})
            call["function"]["name"] += function.get("name") or ""
            call["function"]["arguments"] += function.get("arguments") or ""

    def whole(self) -> tuple[Answer, ...]:
        return tuple(self._calls[index] for index in sorted(self._calls))
