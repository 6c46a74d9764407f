"""What engines that speak OpenAI's dialect share: bodies of requests, and fragments put together again."""

from typing import Any

import msgspec

from schemas.job_events import TextOutput
from schemas.jobs import ChatInput, CompletionInput
from schemas.openai import PromptTokens, Usage
from services.worker.engines.base import Emitter, Request
from services.worker.engines.text.forced_calls import ForcedCalls

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


def chat_body(asked: ChatInput, request: Request, *, knows_tools: bool = True) -> Answer:
    """A body of /v1/chat/completions; what was sent already is given back as the assistant's beginning.

    knows_tools: whether the model's template tells it of tools.
    """
    messages: list[Answer] = [with_arguments(msgspec.to_builtins(message)) for message in asked.messages]
    if request.sent_text:
        messages.append({"role": "assistant", "content": request.sent_text})
    body = _common(asked, request) | {"messages": messages}
    if asked.response_format is not None:
        body["response_format"] = asked.response_format
    if asked.tools:
        body["tools"] = list(asked.tools)
    if (forced := ForcedCalls.of(asked)) is not None:
        body |= {"response_format": forced.response_format(), "tool_choice": "none"}
        if not knows_tools:
            body["messages"] = forced.told(messages, asked)
    elif asked.tool_choice is not None:
        body["tool_choice"] = asked.tool_choice
    if asked.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = asked.parallel_tool_calls
    if asked.template:
        body["chat_template_kwargs"] = asked.template
    return body


def with_arguments(message: Answer) -> Answer:
    """A message of the history as chat templates read it: the arguments of a call are an object, "" is none."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    mended = []
    for call in calls:
        function = call.get("function") or {}
        mended.append(call | {"function": function | {"arguments": function.get("arguments") or "{}"}})
    return message | {"tool_calls": mended}


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
        self._reasoning: list[str] = []
        self._forced = ForcedCalls.of(asked) if isinstance(asked, ChatInput) else None
        self._is_full = most is not None and request.sent_tokens >= most
        self._made = 0
        self._usage = Usage(0, 0, 0)
        self._finish_reason = "stop"

    def add(self, text: str, tokens: int = 1, *, is_reasoning: bool = False) -> None:
        """More text. tokens: how many it stands for. is_reasoning: of what comes before the answer; once that
        has begun all is answer.
        """
        if not text or self._is_full:
            return
        is_reasoning = is_reasoning and not any(self._pieces)
        (self._reasoning if is_reasoning else self._pieces).append(text)
        if self._forced is None or is_reasoning:
            self._emit.text(text, tokens, is_reasoning=is_reasoning)
        self._made += tokens

    def add_up_to(self, text: str, made: int, *, is_reasoning: bool = False) -> None:
        """More text. made: tokens that this run has made by its end, as the engine counts them."""
        self.add(text, max(made - self._made, 1), is_reasoning=is_reasoning)

    def add_delta(self, choice: Answer, made: int) -> None:
        """More of a chat's message or of a text, as a chunk of OpenAI's dialect has it. made: as above."""
        delta = choice.get("delta") or {}
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning:
            self.add_up_to(reasoning, made, is_reasoning=True)
        text = choice.get("text") if "text" in choice else delta.get("content")
        if text:
            self.add_up_to(text, made)
        self.finish(choice.get("finish_reason"))

    def finish(self, reason: str | None) -> None:
        self._finish_reason = reason or self._finish_reason

    def count(self, prompt: int, made: int, cached: int | None = None) -> None:
        """What the engine has counted: what was sent already was a part of its prompt. cached: tokens of the
        prompt that were not worked out again.
        """
        sent = self._request.sent_tokens
        prompt, made = max(prompt - sent, 0), (0 if self._is_full else made) + sent
        details = PromptTokens(min(cached, prompt)) if cached is not None else msgspec.UNSET
        self._usage = Usage(prompt, made, prompt + made, details)

    def output(self, calls: tuple[Answer, ...] = ()) -> TextOutput:
        """The whole of it. Raises EngineError where the request demands a call and none was made."""
        reason = "length" if self._is_full else self._finish_reason
        text, reasoning = "".join(self._pieces), "".join(self._reasoning)
        if self._forced is not None:
            if calls:  # the engine has made them in its own way
                self._forced.check(calls)
            else:
                calls = self._forced.calls(text, self._request.job, reason)
            text, reason = "", "tool_calls"
        return TextOutput(text, reason, self._usage, calls, reasoning)


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
