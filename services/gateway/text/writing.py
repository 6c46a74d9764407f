"""What a form of the text API must know: how a text is written while it is made, and when it is whole. Pure."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from stoker.schemas.job_events import CallPart, Delta, TextOutput, TokenChance
from stoker.services.gateway.edge.problems import RequestError

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
    """Which parts of an answer's calls of tools a client has been given: each once, and one call after another.

    Parts may be lost on their way; what came after such a gap waits for the end, when the calls are known.
    """

    def __init__(self) -> None:
        self._given: list[str] = []
        """The arguments of each call so far."""

    def fragment(self, part: CallPart) -> Fragment | None:
        """A part as OpenAI's streams have it; None where the client has it all, or lacks what came before."""
        newest = len(self._given) - 1
        if part.index > newest and not self._may_begin(part):
            return None
        known = self._given[part.index] if part.index <= newest else ""
        if part.index < newest or part.at > len(known):
            return None
        return self._give(part.index, part.id, part.name, part.arguments[len(known) - part.at :])

    def _may_begin(self, part: CallPart) -> bool:
        """Whether it is the next call, and the one before is whole."""
        return (
            part.index == len(self._given)
            and bool(part.name)
            and part.at == 0
            and (not self._given or _is_json(self._given[-1]))
        )

    def _give(self, index: int, call: str, name: str, more: str) -> Fragment | None:
        if index == len(self._given):
            self._given.append(more)
            function = {"name": name, "arguments": more}
            return {"index": index, "id": call, "type": "function", "function": function}
        self._given[index] += more
        return {"index": index, "function": {"arguments": more}} if more else None

    def rest(self, calls: Sequence[dict[str, Any]]) -> list[Fragment]:
        """What is missing of all of them. Raises RequestError 500 where they are others than those given."""
        found: list[Fragment] = []
        for index, call in enumerate(calls):
            function = call["function"]
            known = self._given[index] if index < len(self._given) else ""
            whole = function["arguments"]
            is_last = index >= len(self._given) - 1
            if not whole.startswith(known) or (whole != known and not is_last):
                message = "the job was run again and called its tools with something else"
                raise RequestError(500, message, code="text_diverged")
            fragment = self._give(index, call["id"], function["name"], whole[len(known) :])
            if fragment is not None:
                found.append(fragment)
        return found


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return True


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
