"""Answers that a request demands a form of, held to it whatever the engine: calls of tools, and JSON schemas.

The engine constrains what the model writes as far as it can. What comes is checked always. Where it does not
fit, the model is told what is wrong and asked once more, within the same job; an answer that does not fit then
either is an error with a code, never text. An answer is held back until it is checked where its schema says
what a grammar may not hold; what is streamed at once cannot be asked for again.

An answer that was cut off (finish reason "length") is given as it is, as OpenAI does: but for demanded calls,
of which there is none then.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec

from stoker.functions.output import OutputPart
from stoker.schemas.job_events import CallPart, TextOutput, TokenChance
from stoker.schemas.jobs import ChatInput
from stoker.schemas.openai import ChatMessage, Usage
from stoker.services.process.json_schemas import JsonSchema
from stoker.services.worker.engines.base import Emitter, EngineError, Request
from stoker.services.worker.engines.text.forced_calls import ForcedCalls, Unmet

CALL_FAILED, CALL_CUT_OFF, SCHEMA_NOT_MET = "tool_call_failed", "tool_call_incomplete", "schema_not_met"
BEYOND_GRAMMARS = frozenset(
    (
        *("allOf", "contains", "dependentRequired", "dependentSchemas", "exclusiveMaximum", "exclusiveMinimum"),
        *("format", "if", "maxProperties", "maximum", "minProperties", "minimum", "multipleOf", "not", "oneOf"),
        *("pattern", "patternProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties"),
        "uniqueItems",
    )
)
"""Keywords that some engine's grammar does not hold, or holds in part."""
Run = Callable[[Request, Emitter], Awaitable[TextOutput]]


async def checked(request: Request, emit: Emitter, run: Run) -> TextOutput:
    """What `run` makes of a chat, in the form that the request demands. Raises EngineError."""
    asked = request.input
    assert isinstance(asked, ChatInput)
    demand = _Demand.of(asked)
    if demand is None:
        return await run(request, emit)
    holding = _Holding(emit, is_holding=demand.is_held_back)
    first = await run(request, holding)
    try:
        output = demand.met(first, request.job)
    except Unmet as unmet:
        if not demand.is_held_back:
            raise demand.failed(unmet) from unmet
        again = replace(request, input=_told(asked, first, unmet), seed=(request.seed + 1) % 2**32)
        second = await run(again, _Holding(emit, is_holding=True, is_silent=True))
        usage = _summed(first.usage, second.usage)
        second = msgspec.structs.replace(second, usage=usage, reasoning=first.reasoning)
        try:
            output = demand.met(second, request.job)
        except Unmet as still:
            raise demand.failed(still) from still
    if demand.is_held_back and output.text:
        emit.text(output.text, output.usage.completion_tokens, logprobs=output.logprobs)
    return output


class _Demand:
    """What a chat's answer must be: a call of these functions, or JSON of this schema."""

    def __init__(self, calls: ForcedCalls | None, schema: JsonSchema | None, *, is_held_back: bool) -> None:
        self._calls = calls
        self._schema = schema
        self.is_held_back = is_held_back

    @classmethod
    def of(cls, asked: ChatInput) -> "_Demand | None":
        if (forced := ForcedCalls.of(asked)) is not None:
            return cls(forced, None, is_held_back=True)
        given = asked.response_format or {}
        match given.get("type"):
            case "json_object":
                return cls(None, JsonSchema({"type": "object"}), is_held_back=False)
            case "json_schema":
                schema = given["json_schema"]["schema"]
                return cls(None, JsonSchema(schema), is_held_back=_says_more(schema))
        return None

    def met(self, output: TextOutput, job: str) -> TextOutput:
        """The answer in its form. Raises Unmet, EngineError for demanded calls that were cut off."""
        is_cut = output.finish_reason == "length"
        if self._calls is not None:
            try:
                calls = output.tool_calls or self._calls.calls(output.text, job)
                self._calls.check(calls)
            except Unmet:
                if is_cut:
                    raise _cut_off() from None
                raise
            return msgspec.structs.replace(output, text="", tool_calls=calls, finish_reason="tool_calls")
        if is_cut or output.tool_calls or self._schema is None:
            return output
        try:
            said = msgspec.json.decode(output.text)
        except msgspec.DecodeError as error:
            raise Unmet(f"it is no JSON: {error}") from error
        misfit = self._schema.misfit(said)
        if misfit is not None:
            raise Unmet(f"{misfit.field}: {misfit.message}" if misfit.field else misfit.message)
        return output

    def failed(self, unmet: Unmet) -> EngineError:
        if self._calls is not None:
            message = f"the model has made no call that tool_choice demands: {unmet}"
            return EngineError(message, code=CALL_FAILED, field="tool_choice")
        message = f"the model's answer does not fit the schema: {unmet}"
        return EngineError(message, code=SCHEMA_NOT_MET, field="response_format")


def _cut_off() -> EngineError:
    message = "the answer ended before the call that tool_choice demands was complete: raise max_tokens"
    return EngineError(message, "validation", code=CALL_CUT_OFF, field="max_tokens")


def _says_more(schema: Any) -> bool:
    """Whether a schema has a keyword that grammars may not hold."""
    if isinstance(schema, dict):
        return bool(BEYOND_GRAMMARS & schema.keys()) or any(_says_more(one) for one in schema.values())
    return isinstance(schema, list | tuple) and any(_says_more(one) for one in schema)


def _told(asked: ChatInput, first: TextOutput, unmet: Unmet) -> ChatInput:
    """The same chat, with the answer that does not fit and what is wrong with it."""
    said = first.text or msgspec.json.encode([call["function"] for call in first.tool_calls]).decode()
    correction = f"This answer is not valid: {unmet}. Give the whole answer again, mended."
    turns = (ChatMessage("assistant", said), ChatMessage("user", correction))
    return msgspec.structs.replace(asked, messages=(*asked.messages, *turns))


def _summed(first: Usage, second: Usage) -> Usage:
    """The prompt of the client, and all tokens that were made."""
    made = first.completion_tokens + second.completion_tokens
    return Usage(first.prompt_tokens, made, first.prompt_tokens + made, first.prompt_tokens_details)


class _Holding:
    """An emitter that holds back the answer. is_silent: what was thought before it too."""

    def __init__(self, emit: Emitter, *, is_holding: bool, is_silent: bool = False) -> None:
        self._emit = emit
        self._is_holding = is_holding
        self._is_silent = is_silent

    def text(
        self, text: str, tokens: int = 1, *, is_reasoning: bool = False, logprobs: tuple[TokenChance, ...] = ()
    ) -> None:
        if self._is_silent or (self._is_holding and not is_reasoning):
            return
        self._emit.text(text, tokens, is_reasoning=is_reasoning, logprobs=logprobs)

    def calls(self, parts: tuple[CallPart, ...], tokens: int) -> None:
        if not self._is_holding:
            self._emit.calls(parts, tokens)

    def step(self, step: int, steps: int) -> None:
        self._emit.step(step, steps)

    def preview(self, index: int, step: int, width: int, height: int, png: bytes) -> None:
        self._emit.preview(index, step, width, height, png)

    def printed(self, output: OutputPart) -> None:
        self._emit.printed(output)

    def drawn(self, kept: int, read: int) -> None:
        self._emit.drawn(kept, read)
