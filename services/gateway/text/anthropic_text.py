"""Anthropic's Messages: a request as a chat, and its answer whole and as events. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from stoker.schemas import wire
from stoker.schemas.anthropic import (
    AnthropicAnswer,
    AnthropicMessage,
    AnthropicUsage,
    AnyBlock,
    CountTokensRequest,
    ImageBlock,
    MessagesRequest,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from stoker.schemas.job_events import Delta, TextOutput
from stoker.schemas.jobs import Job
from stoker.schemas.openai import ChatCompletionRequest, ChatMessage, ImagePart, ImageUrl, TextPart, Usage
from stoker.services.gateway.edge.problems import RequestError, anthropic_error
from stoker.services.gateway.edge.sse import sse
from stoker.services.gateway.text.writing import CallsGiven

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
"""Finish reasons of OpenAI's and Anthropic's."""


def chat_of(asked: MessagesRequest) -> ChatCompletionRequest:
    """Raises RequestError 400."""
    template = {}
    if asked.thinking is not None:
        template["enable_thinking"] = asked.thinking.type != "disabled"
    return ChatCompletionRequest(
        model=asked.model,
        messages=messages_of(asked),
        max_tokens=asked.max_tokens,
        stop=asked.stop_sequences or None,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        tools=tools_of(asked),
        tool_choice=_choice(asked),
        parallel_tool_calls=_is_parallel(asked),
        chat_template_kwargs=template,
        stream=asked.stream,
    )


def messages_of(asked: MessagesRequest | CountTokensRequest) -> tuple[ChatMessage, ...]:
    """The system's message and the others, in OpenAI's form. Raises RequestError 400."""
    found: list[ChatMessage] = []
    if isinstance(asked.system, str):
        found.append(ChatMessage("system", asked.system))
    elif asked.system:
        found.append(ChatMessage("system", "\n\n".join(one.text for one in asked.system)))
    for index, message in enumerate(asked.messages):
        found += _messages(message, f"messages[{index}].content")
    if not asked.messages:
        raise RequestError(400, "there must be at least one message", field="messages", code="invalid_value")
    return tuple(found)


def _messages(message: AnthropicMessage, field: str) -> list[ChatMessage]:
    if isinstance(message.content, str):
        return [ChatMessage(message.role, message.content)]
    said: list[TextPart | ImagePart] = []
    calls: list[dict[str, Any]] = []
    results: list[ChatMessage] = []
    for index, block in enumerate(message.content):
        match block:
            case TextBlock(text=text):
                said.append(TextPart(text))
            case ImageBlock():
                said.append(_picture(block))
            case ToolUseBlock(id=call, name=name, input=arguments):
                function = {"name": name, "arguments": msgspec.json.encode(arguments).decode()}
                calls.append({"id": call, "type": "function", "function": function})
            case ToolResultBlock(tool_use_id=call, content=result):
                results.append(ChatMessage("tool", _result(result, f"{field}[{index}]"), tool_call_id=call))
            case ThinkingBlock() | RedactedThinkingBlock():
                continue  # what was thought before is not given to a template again
    content: Any = tuple(said)
    if all(isinstance(part, TextPart) for part in said):
        content = "".join(part.text for part in said if isinstance(part, TextPart))
    found = list(results)
    if said or calls or not results:
        found.append(ChatMessage(message.role, content or None, tool_calls=tuple(calls) or None))
    return found


def _picture(block: ImageBlock) -> ImagePart:
    source = block.source
    url = source.url if source.type == "url" else f"data:{source.media_type};base64,{source.data}"
    return ImagePart(ImageUrl(url))


def _result(content: str | Sequence[AnyBlock], field: str) -> str:
    if isinstance(content, str):
        return content
    if not all(isinstance(part, TextBlock) for part in content):
        raise RequestError(400, "results of tools are texts", field=field, code="invalid_value")
    return "\n".join(part.text for part in content if isinstance(part, TextBlock))


def tools_of(asked: MessagesRequest | CountTokensRequest) -> tuple[dict[str, Any], ...]:
    """In OpenAI's form. Raises RequestError 400."""
    found: list[dict[str, Any]] = []
    for index, tool in enumerate(asked.tools):
        if tool.type not in (None, "custom") or tool.input_schema is None:
            message = f"{tool.name} is a tool of Anthropic's servers: give an input_schema, and run it yourself"
            raise RequestError(400, message, field=f"tools[{index}]", code="invalid_value")
        function = {"name": tool.name, "parameters": tool.input_schema}
        if tool.description is not None:
            function["description"] = tool.description
        found.append({"type": "function", "function": function})
    return tuple(found)


