"""Anthropic's Messages API, as far as Stoker serves it. Field names follow its API reference."""

from typing import Any, Literal

import msgspec


class AnthropicError(msgspec.Struct, frozen=True):
    type: str
    message: str


class AnthropicErrorAnswer(msgspec.Struct, frozen=True):
    error: AnthropicError
    type: Literal["error"] = "error"


class Block(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True):
    """A part of a message."""


class TextBlock(Block, frozen=True, tag="text"):
    text: str


class ImageSource(msgspec.Struct, frozen=True, omit_defaults=True):
    """data: base64, of `base64`; url: of `url`."""

    type: Literal["base64", "url"]
    media_type: str = ""
    data: str = ""
    url: str = ""


class ImageBlock(Block, frozen=True, tag="image"):
    source: ImageSource


class ThinkingBlock(Block, frozen=True, tag="thinking"):
    """signature: nothing is signed here; clients send it back."""

    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Block, frozen=True, tag="redacted_thinking"):
    data: str = ""


class ToolUseBlock(Block, frozen=True, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(Block, frozen=True, tag="tool_result"):
    tool_use_id: str
    content: str | tuple[TextBlock | ImageBlock, ...] = ""
    is_error: bool | None = None


AnyBlock = TextBlock | ImageBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock


class AnthropicMessage(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant", "system"]
    content: str | tuple[AnyBlock, ...]


class AnthropicTool(msgspec.Struct, frozen=True, omit_defaults=True):
    """type: "custom" or nothing; tools that Anthropic's servers run are none of ours."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None


class AnthropicToolChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, frozen=True, omit_defaults=True):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class _Prompt(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    messages: tuple[AnthropicMessage, ...]
    system: str | tuple[TextBlock, ...] | None = None
    tools: tuple[AnthropicTool, ...] = ()
    tool_choice: AnthropicToolChoice | None = None
    thinking: Thinking | None = None


class CountTokensRequest(_Prompt, frozen=True, kw_only=True):
    """Body of POST /v1/messages/count_tokens."""


class MessagesRequest(_Prompt, frozen=True, kw_only=True):
    max_tokens: int
    metadata: dict[str, Any] | None = None
    stop_sequences: tuple[str, ...] = ()
    stream: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None


class TokensCounted(msgspec.Struct, frozen=True):
    input_tokens: int


class AnthropicUsage(msgspec.Struct, frozen=True):
    """cache_read_input_tokens: of the prompt, those that were not worked out again; input_tokens has the
    others.
    """

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0


class AnthropicAnswer(msgspec.Struct, frozen=True):
    id: str
    model: str
    content: tuple[dict[str, Any], ...]
    stop_reason: str | None
    usage: AnthropicUsage
    stop_sequence: str | None = None
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
