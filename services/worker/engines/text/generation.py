"""What engines that speak OpenAI's dialect share: bodies of requests, and fragments put together again."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from stoker.schemas.job_events import Alternative, CallPart, TextOutput, TokenChance
from stoker.schemas.jobs import ChatInput, CompletionInput
from stoker.schemas.openai import ChatMessage, PromptTokens, Usage
from stoker.services.worker.engines.base import Emitter, EngineError, Request
from stoker.services.worker.engines.text.forced_calls import ForcedCalls, call_id

Answer = dict[str, Any]

MOST_CHARS, MOST_CALL_CHARS = 8_000_000, 1_000_000
"""Of an answer, and of its calls of tools: a server that does not stop must not fill the memory."""


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
    if asked.logprobs is not None:  # llama.cpp tells nothing where no alternative is asked for
        most = max(asked.logprobs, 1)
        body |= {"logprobs": True, "top_logprobs": most} if isinstance(asked, ChatInput) else {"logprobs": most}
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


def chat_prompt(
    messages: Sequence[ChatMessage], tools: Sequence[Answer], template: Mapping[str, Any]
) -> Answer:
    """What a prompt is made of, in OpenAI's dialect."""
    body: Answer = {"messages": [with_arguments(msgspec.to_builtins(message)) for message in messages]}
    if tools:
        body["tools"] = list(tools)
    if template:
        body["chat_template_kwargs"] = dict(template)
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
    """A body of /v1/completions, going on after what was sent already. Raises EngineError."""
    if asked.suffix:
        raise EngineError("this engine writes no text before a suffix", "validation", field="suffix")
    prompt = list(asked.tokens) if asked.tokens else asked.prompt + request.sent_text
    return _common(asked, request) | {"prompt": prompt}


class Generation:
    """One text as it is made, from what was sent already on: the same as if one run had made all of it."""

    def __init__(self, request: Request, emit: Emitter) -> None:
        asked = request.input
        most = asked.max_tokens if isinstance(asked, ChatInput | CompletionInput) else None
        self._alternatives = (asked.logprobs if isinstance(asked, ChatInput | CompletionInput) else None) or 0
        self._request = request
        self._emit = emit
        self._pieces = [request.sent_text]
        self._reasoning: list[str] = []
        self._chars = len(request.sent_text)
        self._logprobs: list[TokenChance] = []
        self._pending: list[Answer] = []
        self._calls = ToolCalls(request.job)
        self._is_full = most is not None and request.sent_tokens >= most
        self._made = 0
        self._usage = Usage(0, 0, 0)
        self._finish_reason = "stop"
        self.is_finished = False
        """Whether the engine has said why the text ends."""

    def add(
        self, text: str, tokens: int = 1, *, is_reasoning: bool = False, logprobs: Sequence[Answer] = ()
    ) -> None:
        """More text. tokens: how many it stands for. is_reasoning: of what comes before the answer; once that
        has begun all is answer. logprobs: of its tokens, as OpenAI's chats have them. Raises EngineError past
        MOST_CHARS.
        """
        if not text or self._is_full:
            return
        told = tuple(_chance(one, self._chars, self._alternatives) for one in logprobs)
        self._logprobs += told
        self._chars += len(text)
        if self._chars > MOST_CHARS:
            raise EngineError(f"the answer has over {MOST_CHARS:,} characters: say a lower max_tokens")
        is_reasoning = is_reasoning and not any(self._pieces)
        (self._reasoning if is_reasoning else self._pieces).append(text)
        self._emit.text(text, tokens, is_reasoning=is_reasoning, logprobs=told)
        self._made += tokens

    def _add_up_to(self, text: str, made: int, logprobs: Sequence[Answer], *, is_reasoning: bool) -> None:
        """More text. made: tokens that this run has made by its end, as the engine counts them."""
        self.add(text, max(made - self._made, 1), is_reasoning=is_reasoning, logprobs=logprobs)

    def add_calls(self, fragments: list[Answer], made: int) -> None:
        """More of the calls of tools, as chunks of OpenAI's dialect have them."""
        parts = self._calls.add(fragments)
        if parts and not self._is_full:
            self._emit.calls(parts, max(made - self._made, 0))
            self._made = max(made, self._made)

    def add_delta(self, choice: Answer, made: int) -> None:
        """More of a chat's message or of a text, as a chunk of OpenAI's dialect has it. made: as above."""
        delta = choice.get("delta") or {}
        logprobs = [*self._pending, *_told(choice)]
        self._pending = []
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning:
            self._add_up_to(reasoning, made, logprobs, is_reasoning=True)
            logprobs = []
        text = choice.get("text") if "text" in choice else delta.get("content")
        if text:
            self._add_up_to(text, made, logprobs, is_reasoning=False)
            logprobs = []
        self._pending = logprobs  # of a token that is a part of a character only
        if fragments := delta.get("tool_calls"):
            self.add_calls(fragments, made)
        self.finish(choice.get("finish_reason"))

    def finish(self, reason: str | None) -> None:
        self.is_finished = self.is_finished or bool(reason)
        self._finish_reason = reason or self._finish_reason

    def count(self, prompt: int, made: int, cached: int | None = None) -> None:
        """What the engine has counted: what was sent already was a part of its prompt. cached: tokens of the
        prompt that were not worked out again.
        """
        sent = self._request.sent_tokens
        prompt, made = max(prompt - sent, 0), (0 if self._is_full else made) + sent
        details = PromptTokens(min(cached, prompt)) if cached is not None else msgspec.UNSET
        self._usage = Usage(prompt, made, prompt + made, details)

    def output(self) -> TextOutput:
        """The whole of it."""
        self._logprobs += [_chance(one, self._chars, self._alternatives) for one in self._pending]
        calls = self._calls.whole()
        reason = "length" if self._is_full else self._finish_reason
        text, reasoning = "".join(self._pieces), "".join(self._reasoning)
        return TextOutput(text, reason, self._usage, calls, reasoning, tuple(self._logprobs))


