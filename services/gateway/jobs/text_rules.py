"""What a chat request may say of tools and of the form of its answer: what cannot be kept is refused before it
costs anything. Pure.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from stoker.schemas.jobs import ChatInput, CompletionInput
from stoker.schemas.openai import ChatMessage, ImagePart
from stoker.schemas.workers import CapabilityCard
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.process.json_schemas import BadSchema, JsonSchema

MOST_TOKEN_CHARS = 128
"""No vocabulary in use has a token of more characters: a longer prompt cannot fit."""
FORMATS = ("text", "json_object", "json_schema")
CHOICES = ("none", "auto", "required")
PICTURE_URL = re.compile(r"data:|https?://", re.IGNORECASE)
_LOOK_AROUND = re.compile(r"\(\?<?[=!]")


def check_tools(tools: Sequence[dict[str, Any]], choice: str | dict[str, Any] | None) -> None:
    """Raises RequestError 400."""
    names: list[str] = []
    for index, tool in enumerate(tools):
        function = tool.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if tool.get("type", "function") != "function" or not isinstance(name, str) or not name:
            raise _wrong("a tool is {type: function, function: {name: …}}", f"tools[{index}]")
        assert isinstance(function, dict)
        _check_schema(function.get("parameters"), f"tools[{index}]")
        if choice not in (None, "auto", "none"):
            _check_patterns(function.get("parameters"), f"tools[{index}]")
        names.append(name)
    if choice is None or choice in ("none", "auto"):
        return
    known = f"the tools are: {', '.join(names)}" if names else "there are no tools"
    if choice == "required":
        if not names:
            raise _wrong(f"tool_choice is 'required', and {known}", "tool_choice")
        return
    function = choice.get("function") if isinstance(choice, dict) else None
    wanted = function.get("name") if isinstance(function, dict) else None
    if wanted is None:
        raise _wrong(f"tool_choice must be one of {', '.join(CHOICES)}, or name a function", "tool_choice")
    if wanted not in names:
        raise _wrong(f"tool_choice names {wanted!r}; {known}", "tool_choice")


def check_pictures(messages: Sequence[ChatMessage]) -> None:
    """Pictures come with the request, or are fetched before its job is accepted. Raises RequestError 400."""
    for index, message in enumerate(messages):
        parts = message.content if isinstance(message.content, tuple) else ()
        for part in parts:
            if isinstance(part, ImagePart) and not PICTURE_URL.match(part.image_url.url):
                raise _wrong("send pictures as data: or https: URLs", f"messages[{index}].content")


def check_card(asked: ChatInput | CompletionInput, card: CapabilityCard) -> None:
    """What a loaded model certainly cannot do is refused before it waits. Raises RequestError 400."""
    messages = asked.messages if isinstance(asked, ChatInput) else ()
    has_pictures = any(
        isinstance(part, ImagePart)
        for message in messages
        for part in (message.content if isinstance(message.content, tuple) else ())
    )
    if has_pictures and card.abilities and "pictures" not in card.abilities:
        raise _wrong("this model sees no pictures: its weights have no projector", "messages")
    said = [asked.prompt] if isinstance(asked, CompletionInput) else [one.text() for one in messages]
    chars = sum(len(one) for one in said)
    if card.context_tokens and chars > card.context_tokens * MOST_TOKEN_CHARS:
        message = (
            f"the prompt has {chars} characters, at least {chars // MOST_TOKEN_CHARS} tokens, and the "
            f"context of this model holds {card.context_tokens}: shorten it, or raise the model's option n_ctx"
        )
        field = "messages" if messages else "prompt"
        raise RequestError(400, message, field=field, code="context_length_exceeded")


def check_format(asked: dict[str, Any] | None) -> None:
    """Raises RequestError 400."""
    if asked is None:
        return
    kind = asked.get("type")
    if kind not in FORMATS:
        raise _wrong(f"type must be one of {', '.join(FORMATS)}, not {kind!r}", "response_format")
    if kind != "json_schema":
        return
    given = asked.get("json_schema")
    schema = given.get("schema") if isinstance(given, dict) else None
    if not isinstance(schema, dict):
        raise _wrong("json_schema needs a schema: {name: …, schema: {…}}", "response_format")
    _check_schema(schema, "response_format")
    _check_patterns(schema, "response_format")


def _check_patterns(schema: Any, field: str) -> None:
    """Of a schema that an answer is constrained to. Raises RequestError 400."""
    for pattern in _patterns(schema):
        if _LOOK_AROUND.search(pattern):
            message = f"the pattern {pattern!r} looks ahead or behind, which a grammar cannot enforce"
            raise _wrong(message, field)


def _patterns(schema: Any) -> Iterator[str]:
    """Every `pattern` in a schema."""
    if isinstance(schema, dict):
        pattern = schema.get("pattern")
        if isinstance(pattern, str):
            yield pattern
        for inner in schema.values():
            yield from _patterns(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _patterns(inner)


def _check_schema(schema: Any, field: str) -> None:
    """Raises RequestError 400."""
    if schema is None:
        return
    try:
        JsonSchema(schema)
    except BadSchema as error:
        raise _wrong(f"this is no JSON schema: {error}", field) from error


def _wrong(message: str, field: str) -> RequestError:
    return RequestError(400, message, field=field, code="invalid_value")
