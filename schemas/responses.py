"""OpenAI's Responses API, as far as Stoker serves it. Field names and defaults follow its API reference."""

from typing import Any, Literal

import msgspec

from stoker.schemas.openai import ChatMessage

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class Reasoning(msgspec.Struct, frozen=True, omit_defaults=True):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: str | None = None
    generate_summary: str | None = None


class TextForm(msgspec.Struct, frozen=True, omit_defaults=True):
    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ResponsesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`seed` and `chat_template_kwargs` go beyond OpenAI's own."""

    model: str
    input: str | tuple[dict[str, Any], ...]
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    text: TextForm = TextForm()
    reasoning: Reasoning | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    store: bool = True
    background: bool = False
    stream: bool = False
    include: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    truncation: Literal["auto", "disabled"] = "disabled"
    user: str | None = None
    seed: int | None = None
    chat_template_kwargs: dict[str, Any] = {}


class CachedTokens(msgspec.Struct, frozen=True):
    """cache_write_tokens: 0; nobody pays for them here."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class ReasoningTokens(msgspec.Struct, frozen=True):
    """reasoning_tokens: 0; engines do not count them apart."""

    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: CachedTokens = CachedTokens()
    output_tokens_details: ReasoningTokens = ReasoningTokens()


class ResponseAnswer(msgspec.Struct, frozen=True):
    """A response as it is now: what was asked, and its output items so far."""

    id: str
    created_at: int
    model: str
    status: ResponseStatus
    output: tuple[dict[str, Any], ...] = ()
    usage: ResponseUsage | None = None
    error: dict[str, Any] | None = None
    incomplete_details: dict[str, str] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    text: TextForm = TextForm()
    reasoning: Reasoning | None = None
    previous_response_id: str | None = None
    store: bool = True
    background: bool = False
    metadata: dict[str, str] = {}
    truncation: str = "disabled"
    user: str | None = None
    object: str = "response"


class KeptResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of a request beside its job's result: enough to show it and to go on from it.

    messages: the conversation up to the answer, or `blob` where that is large.
    """

    asked: ResponsesRequest
    tenant: str = ""
    messages: tuple[ChatMessage, ...] = ()
    blob: str = ""


class InputItems(msgspec.Struct, frozen=True):
    data: tuple[dict[str, Any], ...]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False
    object: str = "list"


class ResponseDeleted(msgspec.Struct, frozen=True):
    id: str
    deleted: bool = True
    object: str = "response"