def _chance(given: Answer, at: int, alternatives: int) -> TokenChance:
    """One token of OpenAI's `logprobs.content`, with so many alternatives."""
    likeliest = sorted(given.get("top_logprobs") or (), key=lambda one: -one["logprob"])[:alternatives]
    top = tuple(_alternative(one) for one in likeliest)
    chosen = _alternative(given)
    return TokenChance(chosen.token, chosen.logprob, chosen.bytes, top, at)


def _alternative(given: Answer) -> Alternative:
    text = given["token"]
    return Alternative(text, given["logprob"], tuple(given.get("bytes") or text.encode()))


def _told(choice: Answer) -> list[Answer]:
    """The chances in a chunk, as OpenAI's chats have them: also from a completion's."""
    found = choice.get("logprobs") or {}
    if (content := found.get("content")) is not None:
        return list(content)
    tokens, tops = found.get("tokens") or (), found.get("top_logprobs") or ()
    return [
        {
            "token": token,
            "logprob": found["token_logprobs"][index] or 0.0,
            "top_logprobs": [
                {"token": other, "logprob": chance}
                for other, chance in ((tops[index] if index < len(tops) else None) or {}).items()
            ],
        }
        for index, token in enumerate(tokens)
    ]


class ToolCalls:
    """Puts streamed fragments of tool calls together. job: after which they are named."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._calls: dict[int, Answer] = {}
        self._chars = 0

    def add(self, fragments: list[Answer]) -> tuple[CallPart, ...]:
        """What they add to which calls. Raises EngineError past MOST_CALL_CHARS."""
        parts: list[CallPart] = []
        for fragment in fragments:
            index = fragment.get("index") or 0
            made = {"id": call_id(self._job, index), "type": "function"}
            call = self._calls.setdefault(index, made | {"function": {"name": "", "arguments": ""}})
            given, known = fragment.get("function") or {}, call["function"]
            known["name"] += given.get("name") or ""
            more = given.get("arguments") or ""
            self._chars += len(more)
            if self._chars > MOST_CALL_CHARS:
                raise EngineError(f"the calls of tools have over {MOST_CALL_CHARS:,} characters")
            parts.append(CallPart(index, call["id"], known["name"], more, len(known["arguments"])))
            known["arguments"] += more
        return tuple(parts)

    def whole(self) -> tuple[Answer, ...]:
        return tuple(self._calls[index] for index in sorted(self._calls))
