"""OpenAI requests and answers, as far as Stoker serves them.

Requests refuse unknown types; unknown fields are ignored, as the OpenAI clients of tomorrow send more than
those of today. Field names and defaults follow OpenAI's API reference.
"""

from typing import Any, Literal

import msgspec

from stoker.schemas.drawing import DrawingFields
from stoker.schemas.formats import OutputFormat
from stoker.schemas.transcripts import SpokenSegment


class TextPart(msgspec.Struct, frozen=True, tag="text", tag_field="type"):
    text: str


class ImageUrl(msgspec.Struct, frozen=True, omit_defaults=True):
    url: str
    detail: str | None = None


class ImagePart(msgspec.Struct, frozen=True, tag="image_url", tag_field="type"):
    image_url: ImageUrl


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | tuple[TextPart | ImagePart, ...] | None = None
    name: str | None = None
    tool_calls: tuple[dict[str, Any], ...] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    def text(self) -> str:
        """What it says, its text parts joined."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


def template_of_effort(effort: str) -> dict[str, Any]:
    """What chat templates are given for a `reasoning_effort`; "" is none."""
    if not effort:
        return {}
    return {"enable_thinking": False} if effort == "none" else {"reasoning_effort": effort}


class _TextRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    max_tokens: int | None = None
    stop: str | tuple[str, ...] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    n: int = 1
    user: str | None = None


class ChatCompletionRequest(_TextRequest, frozen=True, kw_only=True):
    messages: tuple[ChatMessage, ...]
    max_completion_tokens: int | None = None
    response_format: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    chat_template_kwargs: dict[str, Any] = {}
    reasoning_effort: ReasoningEffort | None = None
    parallel_tool_calls: bool | None = None


class CompletionRequest(_TextRequest, frozen=True, kw_only=True):
    prompt: str | tuple[str | int | tuple[int, ...], ...]
    echo: bool = False
    suffix: str | None = None
    logprobs: int | None = None
    n_predict: int | None = None


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    input: str | tuple[str | int | tuple[int, ...], ...]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class ImageGenerationRequest(DrawingFields, frozen=True, kw_only=True):
    """`negative_prompt`, `num_inference_steps`, `guidance_scale` and `seed` go beyond OpenAI's own; `steps` and
    `cfg_scale` are what A1111's clients call the second and third.

    output_compression: quality of a JPEG, WebP or MP4, 0 to 100. num_frames, fps: of a video.
    """

    prompt: str
    model: str
    n: int = 1
    size: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    stream: bool = False
    partial_images: int = 0
    negative_prompt: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    sampler: str | None = None
    num_frames: int | None = None
    fps: float | None = None
    seed: int | None = None
    output_format: OutputFormat | None = None
    output_compression: int | None = None
    user: str | None = None


class ImageEditRequest(ImageGenerationRequest, frozen=True, kw_only=True):
    """The fields of an edit beside its pictures. strength: 0 keeps the picture, 1 draws anew."""

    strength: float | None = None


class TranslationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a translation into English beside its `file`."""

    model: str
    prompt: str = ""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: float | None = None


class TranscriptionRequest(TranslationRequest, frozen=True, kw_only=True):
    """The fields of a transcription beside its `file`."""

    language: str = ""
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ()
    stream: bool = False


class PromptTokens(msgspec.Struct, frozen=True):
    """cached_tokens: of the prompt, those that were not worked out again."""

    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Counts of tokens. prompt_tokens_details: where the engine tells."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens | msgspec.UnsetType = msgspec.UNSET


class ModelCard(msgspec.Struct, frozen=True, omit_defaults=True):
    """`features`, `max_model_len` (tokens of its context) and `capabilities` go beyond OpenAI's own. The latter
    two are there once a worker has loaded the model; they say what schemas.workers.CapabilityCard does.
    """

    id: str
    created: int
    object: Literal["model"]
    owned_by: str
    features: tuple[str, ...] = ()
    max_model_len: int = 0
    capabilities: dict[str, Any] = {}


class ModelList(msgspec.Struct, frozen=True):
    data: tuple[ModelCard, ...]
    object: str = "list"


class ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: dict[str, Any]
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class ChatCompletion(msgspec.Struct, frozen=True):
    id: str
    created: int
    model: str
    choices: tuple[ChatChoice, ...]
    usage: Usage
    object: str = "chat.completion"
    system_fingerprint: str = "stoker"


class ChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: dict[str, Any]
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class ChatCompletionChunk(msgspec.Struct, frozen=True):
    id: str
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    object: str = "chat.completion.chunk"
    system_fingerprint: str = "stoker"
    usage: Usage | None | msgspec.UnsetType = msgspec.UNSET


class TextChoice(msgspec.Struct, frozen=True):
    index: int
    text: str
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class TextCompletion(msgspec.Struct, frozen=True):
    """A completion, and with `choices[].finish_reason` null a chunk of one."""

    id: str
    created: int
    model: str
    choices: tuple[TextChoice, ...]
    object: str = "text_completion"
    system_fingerprint: str = "stoker"
    usage: Usage | None | msgspec.UnsetType = msgspec.UNSET


class Embedding(msgspec.Struct, frozen=True):
    index: int
    embedding: tuple[float, ...] | str
    object: str = "embedding"


class EmbeddingUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, frozen=True):
    data: tuple[Embedding, ...]
    model: str
    usage: EmbeddingUsage
    object: str = "list"


class GeneratedImage(msgspec.Struct, frozen=True, omit_defaults=True):
    b64_json: str | None = None
    url: str | None = None
    seed: int | None = None


class ImageList(msgspec.Struct, frozen=True):
    created: int
    data: tuple[GeneratedImage, ...]


class SoundUsage(msgspec.Struct, frozen=True):
    """What was listened to."""

    seconds: float
    type: str = "duration"


class Transcription(msgspec.Struct, frozen=True):
    text: str
    usage: SoundUsage


class TimedWord(msgspec.Struct, frozen=True):
    word: str
    start: float
    end: float


class VerboseTranscription(msgspec.Struct, frozen=True, omit_defaults=True):
    """words, segments: where they are asked for."""

    task: str
    language: str
    duration: float
    text: str
    usage: SoundUsage
    words: tuple[TimedWord, ...] | msgspec.UnsetType = msgspec.UNSET
    segments: tuple[SpokenSegment, ...] | msgspec.UnsetType = msgspec.UNSET


class ErrorBody(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    error: ErrorBody
