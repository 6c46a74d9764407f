"""What a form of the text API must know: how a text is written while it is made, and when it is whole. Pure."""

from collections.abc import Sequence
from typing import Any, Protocol

from schemas.job_events import CallPart, Delta, TextOutput, TokenChance
from services.gateway.edge.problems import RequestError

Fragment = dict[str, Any]


class Writer(Protocol):
    """Writes the answers of one request as they are made. index: which of them. Each is opened once."""

    def opening(self, index: int) -> bytes: ...

    def delta(self, index: int, delta: Delta) -> bytes: ...

    def ending(self, index: int, output: TextOutput) -> bytes:
        """One answer is whole."""

    def closing(self, outputs: Sequence[TextOutput]) -> bytes:
        """All of them are."""

    def error(self, error: RequestError) -> bytes:
        """Instead of the rest."""

    def waiting(self, comment: bytes) -> bytes:
        """While nothing is made. comment: what server-sent events say then."""


class CallsGiven:
    """Which parts of an answer's calls of tools a client has been given: each is given once, in order."""

    def __init__(self) -> None:
        self._given: dict[int, str] = {}

    def fragment(self, part: CallPart) -> Fragment | None:
        """A part as OpenAI's streams have it; None where the client has it all, or lacks what came before."""
        known = self._given.get(part.index)
        is_new = known is None
        known = known or ""
        more = part.arguments[len(known) - part.at :] if part.at <= len(known) else ""
        if not part.name or (part.at > len(known)) or not (more or is_new):
            return None
        self._given[part.index] = known + more
        if is_new:
            return _opened(part.index, part.id, part.name, more)
        return {"index": part.index, "function": {"arguments": more}}

    def rest(self, calls: Sequence[dict[str, Any]]) -> list[Fragment]:
        """What is missing of all of them. Raises RequestError 500 where they are others than those given."""
        found: list[Fragment] = []
        for index, call in enumerate(calls):
            function = call["function"]
            known, whole = self._given.get(index), function["arguments"]
            if known is not None and not whole.startswith(known):
                message = "the job was run again and called its tools with something else"
                raise RequestError(500, message, code="text_diverged")
            part = CallPart(index, call["id"], function["name"], whole, 0)
            if (fragment := self.fragment(part)) is not None:
                found.append(fragment)
        return found


def _opened(index: int, call_id: str, name: str, arguments: str) -> Fragment:
    return {
        "index": index,
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def chat_logprobs(chances: Sequence[TokenChance]) -> dict[str, Any]:
    """As chats have them."""
    content = [
        {
            "token": one.token,
            "logprob": one.logprob,
            "bytes": one.bytes,
            "top_logprobs": [
                {"token": other.token, "logprob": other.logprob, "bytes": other.bytes} for other in one.top
            ],
        }
        for one in chances
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(chances: Sequence[TokenChance], offset: int) -> dict[str, Any]:
    """As completions have them. offset: characters of the text before the first token's."""
    offsets: list[int] = []
    for one in chances:
        offsets.append(offset)
        offset += len(one.token)
    return {
        "tokens": [one.token for one in chances],
        "token_logprobs": [one.logprob for one in chances],
        "top_logprobs": [{other.token: other.logprob for other in one.top} for one in chances],
        "text_offset": offsets,
    }
