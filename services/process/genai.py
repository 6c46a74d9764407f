"""What spans of text requests say in the words of OpenTelemetry's semantic conventions for generative AI. Pure.

Names are those of the conventions. Usage stands in the span `run` of the worker alone, so that who sums it up
counts every token once.
"""

from typing import Any

from stoker.schemas.job_events import (
    Cancelled,
    Completed,
    EmbeddingOutput,
    Expired,
    Failed,
    Output,
    Terminal,
    TextOutput,
)
from stoker.schemas.jobs import ChatInput, CompletionInput, EmbeddingInput, JobInput

Attributes = dict[str, Any]
PROVIDER = "stoker"
TIME_TO_FIRST_TOKEN = "gen_ai.server.time_to_first_token"
"""Seconds: of the gateway from accepting the request, of a worker from beginning to run."""
ERROR_TYPE = "error.type"
OPERATIONS: dict[type, str] = {
    ChatInput: "chat",
    CompletionInput: "text_completion",
    EmbeddingInput: "embeddings",
}


def asked(model: str, asked_for: JobInput) -> Attributes:
    """What is asked; nothing for what is no text."""
    operation = OPERATIONS.get(type(asked_for))
    if operation is None:
        return {}
    found: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model,
    }
    if isinstance(asked_for, ChatInput | CompletionInput):
        chosen = {
            "max_tokens": asked_for.max_tokens,
            "temperature": asked_for.sampling.temperature,
            "top_p": asked_for.sampling.top_p,
        }
        found |= {f"gen_ai.request.{name}": value for name, value in chosen.items() if value is not None}
    return found


def made(model: str, output: Output) -> Attributes:
    """What came of it: the model, why it ended, and its usage."""
    match output:
        case TextOutput():
            return {
                "gen_ai.response.model": model,
                "gen_ai.response.finish_reasons": [output.finish_reason],
                "gen_ai.usage.input_tokens": output.usage.prompt_tokens,
                "gen_ai.usage.output_tokens": output.usage.completion_tokens,
            }
        case EmbeddingOutput():
            return {"gen_ai.response.model": model, "gen_ai.usage.input_tokens": output.prompt_tokens}
    return {}


def ended(event: Terminal) -> Attributes:
    """How a request ended, for who waited for it."""
    match event:
        case Completed(output=TextOutput() as output):
            return {"gen_ai.response.finish_reasons": [output.finish_reason]}
        case Failed():
            return {ERROR_TYPE: event.code or event.kind}
        case Cancelled():
            return {ERROR_TYPE: "cancelled"}
        case Expired():
            return {ERROR_TYPE: "expired"}
    return {}
