"""A text as the Responses API gives it, whole and as events. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from stoker.schemas import wire
from stoker.schemas.job_events import Delta, TextOutput, TokenChance
from stoker.schemas.openai import ChatMessage, Usage
from stoker.schemas.responses import (
    CachedTokens,
    ResponseAnswer,
    ResponsesRequest,
    ResponseStatus,
    ResponseUsage,
)
from stoker.services.gateway.edge.problems import RequestError, openai_error
from stoker.services.gateway.edge.sse import sse
from stoker.services.gateway.text.writing import CallsGiven, chat_logprobs

Item = dict[str, Any]
PREFIX = "resp_"
PLACES = 1024
"""Numbers for each character of a response of the background: more than come between two of them."""


def response_id(job: str) -> str:
    return PREFIX + job


def answer_of(
    asked: ResponsesRequest, job: str, created_at: float, status: ResponseStatus, **more: Any
) -> ResponseAnswer:
    """A response. more: its output, usage, error."""
    shown = {
        name: getattr(asked, name)
        for name in ResponseAnswer.__struct_fields__
        if name in ResponsesRequest.__struct_fields__
    }
    answer = ResponseAnswer(id=response_id(job), created_at=int(created_at), status=status, **shown)
    return msgspec.structs.replace(answer, **more)


def completed_answer(
    asked: ResponsesRequest, job: str, created_at: float, output: TextOutput
) -> ResponseAnswer:
    """A response whose job has completed."""
    is_cut = output.finish_reason == "length"
    status: ResponseStatus = "incomplete" if is_cut else "completed"
    return answer_of(
        asked,
        job,
        created_at,
        status,
        output=tuple(output_items(job, output)),
        usage=_usage(output.usage),
        incomplete_details={"reason": "max_output_tokens"} if is_cut else None,
    )


def _usage(usage: Usage) -> ResponseUsage:
    details = usage.prompt_tokens_details
    cached = 0 if isinstance(details, msgspec.UnsetType) else details.cached_tokens
    return ResponseUsage(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, CachedTokens(cached))


def output_items(job: str, output: TextOutput) -> list[Item]:
    """What was made: what the model thought, what it said, the tools that it calls."""
    status = "incomplete" if output.finish_reason == "length" else "completed"
    items: list[Item] = []
    if output.reasoning:
        items.append(_reasoning(job, output.reasoning, status))
    if output.text or not output.tool_calls:
        chances = [one for one in output.logprobs if one.at >= len(output.reasoning)]
        items.append(_message(job, output.text, chances, status))
    for index, call in enumerate(output.tool_calls):
        function = call["function"]
        items.append(_call(job, index, call["id"], function["name"], function["arguments"], status))
    return items


def _reasoning(job: str, text: str, status: str) -> Item:
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"type": "reasoning", "id": f"rs_{job}", "summary": [], "content": content, "status": status}


def _message(job: str, text: str, chances: Sequence[TokenChance], status: str) -> Item:
    part = _part(text, chances)
    content = [part] if status != "in_progress" else []
    return {"type": "message", "id": f"msg_{job}", "status": status, "role": "assistant", "content": content}


def _part(text: str, chances: Sequence[TokenChance] = ()) -> Item:
    told = chat_logprobs(chances)["content"]
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": told}


def _call(job: str, index: int, call: str, name: str, arguments: str, status: str) -> Item:
    return {
        "type": "function_call",
        "id": f"fc_{job}_{index}",
        "call_id": call,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def answer_message(output: TextOutput) -> ChatMessage:
    """The answer as the next chat is told it."""
    return ChatMessage("assistant", output.text or None, tool_calls=output.tool_calls or None)


class ResponseWriter:
    """A response as events. Items are opened in the order in which they are made: the one before is done.

    A response of the background may be followed again, from any event on, when its text comes in other pieces.
    So the numbers of its events say how many characters were made before, and may leave some out. after: the
    last number that the client has; what came up to it is not written.
    """

    def __init__(self, asked: ResponsesRequest, job: str, created_at: float, *, after: int = -1) -> None:
        self._asked = asked
        self._job = job
        self._created_at = created_at
        self._number = -1
        self._after = after
        self._chars = 0
        """Of all that was made: thoughts, text, and arguments."""
        self._items: list[Item] = []
        self._text: list[str] = []
        self._chances: list[TokenChance] = []
        self._calls = CallsGiven()
        self._call_items: dict[int, int] = {}

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number = max(self._number + 1, PLACES * self._chars if self._asked.background else 0)
        if self._number <= self._after:
            return b""
        return sse(wire.encode({"type": kind, "sequence_number": self._number, **fields}), kind)

    def _more(self, text: str) -> str:
        """Text that was made just now, without what the client has of it."""
        self._text.append(text)
        self._chars += len(text)
        return text[max(self._had_chars - self._chars + len(text), 0) :]

    @property
    def _had_chars(self) -> int:
        return max(self._after, 0) // PLACES

    def queued(self) -> bytes:
        """Of a response of the background, which is told first by what id to find it again."""
        if not self._asked.background:
            return b""
        begun = answer_of(self._asked, self._job, self._created_at, "queued")
        return self._event("response.created", response=begun) + self._event("response.queued", response=begun)

    def opening(self, index: int) -> bytes:
        begun = answer_of(self._asked, self._job, self._created_at, "in_progress")
        written = b"" if self._asked.background else self._event("response.created", response=begun)
        return written + self._event("response.in_progress", response=begun)

    def _is_in(self, kind: str) -> bool:
        return bool(self._items) and self._items[-1]["type"] == kind

    def _open(self, item: Item) -> bytes:
        written = self._close()
        self._items.append(item)
        self._text.clear()
        written += self._event("response.output_item.added", output_index=len(self._items) - 1, item=item)
        if item["type"] == "message":
            written += self._event("response.content_part.added", **self._place(), part=_part(""))
        return written

    def _place(self) -> Item:
        """Of the item that is open."""
        place = {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}
        return place if self._is_in("function_call") else place | {"content_index": 0}

    def _close(self, status: str = "completed") -> bytes:
        """The item that is open is done."""
        if not self._items:
            return b""
        item, text = self._items[-1], "".join(self._text)
        written = b""
        match item["type"]:
            case "reasoning":
                written += self._event("response.reasoning_text.done", **self._place(), text=text)
                item = _reasoning(self._job, text, status)
            case "message":
                part = _part(text, self._chances)
                told = {"text": text, "logprobs": part["logprobs"]}
                written += self._event("response.output_text.done", **self._place(), **told)
                written += self._event("response.content_part.done", **self._place(), part=part)
                item = _message(self._job, text, self._chances, status)
            case _:
                done = {"arguments": text, "name": item["name"]}
                written += self._event("response.function_call_arguments.done", **self._place(), **done)
                item = item | {"arguments": text, "status": status}
        self._items[-1] = item
        return written + self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)

    def delta(self, index: int, delta: Delta) -> bytes:
        reasoning, text = delta.text[: delta.reasoning], delta.text[delta.reasoning :]
        written = b""
        if reasoning:
            if not self._is_in("reasoning"):
                written += self._open(_reasoning(self._job, "", "in_progress"))
            more = self._more(reasoning)
            written += self._event("response.reasoning_text.delta", **self._place(), delta=more)
        if text:
            written += self._said(text, [one for one in delta.logprobs if one.at >= delta.at + len(reasoning)])
        for part in delta.calls:
            if (fragment := self._calls.fragment(part)) is not None:
                written += self._called(fragment)
        return written

    def _said(self, text: str, chances: Sequence[TokenChance]) -> bytes:
        written = b""
        if not self._is_in("message"):
            written += self._open(_message(self._job, "", (), "in_progress"))
        more = self._more(text)
        self._chances += chances
        told = chat_logprobs([one for one in chances if one.at >= self._had_chars])["content"]
        return written + self._event("response.output_text.delta", **self._place(), delta=more, logprobs=told)

    def _called(self, fragment: Item) -> bytes:
        written = b""
        index, function = fragment["index"], fragment["function"]
        if "id" in fragment:
            item = _call(self._job, index, fragment["id"], function["name"], "", "in_progress")
            written += self._open(item)
        if function["arguments"]:
            more = self._more(function["arguments"])
            written += self._event("response.function_call_arguments.delta", **self._place(), delta=more)
        return written

    def ending(self, index: int, output: TextOutput) -> bytes:
        written = b""
        for fragment in self._calls.rest(output.tool_calls):
            written += self._called(fragment)
        if not output.tool_calls and not self._is_in("message"):
            written += self._open(_message(self._job, "", (), "in_progress"))
        return written + self._close("incomplete" if output.finish_reason == "length" else "completed")

    def closing(self, outputs: Sequence[TextOutput]) -> bytes:
        answer = completed_answer(self._asked, self._job, self._created_at, outputs[0])
        return self._event(f"response.{answer.status}", response=answer)

    def error(self, error: RequestError) -> bytes:
        said = openai_error(error).error
        failed = answer_of(
            self._asked, self._job, self._created_at, "failed", error=failure_of(said.code, said.message)
        )
        return self._event("response.failed", response=failed)

    def waiting(self, comment: bytes) -> bytes:
        return comment


def failure_of(code: str | None, message: str) -> dict[str, str]:
    """An error as responses have it: its code is one of OpenAI's few."""
    known = "rate_limit_exceeded" if code == "queue_full" else "server_error"
    return {"code": known, "message": message if not code or code in message else f"{message} ({code})"}
