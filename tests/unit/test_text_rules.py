"""What a chat request may say of tools and formats: refused with its field before it costs anything."""

from typing import Any

import pytest

from stoker.schemas.jobs import ChatInput, CompletionInput
from stoker.schemas.openai import ChatMessage, ImagePart, ImageUrl, TextPart
from stoker.schemas.workers import CapabilityCard
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.text_rules import check_card, check_format, check_pictures, check_tools
from stoker.services.process.json_schemas import MOST_DEPTH

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def with_parameters(parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "g", "parameters": parameters}}


NAMED = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("tools", "choice"),
    [([], None), ([], "auto"), ([], "none"), ([TOOL], "required"), ([TOOL], NAMED), ([TOOL], None)],
)
def test_what_can_be_kept_is_let_through(tools: list[dict[str, Any]], choice: Any) -> None:
    check_tools(tools, choice)


@pytest.mark.parametrize(
    ("tools", "choice", "field"),
    [
        ([{"type": "function"}], None, "tools[0]"),
        ([TOOL, {"type": "function", "function": {"name": ""}}], None, "tools[1]"),
        ([{"type": "search"}], None, "tools[0]"),
        ([], "required", "tool_choice"),
        ([], NAMED, "tool_choice"),
        ([TOOL], {"type": "function", "function": {"name": "nope"}}, "tool_choice"),
        ([TOOL], "sometimes", "tool_choice"),
        ([TOOL], {"type": "function"}, "tool_choice"),
        ([with_parameters({"type": "objekt"})], None, "tools[0]"),
        ([TOOL, with_parameters({"pattern": "^(?!a)b"})], "required", "tools[1]"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_field(
    tools: list[dict[str, Any]], choice: Any, field: str
) -> None:
    with pytest.raises(RequestError) as refused:
        check_tools(tools, choice)
    assert (refused.value.status, refused.value.field) == (400, field)


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"schema": {"type": "object", "properties": properties}}}


def test_formats_that_engines_keep() -> None:
    check_format(None)
    for kind in ("text", "json_object"):
        check_format({"type": kind})
    check_format(schema(a={"type": "string", "pattern": "^(?:a|b)+$"}))


@pytest.mark.parametrize(
    "asked",
    [
        {"type": "xml"},
        {},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"schema": "object"}},
        *(
            schema(a={"type": "string", "pattern": pattern})
            for pattern in ("^(?!a)b", "(?=a)", "(?<!a)b", "(?<=a)")
        ),
        schema(a={"anyOf": [{"type": "array", "items": {"pattern": "(?!a)"}}]}),
    ],
)
def test_a_format_that_nothing_enforces_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as refused:
        check_format(asked)
    assert (refused.value.status, refused.value.field) == (400, "response_format")


def test_a_schema_that_is_nested_without_end_is_refused() -> None:
    inner: dict[str, Any] = {}
    for _ in range(MOST_DEPTH + 2):
        inner = {"not": inner}
    with pytest.raises(RequestError, match="deeper"):
        check_format({"type": "json_schema", "json_schema": {"schema": inner}})


# Pictures, and what a loaded model certainly cannot do ------------------------------------------------


def picture(url: str) -> ChatMessage:
    return ChatMessage("user", (TextPart("what is it?"), ImagePart(ImageUrl(url))))


@pytest.mark.parametrize(
    "url", ["ftp://x/y.png", "file:///etc/passwd", "x.png", "//x/y.png", " https://x/y.png"]
)
def test_a_picture_is_named_by_a_url_that_can_be_fetched(url: str) -> None:
    with pytest.raises(RequestError) as refused:
        check_pictures([ChatMessage("user", "hi"), picture(url)])
    assert (refused.value.status, refused.value.field) == (400, "messages[1].content")


@pytest.mark.parametrize("url", ["data:image/png;base64,AA", "https://x/y.png", "HTTP://x/y.png"])
def test_a_picture_that_comes_along_or_lies_elsewhere_is_let_through(url: str) -> None:
    """Whether it may be fetched is the fetcher's to say (tests/contract/test_fetching.py)."""
    check_pictures([picture(url), ChatMessage("user", "hi"), ChatMessage("user")])


def test_a_model_that_sees_nothing_is_not_asked_to() -> None:
    asked = ChatInput((picture("data:image/png;base64,AA"),))
    with pytest.raises(RequestError, match="no projector"):
        check_card(asked, CapabilityCard(abilities=("system",)))
    check_card(asked, CapabilityCard(abilities=("system", "pictures")))
    check_card(asked, CapabilityCard())  # nobody knows yet


@pytest.mark.parametrize(
    ("asked", "field"),
    [(ChatInput((ChatMessage("user", "x" * 12801),)), "messages"), (CompletionInput("x" * 12801), "prompt")],
)
def test_a_prompt_that_cannot_fit_does_not_wait(asked: ChatInput | CompletionInput, field: str) -> None:
    with pytest.raises(RequestError) as refused:
        check_card(asked, CapabilityCard(context_tokens=100))
    assert (refused.value.code, refused.value.field) == ("context_length_exceeded", field)
    check_card(asked, CapabilityCard(context_tokens=101))
    check_card(asked, CapabilityCard())
