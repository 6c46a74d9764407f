"""What engines that speak OpenAI's dialect share: bodies of requests, and fragments put together again."""

from typing import Any

import msgspec

from schemas.job_events import TextOutput
from schemas.jobs import ChatInput, CompletionInput
from schemas.openai import Usage
from services.worker.engines.base import Emitter, Request

Answer = dict[str, Any]


def left_tokens(max_tokens: int, request: Request) -> int:
    """How many tokens a run may still make; at least one, as engines know no less (see `Generation`)."""
    return max(max_tokens - request.sent_tokens, 1)


def _common(asked: ChatInput | CompletionInput, request: Request) -> Answer:
    body: Answer = {"stream": True, "stream_options": {"include_usage": True}, "seed": request.seed}
    if asked.max_tokens is not None:
        body["max_tokens"] = left_tokens(asked.max_tokens, request)
    if asked.stop:
        body["stop"] = list(asked.stop)
    body.update(msgspec.to_builtins(asked.sampling))
    return body


def chat_body(asked: ChatInput, request: Request) -> Answer:
    """A body of /v1/chat/completions; what was sent already is given back as the assistant's beginning."""
    messages: list[Answer] = [msgspec.to_builtins(message) for message in asked.messages]
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


class Generation:
    """One text as it is made, from what was sent already on: the same as if one run had made all of it."""

    def __init__(self, request: Request, emit: Emitter) -> None:
        asked = request.input
        most = asked.max_tokens if isinstance(asked, ChatInput | CompletionInput) else None
        self._request = request
        self._emit = emit
        self._pieces = [request.sent_text]
        self._is_full = most is not None and request.sent_tokens >= most
        self._made = 0
        self._usage = Usage(0, 0, 0)
        self._finish_reason = "stop"

    def add(self, text: str, tokens: int = 1) -> None:
        """More text. tokens: how many it stands for."""
        if text and not self._is_full:
            self._pieces.append(text)
            self._emit.text(text, tokens)
            self._made += tokens

    def add_up_to(self, text: str, made: int) -> None:
        """More text. made: tokens that this run has made by its end, as the engine counts them."""
        self.add(text, max(made - self._made, 1))

    def finish(self, reason: str | None) -> None:
        self._finish_reason = reason or self._finish_reason

    def count(self, prompt: int, made: int) -> None:
        """What the engine has counted: what was sent already was a part of its prompt."""
        sent = self._request.sent_tokens
        prompt, made = max(prompt - sent, 0), (0 if self._is_full else made) + sent
        self._usage = Usage(prompt, made, prompt + made)

    def output(self, calls: tuple[Answer, ...] = ()) -> TextOutput:
        reason = "length" if self._is_full else self._finish_reason
        return TextOutput("".join(self._pieces), reason, self._usage, calls)


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
