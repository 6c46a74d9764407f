"""What servers of others may say, by its types: of OpenAI's dialect, and of Ollama's.

What such a server sends is compared with these types before anything is made of it, so that one that says
something else ends its own job, with the place of what is wrong. Fields that are not named here are not read.
"""

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from stoker.services.worker.engines.base import EngineError

T = TypeVar("T")
Count = Annotated[int, Meta(ge=0, le=2**40)] | None
Index = Annotated[int, Meta(ge=0, le=4095)] | None
Byte = Annotated[int, Meta(ge=0, le=255)]
_MANY_LEVELS = "it is nested too deep"


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: Index = None
    function: _Function | None = None


class _Alternative(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[Byte] | None = None


class _Chance(_Alternative):
    top_logprobs: list[_Alternative] | None = None


class _Chances(msgspec.Struct):
    """Of a chat (`content`), or of a completion (the others)."""

    content: list[_Chance] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None

    def __post_init__(self) -> None:
        if len(self.tokens or ()) > len(self.token_logprobs or ()):
            raise ValueError("there are fewer token_logprobs than tokens")


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: Index = None
    delta: _Message | None = None
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Chances | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: Count = None


class _Usage(msgspec.Struct):
    prompt_tokens: Count = None
    completion_tokens: Count = None
    total_tokens: Count = None
    prompt_tokens_details: _PromptDetails | None = None


class Chunk(msgspec.Struct):
    """One event of a stream."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class Whole(msgspec.Struct):
    """An answer that is not streamed."""

    choices: Annotated[list[_Choice], Meta(min_length=1)]
    usage: _Usage | None = None


class _Row(msgspec.Struct):
    embedding: list[float]
    index: Index = None


class Embeddings(msgspec.Struct):
    data: list[_Row]
    usage: _Usage | None = None

    def vectors(self, count: int) -> tuple[tuple[float, ...], ...]:
        """One for each text, in the order of these. Raises ValueError where there are others."""
        rows = {at if row.index is None else row.index: row.embedding for at, row in enumerate(self.data)}
        _demand_all(rows, len(self.data), count)
        return tuple(tuple(rows[index]) for index in range(count))


class _Rank(msgspec.Struct):
    index: int
    relevance_score: float


class Ranks(msgspec.Struct):
    results: list[_Rank]
    usage: _Usage | None = None

    def scores(self, count: int) -> list[float]:
        """One for each document, in the order of these. Raises ValueError where there are others."""
        scores = {row.index: row.relevance_score for row in self.results}
        _demand_all(scores, len(self.results), count)
        return [scores[index] for index in range(count)]


class _OllamaFunction(msgspec.Struct):
    name: str = ""
    arguments: dict[str, Any] | None = None


class _OllamaCall(msgspec.Struct):
    function: _OllamaFunction


class _OllamaMessage(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_OllamaCall] | None = None


class OllamaLine(msgspec.Struct):
    """One line of a stream of Ollama's."""

    message: _OllamaMessage = msgspec.field(default_factory=_OllamaMessage)
    response: str | None = None
    thinking: str | None = None
    logprobs: list[_Chance] | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: Count = None
    eval_count: Count = None
    error: Any = None


class OllamaEmbeddings(msgspec.Struct):
    embeddings: list[list[float]]
    prompt_eval_count: Count = None


def read(content: bytes, kind: type[T], name: str) -> T:
    """What a server has sent. name: of the server. Raises EngineError."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise odd(name, error) from error
    except RecursionError as error:
        raise odd(name, _MANY_LEVELS) from error


def read_as(content: bytes, kind: type[Any], name: str) -> dict[str, Any]:
    """The same as it is written, once it is known to be of that kind."""
    said = read(content, dict[str, Any], name)
    try:
        msgspec.convert(said, kind)
    except msgspec.ValidationError as error:
        raise odd(name, error) from error
    return said


def odd(name: str, reason: object) -> EngineError:
    """A server has said something else than its API says: another one of its kind may do better."""
    return EngineError(f"{name}: its answer is not as its API has it: {reason}", "retryable")


def not_whole(name: str) -> EngineError:
    return EngineError(f"{name}: its answer ended before it was whole", "retryable")


def _demand_all(found: dict[int, Any], rows: int, count: int) -> None:
    if rows != count or found.keys() != set(range(count)):
        raise ValueError(f"it has {rows} rows for {count} inputs, not one for each")