def _choice(asked: MessagesRequest) -> str | dict[str, Any] | None:
    choice = asked.tool_choice
    if choice is None or not asked.tools:
        return None
    if choice.type == "tool":
        return {"type": "function", "function": {"name": choice.name}}
    return {"auto": "auto", "any": "required", "none": "none"}[choice.type]


def _is_parallel(asked: MessagesRequest) -> bool | None:
    choice = asked.tool_choice
    if choice is None or choice.disable_parallel_tool_use is None or not asked.tools:
        return None
    return not choice.disable_parallel_tool_use


def _usage(usage: Usage) -> AnthropicUsage:
    details = usage.prompt_tokens_details
    cached = 0 if isinstance(details, msgspec.UnsetType) else details.cached_tokens
    return AnthropicUsage(usage.prompt_tokens - cached, usage.completion_tokens, cached)


def answer_of(job: Job, asked: MessagesRequest, output: TextOutput) -> AnthropicAnswer:
    content: list[dict[str, Any]] = []
    if output.reasoning:
        content.append({"type": "thinking", "thinking": output.reasoning, "signature": ""})
    if output.text or not output.tool_calls:
        content.append({"type": "text", "text": output.text})
    for call in output.tool_calls:
        content.append(_tool_use(call["id"], call["function"]["name"], call["function"]["arguments"]))
    return AnthropicAnswer(
        id=f"msg_{job.id}",
        model=asked.model,
        content=tuple(content),
        stop_reason=STOP_REASONS.get(output.finish_reason, "end_turn"),
        usage=_usage(output.usage),
    )


def _tool_use(call: str, name: str, arguments: str) -> dict[str, Any]:
    try:
        given = msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:  # cut off by max_tokens
        given = {}
    return {"type": "tool_use", "id": call, "name": name, "input": given if isinstance(given, dict) else {}}


class MessageWriter:
    """A message as events: its blocks one after another."""

    def __init__(self, job: Job, asked: MessagesRequest) -> None:
        self._id = f"msg_{job.id}"
        self._model = asked.model
        self._block = -1
        self._kind = ""
        self._calls = CallsGiven()

    def _event(self, kind: str, **fields: Any) -> bytes:
        return sse(wire.encode({"type": kind, **fields}), kind)

    def opening(self, index: int) -> bytes:
        message = AnthropicAnswer(self._id, self._model, (), None, AnthropicUsage(0, 0))
        return self._event("message_start", message=message)

    def _open(self, kind: str, block: dict[str, Any]) -> bytes:
        written = self._close()
        self._block += 1
        self._kind = kind
        return written + self._event(
            "content_block_start", index=self._block, content_block={"type": kind, **block}
        )

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        written = b""
        if self._kind == "thinking":
            written = self._more("signature_delta", signature="")
        self._kind = ""
        return written + self._event("content_block_stop", index=self._block)

    def _more(self, kind: str, **fields: Any) -> bytes:
        return self._event("content_block_delta", index=self._block, delta={"type": kind, **fields})

    def delta(self, index: int, delta: Delta) -> bytes:
        reasoning, text = delta.text[: delta.reasoning], delta.text[delta.reasoning :]
        written = b""
        if reasoning:
            if self._kind != "thinking":
                written += self._open("thinking", {"thinking": "", "signature": ""})
            written += self._more("thinking_delta", thinking=reasoning)
        if text:
            if self._kind != "text":
                written += self._open("text", {"text": ""})
            written += self._more("text_delta", text=text)
        for part in delta.calls:
            if (fragment := self._calls.fragment(part)) is not None:
                written += self._called(fragment)
        return written

    def _called(self, fragment: dict[str, Any]) -> bytes:
        written, function = b"", fragment["function"]
        if "id" in fragment:
            written += self._open("tool_use", {"id": fragment["id"], "name": function["name"], "input": {}})
        if function["arguments"]:
            written += self._more("input_json_delta", partial_json=function["arguments"])
        return written

    def ending(self, index: int, output: TextOutput) -> bytes:
        written = b""
        for fragment in self._calls.rest(output.tool_calls):
            written += self._called(fragment)
        if not output.tool_calls and self._kind != "text":
            written += self._open("text", {"text": ""})
        return written + self._close()

    def closing(self, outputs: Sequence[TextOutput]) -> bytes:
        output = outputs[0]
        delta = {"stop_reason": STOP_REASONS.get(output.finish_reason, "end_turn"), "stop_sequence": None}
        return self._event("message_delta", delta=delta, usage=_usage(output.usage)) + self._event(
            "message_stop"
        )

    def error(self, error: RequestError) -> bytes:
        return sse(wire.encode(anthropic_error(error)), "error")

    def waiting(self, comment: bytes) -> bytes:
        return comment
