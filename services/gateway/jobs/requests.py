"""From a decoded HTTP request to a Job: validation, defaults, precedence. Pure.

Precedence: what the request says, then the model's defaults, then nothing: the engine decides. A bad
request ends here, as a RequestError that names the field; it never reaches NATS.
"""

import re
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from schemas.catalog import Feature, Model
from schemas.jobs import (
    DEFAULT_ADMISSION_TIMEOUT_S,
    CallInput,
    ChatInput,
    CompletionInput,
    EmbeddingInput,
    ImageInput,
    JobInput,
    Sampling,
)
from schemas.openai import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    ImageEditRequest,
    ImageGenerationRequest,
)
from schemas.subjects import BadName, check_name
from services.gateway.edge.decoding import invalid
from services.gateway.edge.problems import RequestError
from services.gateway.jobs.function_calls import function_input
from services.gateway.jobs.text_rules import check_format, check_tools

MAX_TOKENS = 1_000_000
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_PICTURES = 10
MAX_PREVIEWS = 3
MAX_STEPS = 150
MAX_GUIDANCE = 50.0
MAX_PROMPT_CHARS = 1_000_000
MAX_TEXTS = 2048
MAX_DIMENSIONS = 1_000_000
MIN_EDGE_PX, MAX_EDGE_PX, EDGE_MULTIPLE_PX = 64, 2048, 8
MAX_SEED = 2**32 - 1
OFF = -1
"""No limit, or by chance: so say the clients of llama.cpp, LM Studio, vLLM and A1111."""
MAX_TIMEOUT_S = 24 * 3600.0
MAX_PRIORITY = 10

T = TypeVar("T")


class JobRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/jobs. timeout_s: how long it may wait to start. deadline_s: when it must be done."""

    model: str
    input: dict[str, Any]
    priority: int = 0
    webhook: str | None = None
    timeout_s: float | None = None
    deadline_s: float | None = None


class TextJobInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`input` of a text job: messages, or a prompt."""

    messages: Any = None
    prompt: str | None = None
    max_tokens: int | None = None
    stop: str | tuple[str, ...] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] | None = None
    seed: int | None = None


class ImageJobInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`input` of an image job."""

    prompt: str
    negative_prompt: str | None = None
    n: int = 1
    size: str | None = None
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    previews: int = MAX_PREVIEWS
    latents: bool = False
    seed: int | None = None


class CallJobInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`input` of a custom job."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}


def split_adapter(name: str, models: Mapping[str, Model]) -> tuple[Model, str]:
    """The model that a request names, and the adapter in `model_adapter`. Raises RequestError 404."""
    found = models.get(name)
    if found is not None:
        return found, ""
    for model in models.values():
        for adapter in model.adapter_names():
            if name == f"{model.name}_{adapter}":
                return model, adapter
    try:
        check_name(name)
    except BadName as error:
        raise RequestError(400, f"model: {error}", field="model", code="invalid_value") from error
    known = ", ".join(sorted(models)) or "none is configured"
    raise RequestError(
        404, f"there is no model {name!r}; known are: {known}", field="model", code="model_not_found"
    )


def need(model: Model, feature: Feature) -> None:
    """Raise RequestError 400 when a model cannot do this kind of work."""
    if feature not in model.features:
        can = ", ".join(model.features)
        raise RequestError(
            400, f"{model.name!r} does not do {feature}; it does {can}", field="model", code="wrong_feature"
        )


def within(value: float | None, low: float, high: float, field: str) -> None:
    """Raise RequestError 400 for a value outside its range; None is inside every range."""
    if value is not None and not low <= value <= high:
        given = f"{value:g}" if abs(value) < sys.float_info.max else "a number of that size"
        raise RequestError(
            400,
            f"{field} must be between {low:g} and {high:g}, not {given}",
            field=field,
            code="invalid_value",
        )


def _sampling(asked: Any, defaults: Mapping[str, Any]) -> Sampling:
    within(asked.temperature, 0, 10, "temperature")
    within(asked.top_p, 0, 1, "top_p")
    within(asked.min_p, 0, 1, "min_p")
    within(asked.top_k, OFF, MAX_TOKENS, "top_k")
    within(asked.presence_penalty, -2, 2, "presence_penalty")
    within(asked.frequency_penalty, -2, 2, "frequency_penalty")
    within(asked.repeat_penalty, 0, 10, "repeat_penalty")
    given: dict[str, Any] = {}
    for field in Sampling.__struct_fields__:
        value = getattr(asked, field)
        given[field] = defaults.get(field) if value is None else value
    return Sampling(**given)


def _stops(stop: str | tuple[str, ...] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else stop or ()
    if len(stops) > MAX_STOPS or any(not 0 < len(one) <= MAX_STOP_CHARS for one in stops):
        raise RequestError(
            400,
            f"stop takes up to {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters",
            field="stop",
            code="invalid_value",
        )
    return stops


def _max_tokens(value: int | None, defaults: Mapping[str, Any]) -> int | None:
    if value == OFF:
        return None
    within(value, 1, MAX_TOKENS, "max_tokens")
    return defaults.get("max_tokens") if value is None else value


def _one(n: int) -> None:
    if n != 1:
        raise RequestError(400, "n must be 1: send one request per answer", field="n", code="unsupported_value")


def chat_input(asked: ChatCompletionRequest, model: Model) -> ChatInput:
    need(model, "TextGeneration")
    _one(asked.n)
    if not asked.messages:
        raise RequestError(400, "messages must not be empty", field="messages", code="invalid_value")
    if asked.logprobs:
        raise RequestError(400, "logprobs are not supported", field="logprobs", code="unsupported_value")
    check_tools(asked.tools, asked.tool_choice)
    check_format(asked.response_format)
    limit = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    return ChatInput(
        messages=asked.messages,
        max_tokens=_max_tokens(limit, model.defaults),
        stop=_stops(asked.stop),
        sampling=_sampling(asked, model.defaults),
        response_format=asked.response_format,
        tools=asked.tools,
        tool_choice=asked.tool_choice,
        template=_template(asked),
        parallel_tool_calls=asked.parallel_tool_calls,
    )


def _template(asked: ChatCompletionRequest) -> dict[str, Any]:
    """What the chat template is given: what a request says for it, else what its effort stands for."""
    if asked.reasoning_effort is None:
        return asked.chat_template_kwargs
    if asked.reasoning_effort == "none":
        return {"enable_thinking": False} | asked.chat_template_kwargs
    return {"reasoning_effort": asked.reasoning_effort} | asked.chat_template_kwargs


def completion_input(asked: CompletionRequest, model: Model) -> CompletionInput:
    need(model, "TextGeneration")
    _one(asked.n)
    prompt = asked.prompt if isinstance(asked.prompt, str) else "".join(asked.prompt[:1])
    if not isinstance(asked.prompt, str) and len(asked.prompt) != 1:
        raise RequestError(400, "prompt must be one string", field="prompt", code="unsupported_value")
    for field in ("echo", "suffix", "logprobs"):
        if getattr(asked, field):
            raise RequestError(400, f"{field} is not supported", field=field, code="unsupported_value")
    return CompletionInput(
        prompt=prompt,
        max_tokens=_max_tokens(asked.max_tokens, model.defaults),
        stop=_stops(asked.stop),
        sampling=_sampling(asked, model.defaults),
    )


def embedding_input(asked: EmbeddingRequest, model: Model) -> EmbeddingInput:
    need(model, "TextEmbedding")
    within(asked.dimensions, 1, MAX_DIMENSIONS, "dimensions")
    given = (asked.input,) if isinstance(asked.input, str) else asked.input
    texts = tuple(one for one in given if isinstance(one, str))
    tokens = tuple(one for one in given if isinstance(one, tuple))
    numbers = tuple(one for one in given if isinstance(one, int))
    if numbers and len(numbers) == len(given):  # one text, as its tokens
        given = tokens = (numbers,)
    if not 0 < len(given) <= MAX_TEXTS or not all(given) or len(given) not in (len(texts), len(tokens)):
        raise RequestError(
            400,
            f"input takes 1 to {MAX_TEXTS} texts that are not empty, or as many lists of tokens",
            field="input",
            code="invalid_value",
        )
    return EmbeddingInput(texts, tokens)


def parse_size(size: str | None, field: str = "size") -> tuple[int | None, int | None]:
    """Width and height in pixels of "WxH"; None where nothing or "auto" is asked."""
    if size is None or size == "auto":
        return None, None
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", size)
    if match is None:
        raise RequestError(
            400, f"{field} must look like 512x512, not {size!r}", field=field, code="invalid_value"
        )
    return int(match[1]), int(match[2])


def check_edges(width: int | None, height: int | None, field: str) -> None:
    """Raise RequestError 400 for a size that cannot be drawn."""
    for edge in (width, height):
        within(edge, MIN_EDGE_PX, MAX_EDGE_PX, field)
        if edge is not None and edge % EDGE_MULTIPLE_PX:
            raise RequestError(
                400,
                f"{field}: {edge} is not a multiple of {EDGE_MULTIPLE_PX}",
                field=field,
                code="invalid_value",
            )


def image_input(asked: ImageJobInput, model: Model) -> ImageInput:
    need(model, "ImageGeneration")
    if len(asked.prompt) > MAX_PROMPT_CHARS:
        raise RequestError(400, "prompt is too long", field="prompt", code="invalid_value")
    within(asked.n, 1, MAX_PICTURES, "n")
    within(asked.num_inference_steps, 1, MAX_STEPS, "num_inference_steps")
    within(asked.guidance_scale, 0, MAX_GUIDANCE, "guidance_scale")
    within(asked.previews, 0, MAX_PREVIEWS, "previews")
    within(asked.seed, OFF, MAX_SEED, "seed")
    width, height = parse_size(asked.size)
    width = width if width is not None else asked.width
    height = height if height is not None else asked.height
    check_edges(width, height, "size" if asked.size else "width")

    def chosen(field: str, value: Any) -> Any:
        return model.defaults.get(field) if value is None else value

    return ImageInput(
        prompt=asked.prompt,
        negative_prompt=chosen("negative_prompt", asked.negative_prompt),
        n=asked.n,
        width=chosen("width", width),
        height=chosen("height", height),
        num_inference_steps=chosen("num_inference_steps", asked.num_inference_steps),
        guidance_scale=chosen("guidance_scale", asked.guidance_scale),
        previews=asked.previews,
        has_latents=asked.latents,
    )


def generation_input(asked: ImageGenerationRequest, model: Model) -> ImageInput:
    return image_input(
        ImageJobInput(
            prompt=asked.prompt,
            negative_prompt=asked.negative_prompt,
            n=asked.n,
            size=asked.size,
            num_inference_steps=asked.steps if asked.num_inference_steps is None else asked.num_inference_steps,
            guidance_scale=asked.cfg_scale if asked.guidance_scale is None else asked.guidance_scale,
            previews=_previews(asked),
            seed=asked.seed,
        ),
        model,
    )


def edit_input(asked: ImageEditRequest, model: Model) -> ImageInput:
    """The input of an edit without its pictures. Raises RequestError 400."""
    within(asked.strength, 0, 1, "strength")
    drawn = generation_input(asked, model)
    width, height = parse_size(asked.size)  # without one the picture's own size, not the model's, is kept
    parameters = {"strength": asked.strength} if asked.strength is not None else {}
    return msgspec.structs.replace(drawn, width=width, height=height, parameters=parameters)


def _previews(asked: ImageGenerationRequest) -> int:
    within(asked.partial_images, 0, MAX_PREVIEWS, "partial_images")
    return asked.partial_images if asked.stream else 0


def job_input(asked: JobRequest, model: Model) -> tuple[JobInput, int | None]:
    """The input of a job as its model needs it, and the seed it asks for."""
    if not -MAX_PRIORITY <= asked.priority <= MAX_PRIORITY:
        within(asked.priority, -MAX_PRIORITY, MAX_PRIORITY, "priority")
    for field in ("timeout_s", "deadline_s"):
        within(getattr(asked, field), 0.001, MAX_TIMEOUT_S, field)
    if model.function is not None:
        return function_input(asked.input, model), None
    if "Function" in model.features:
        call = _convert(asked.input, CallJobInput)
        return CallInput(call.args, call.kwargs), None
    if "TextGeneration" not in model.features and "ImageGeneration" in model.features:
        image = _convert(asked.input, ImageJobInput)
        return image_input(image, model), image.seed
    if "input" in asked.input and "TextEmbedding" in model.features:
        body = {"model": model.name, **asked.input}
        return embedding_input(_convert(body, EmbeddingRequest), model), None
    text = _convert(asked.input, TextJobInput)
    if (text.messages is None) == (text.prompt is None):
        raise RequestError(400, "input takes either messages or a prompt", field="input", code="invalid_value")
    body = {"model": model.name} | {k: v for k, v in asked.input.items() if v is not None}
    if text.messages is not None:
        return chat_input(_convert(body, ChatCompletionRequest), model), text.seed
    return completion_input(_convert(body, CompletionRequest), model), text.seed


def _convert(value: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise invalid(error, "input") from error


def admission_timeout_s(asked: JobRequest) -> float:
    return asked.timeout_s if asked.timeout_s is not None else DEFAULT_ADMISSION_TIMEOUT_S
