"""Ollama's chat and generate: a request as a chat or a text, its answer whole and as lines of JSON. Pure."""

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from stoker.schemas import wire
from stoker.schemas.job_events import Completed, Delta, TextOutput, Timings, TokenChance
from stoker.schemas.jobs import Job
from stoker.schemas.ollama import (
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaLine,
    OllamaMessage,
    Think,
)
from stoker.schemas.openai import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    ImagePart,
    ImageUrl,
    TextPart,
)
from stoker.services.gateway.edge.problems import RequestError, ollama_error
from stoker.services.gateway.jobs.request_rules import converted
from stoker.services.gateway.text.writing import chat_logprobs

NDJSON = "application/x-ndjson"
NANOSECONDS = 10**9
OPTIONS = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "seed": "seed",
    "presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty",
    "repeat_penalty": "repeat_penalty", "num_predict": "max_tokens", "stop": "stop",
}  # fmt: skip
"""Ollama's options and OpenAI's fields. Others are of how a model is loaded, which the catalog says here."""
NAMES = {ours: f"options.{theirs}" for theirs, ours in OPTIONS.items()} | {"response_format": "format"}
"""OpenAI's fields, and what they are called here."""
NO_LIMIT = (-1, -2)
_ZERO = re.compile(r"[+-]?0+(\.0*)?([a-zµ]{1,2}(0+(\.0*)?[a-zµ]{1,2})*)?")

Asked = OllamaChatRequest | OllamaGenerateRequest


def moment(at: float) -> str:
    """Seconds since 1970 as Ollama writes them."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def model_name(name: str) -> str:
    """The name without the tag that Ollama's clients add."""
    return name.removesuffix(":latest")


def is_zero(keep_alive: str | float | None) -> bool:
    """Whether a `keep_alive` is no time at all: seconds, or a duration as Go writes it ("0", "0m")."""
    return bool(_ZERO.fullmatch(keep_alive)) if isinstance(keep_alive, str) else keep_alive == 0


def unread_options(asked: Asked) -> tuple[str, ...]:
    """Options that nobody reads."""
    return tuple(f"options.{name}" for name in asked.options if name not in OPTIONS)


def _common(asked: Asked) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model_name(asked.model), "stream": asked.stream}
    for theirs, ours in OPTIONS.items():
        if (value := asked.options.get(theirs)) is not None:
            body[ours] = value
    if body.get("max_tokens") in NO_LIMIT:
        body["max_tokens"] = -1
    return body


def _chat(asked: Asked, messages: Sequence[ChatMessage], tools: Sequence[Any] = ()) -> ChatCompletionRequest:
    body = _common(asked) | {"messages": (), "tools": tools}
    if asked.format == "json":
        body["response_format"] = {"type": "json_object"}
    elif isinstance(asked.format, dict):
        schema = {"name": "answer", "schema": asked.format}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif asked.format:
        message = 'format is "json" or a JSON schema'
        raise RequestError(400, message, field="format", code="invalid_value")
    if asked.think is not None:
        body["chat_template_kwargs"] = _template(asked.think)
    if asked.logprobs:
        body |= {"logprobs": True, "top_logprobs": asked.top_logprobs or 0}
    return msgspec.structs.replace(converted(body, ChatCompletionRequest, ""), messages=tuple(messages))


def _template(think: Think) -> dict[str, Any]:
    return {"enable_thinking": think} if isinstance(think, bool) else {"reasoning_effort": think}


def chat_of(asked: OllamaChatRequest) -> ChatCompletionRequest:
    """Raises RequestError 400."""
    return _chat(asked, _messages(asked.messages), asked.tools)


def generation_of(asked: OllamaGenerateRequest) -> ChatCompletionRequest | CompletionRequest:
    """A text where the prompt is raw or has a suffix, else a chat of one message. Raises RequestError 400."""
    for field in ("template", "context"):
        if getattr(asked, field):
            message = f"{field} is not supported: send the conversation to /api/chat"
            raise RequestError(400, message, field=field, code="unsupported_value")
    for field in ("system", "images"):
        if (asked.raw or asked.suffix) and getattr(asked, field):
            message = f"{field} is not supported with {'raw' if asked.raw else 'suffix'}"
            raise RequestError(400, message, field=field, code="unsupported_value")
    if asked.raw or asked.suffix:
        body = _common(asked) | {"prompt": asked.prompt, "suffix": asked.suffix}
        if asked.logprobs:
            body["logprobs"] = asked.top_logprobs or 0
        return converted(
            {name: value for name, value in body.items() if value is not None}, CompletionRequest, ""
        )
    said = OllamaMessage("user", asked.prompt, images=asked.images)
    system = (OllamaMessage("system", asked.system),) if asked.system else ()
    return _chat(asked, _messages((*system, said)))


def _data_url(picture: str) -> str:
    """base64, which some send in lines, or as a data: URL already."""
    plain = "".join(picture.split())
    return plain if plain.startswith("data:") else f"data:image/png;base64,{plain}"


