"""Ollama's own API: requests and answers, as its API document (docs/api.md of ollama) describes them."""

from typing import Any, Literal

import msgspec

Think = bool | Literal["low", "medium", "high"] | None


class OllamaErrorAnswer(msgspec.Struct, frozen=True):
    error: str


class OllamaMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """images: base64."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    images: tuple[str, ...] | None = None
    tool_calls: tuple[dict[str, Any], ...] | None = None
    tool_name: str | None = None


class _Generating(msgspec.Struct, frozen=True, kw_only=True):
    """format: "json", or a JSON schema. options: Ollama's own. stream: unless it is said otherwise."""

    model: str
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] = {}
    stream: bool = True
    keep_alive: str | float | None = None
    think: Think = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class OllamaChatRequest(_Generating, frozen=True, kw_only=True):
    messages: tuple[OllamaMessage, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()


class OllamaGenerateRequest(_Generating, frozen=True, kw_only=True):
    """raw: the prompt is given as it is, without the model's template."""

    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    images: tuple[str, ...] | None = None
    context: tuple[int, ...] | None = None
    raw: bool = False


class OllamaEmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    input: str | tuple[str, ...]
    truncate: bool | None = None
    dimensions: int | None = None
    options: dict[str, Any] = {}
    keep_alive: str | float | None = None


class OllamaEmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The older way to ask for one vector."""

    model: str
    prompt: str
    options: dict[str, Any] = {}
    keep_alive: str | float | None = None


class OllamaShowRequest(msgspec.Struct, frozen=True, kw_only=True):
    """name: what `model` was called before."""

    model: str = ""
    name: str = ""
    verbose: bool = False


class OllamaDetails(msgspec.Struct, frozen=True):
    parent_model: str = ""
    format: str = ""
    family: str = ""
    families: tuple[str, ...] = ()
    parameter_size: str = ""
    quantization_level: str = ""


class OllamaTag(msgspec.Struct, frozen=True):
    """A model that may be asked for. size: bytes; 0 where nobody has loaded it yet."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaTags(msgspec.Struct, frozen=True):
    models: tuple[OllamaTag, ...]


class OllamaRunning(msgspec.Struct, frozen=True):
    """A model that is in memory. size, size_vram: bytes."""

    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails
    expires_at: str
    size_vram: int
    context_length: int = 0


class OllamaProcesses(msgspec.Struct, frozen=True):
    models: tuple[OllamaRunning, ...]


class OllamaVersion(msgspec.Struct, frozen=True):
    version: str


class OllamaShown(msgspec.Struct, frozen=True):
    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: tuple[str, ...]
    modified_at: str


class OllamaLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of an answer, or the whole of it. Durations are nanoseconds.

    message: of a chat. response, thinking: of /api/generate.
    """

    model: str
    created_at: str
    done: bool | msgspec.UnsetType = msgspec.UNSET
    message: dict[str, Any] | None = None
    response: str | None = None
    thinking: str | None = None
    logprobs: tuple[dict[str, Any], ...] = ()
    done_reason: str | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


class OllamaVectors(msgspec.Struct, frozen=True):
    model: str
    embeddings: tuple[tuple[float, ...], ...]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaVector(msgspec.Struct, frozen=True):
    embedding: tuple[float, ...]
