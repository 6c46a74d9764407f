"""A request of the Responses API as a chat. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from stoker.schemas.openai import ChatCompletionRequest, ChatMessage
from stoker.schemas.responses import ResponsesRequest
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.request_rules import converted

Item = dict[str, Any]
NAMES = {
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""Fields of a chat, and what they are called here."""
LOGPROBS = "message.output_text.logprobs"
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


def chat_of(asked: ResponsesRequest, before: Sequence[ChatMessage]) -> ChatCompletionRequest:
    """The chat that is asked for. before: the conversation that it goes on with. Raises RequestError 400."""
    _check(asked)
    given: Item = {
        "model": asked.model,
        "messages": (),
        "max_completion_tokens": asked.max_output_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "seed": asked.seed,
        "tools": [_tool(tool, index) for index, tool in enumerate(asked.tools)],
        "tool_choice": _choice(asked.tool_choice) if asked.tools else None,
        "parallel_tool_calls": asked.parallel_tool_calls if asked.tools else None,
        "response_format": _format(asked),
        "reasoning_effort": asked.reasoning.effort if asked.reasoning is not None else None,
        "chat_template_kwargs": asked.chat_template_kwargs,
    }
    if asked.top_logprobs is not None or LOGPROBS in asked.include:
        given |= {"logprobs": True, "top_logprobs": asked.top_logprobs or 0}
    chat = converted(
        {name: value for name, value in given.items() if value is not None}, ChatCompletionRequest, ""
    )
    instructions = (ChatMessage("system", asked.instructions),) if asked.instructions else ()
    return msgspec.structs.replace(chat, messages=(*instructions, *conversation(asked, before)))


def unread_parts(asked: ResponsesRequest) -> list[str]:
    """What is asked for within fields, and is left out."""
    found = [f"include.{name}" for name in asked.include if name != LOGPROBS]
    if asked.text.verbosity is not None:
        found.append("text.verbosity")
    if asked.reasoning is not None and (asked.reasoning.summary or asked.reasoning.generate_summary):
        found.append("reasoning.summary")
    return found


def conversation(asked: ResponsesRequest, before: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """What was said; instructions hold for one response only. Raises RequestError 400."""
    return (*before, *_messages(asked.input))


def items_of(asked: ResponsesRequest) -> tuple[Item, ...]:
    """What was given, as items."""
    if not isinstance(asked.input, str):
        return asked.input
    return ({"type": "message", "role": "user", "content": [{"type": "input_text", "text": asked.input}]},)


def _check(asked: ResponsesRequest) -> None:
    if asked.conversation is not None:
        raise _wrong("conversations are not kept: use previous_response_id", "conversation")
    if asked.background and not asked.store:
        raise _wrong("background needs store: who asks for the response later finds what is kept", "background")


def _tool(tool: Item, index: int) -> Item:
    if tool.get("type") != "function" or not isinstance(tool.get("name"), str):
        kind = tool.get("type")
        raise _wrong(
            f"tools are functions, {{type: function, name: …, parameters: …}}; {kind!r} is none",
            f"tools[{index}]",
        )
    function = {name: tool[name] for name in ("name", "description", "parameters", "strict") if name in tool}
    return {"type": "function", "function": function}


def _choice(choice: str | Item) -> str | Item:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _format(asked: ResponsesRequest) -> Item | None:
    given = asked.text.format
    if given is None or given.get("type") != "json_schema":
        return given
    return {
        "type": "json_schema",
        "json_schema": {name: value for name, value in given.items() if name != "type"},
    }


def _messages(given: str | tuple[Item, ...]) -> list[ChatMessage]:
    if isinstance(given, str):
        return [ChatMessage("user", given)]
    found: list[ChatMessage] = []
    for index, item in enumerate(given):
        match item.get("type", "message"):
            case "message":
                found.append(_message(item, index))
            case "function_call":
                _add_call(found, item)
            case "function_call_output":
                said = item.get("output", "")
                output = said if isinstance(said, str) else _said(said, f"input[{index}].output")
                found.append(ChatMessage("tool", output, tool_call_id=str(item.get("call_id", ""))))
            case "reasoning":
                continue  # what was thought before is not given to a template again
            case kind:
                raise _wrong(f"items of the type {kind!r} are not supported", f"input[{index}]")
    return found


def _add_call(found: list[ChatMessage], item: Item) -> None:
    """A call belongs to what the assistant said just before."""
    call = {
        "id": str(item.get("call_id", "")),
        "type": "function",
        "function": {"name": str(item.get("name", "")), "arguments": str(item.get("arguments") or "{}")},
    }
    if found and found[-1].role == "assistant":
        found[-1] = msgspec.structs.replace(found[-1], tool_calls=(*(found[-1].tool_calls or ()), call))
    else:
        found.append(ChatMessage("assistant", None, tool_calls=(call,)))


def _message(item: Item, index: int) -> ChatMessage:
    content = item.get("content")
    if not isinstance(content, str):
        content = _said(content, f"input[{index}].content")
    return converted({"role": item.get("role"), "content": content}, ChatMessage)


def _said(parts: Any, field: str) -> Any:
    """Parts as chats have them; one text where they are nothing else."""
    if not isinstance(parts, list | tuple):
        raise _wrong("content is a text or a list of parts", field)
    made: list[Item] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _TEXTS:
            made.append({"type": "text", "text": str(part.get("text", ""))})
        elif kind == "refusal":
            made.append({"type": "text", "text": str(part.get("refusal", ""))})
        elif kind == "input_image" and part.get("image_url"):
            made.append({"type": "image_url", "image_url": {"url": str(part["image_url"])}})
        else:
            raise _wrong(f"parts of the type {kind!r} are not supported", field)
    if all(part["type"] == "text" for part in made):
        return "".join(part["text"] for part in made)
    return made


def _wrong(message: str, field: str) -> RequestError:
    return RequestError(400, message, field=field, code="invalid_value")