def _messages(given: Sequence[OllamaMessage]) -> list[ChatMessage]:
    """In OpenAI's form: calls are named, and results name the call before them."""
    found: list[ChatMessage] = []
    open_calls: list[tuple[str, str]] = []
    for message in given:
        content: str | tuple[TextPart | ImagePart, ...] = message.content
        if message.images:
            pictures = [ImagePart(ImageUrl(_data_url(one))) for one in message.images]
            content = (TextPart(message.content), *pictures)
        calls: list[dict[str, Any]] = []
        for call in message.tool_calls or ():
            function = call.get("function") or {}
            name = str(function.get("name", ""))
            named = f"call{len(found):03d}{len(calls):02d}"
            arguments = msgspec.json.encode(function.get("arguments") or {}).decode()
            calls.append({"id": named, "type": "function", "function": {"name": name, "arguments": arguments}})
            open_calls.append((named, name))
        answered = None
        if message.role == "tool" and open_calls:
            place = next((index for index, (_, name) in enumerate(open_calls) if name == message.tool_name), 0)
            answered = open_calls.pop(place)[0]
        found.append(ChatMessage(message.role, content, tool_calls=tuple(calls) or None, tool_call_id=answered))
    return found


def calls_of(output: TextOutput) -> list[dict[str, Any]]:
    """The calls of an answer, their arguments as objects."""
    found: list[dict[str, Any]] = []
    for index, call in enumerate(output.tool_calls):
        function = call["function"]
        try:
            arguments = msgspec.json.decode(function["arguments"] or "{}")
        except msgspec.DecodeError:  # cut off by num_predict
            arguments = {}
        found.append({"function": {"index": index, "name": function["name"], "arguments": arguments}})
    return found


def _reason(output: TextOutput) -> str:
    return "length" if output.finish_reason == "length" else "stop"


def _told(chances: Sequence[TokenChance]) -> tuple[dict[str, Any], ...]:
    return tuple(chat_logprobs(chances)["content"])


class Lines:
    """What is written of one answer. is_chat: as messages, else as /api/generate does."""

    def __init__(self, job: Job, model: str, *, is_chat: bool) -> None:
        self._job = job
        self._model = model
        self._is_chat = is_chat

    def line(
        self,
        text: str,
        thinking: str = "",
        calls: Sequence[dict[str, Any]] = (),
        chances: Sequence[TokenChance] = (),
        **more: Any,
    ) -> OllamaLine:
        """What was made since the last line; the whole where there was none."""
        fields: dict[str, Any] = {"done": False, "logprobs": _told(chances)} | more
        if self._is_chat:
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if thinking:
                message["thinking"] = thinking
            if calls:
                message["tool_calls"] = calls
            fields["message"] = message
        else:
            fields |= {"response": text, "thinking": thinking or None}
        return OllamaLine(self._model, moment(time.time()), **fields)

    def counts(self, output: TextOutput, timings: Timings | None) -> dict[str, Any]:
        """The figures of the last line. timings: where they are known."""
        elapsed_s = time.time() - self._job.created_at
        load_s = timings.load_s if timings is not None else 0.0
        run_s = timings.run_s if timings is not None else elapsed_s
        return {
            "done": True,
            "done_reason": _reason(output),
            "total_duration": int(elapsed_s * NANOSECONDS),
            "load_duration": int(load_s * NANOSECONDS),
            "prompt_eval_count": output.usage.prompt_tokens,
            "prompt_eval_duration": 0,
            "eval_count": output.usage.completion_tokens,
            "eval_duration": int(run_s * NANOSECONDS),
        }

    def whole(self, completed: Completed, output: TextOutput) -> OllamaLine:
        """The answer in one."""
        figures = self.counts(output, completed.timings)
        return self.line(output.text, output.reasoning, calls_of(output), output.logprobs, **figures)


class LineWriter(Lines):
    """An answer as lines of JSON. Calls come whole, as Ollama's clients expect them."""

    @staticmethod
    def _written(line: object) -> bytes:
        return wire.encode(line) + b"\n"

    def opening(self, index: int) -> bytes:
        return b""

    def delta(self, index: int, delta: Delta) -> bytes:
        if not delta.text:
            return b""
        thinking, text = delta.text[: delta.reasoning], delta.text[delta.reasoning :]
        return self._written(self.line(text, thinking, (), delta.logprobs))

    def ending(self, index: int, output: TextOutput) -> bytes:
        calls = calls_of(output)
        return self._written(self.line("", "", calls)) if calls else b""

    def closing(self, outputs: Sequence[TextOutput]) -> bytes:
        return self._written(self.line("", **self.counts(outputs[0], None)))

    def error(self, error: RequestError) -> bytes:
        return self._written(ollama_error(error))

    def waiting(self, comment: bytes) -> bytes:
        """Lines are all that this form has: an empty part of the answer."""
        return self._written(self.line(""))
