"""Answers that are held to a form: checked, asked for once more, and an error with a code where that fails too."""

from typing import Any

import pytest

from stoker.functions.output import OutputPart
from stoker.schemas.job_events import CallPart, TextOutput
from stoker.schemas.jobs import ChatInput
from stoker.schemas.openai import ChatMessage, Usage
from stoker.services.worker.engines.base import Emitter, EngineError, Request
from stoker.services.worker.engines.text.checking import CALL_CUT_OFF, CALL_FAILED, SCHEMA_NOT_MET, checked

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
BOUNDED = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 5}}, "required": ["n"]}
TOOL = {"type": "function", "function": {"name": "add", "parameters": NUMBER}}
GOOD = '{"name": "add", "arguments": {"n": 1}}'


def asked(schema: Any = None, **fields: Any) -> ChatInput:
    form = {"type": "json_schema", "json_schema": {"schema": schema}} if schema is not None else None
    return ChatInput((ChatMessage("user", "a number"),), response_format=form, **fields)


class Heard:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self.parts: list[CallPart] = []

    def text(self, text: str, tokens: int = 1, *, is_reasoning: bool = False, logprobs: Any = ()) -> None:
        self.texts.append(f"<{text}>" if is_reasoning else text)

    def calls(self, parts: tuple[CallPart, ...], tokens: int) -> None:
        self.parts += parts

    def step(self, step: int, steps: int) -> None: ...

    def preview(self, index: int, step: int, width: int, height: int, png: bytes) -> None: ...

    def printed(self, output: OutputPart) -> None: ...


class Model:
    """Says one text after another, and remembers what it was asked."""

    def __init__(self, *texts: str, reason: str = "stop", thinks: str = "", calls: Any = ()) -> None:
        self.texts = list(texts)
        self.reason = reason
        self.thinks = thinks
        self.calls = calls
        self.requests: list[Request] = []

    async def __call__(self, request: Request, emit: Emitter) -> TextOutput:
        self.requests.append(request)
        text = self.texts.pop(0)
        if self.thinks:
            emit.text(self.thinks, is_reasoning=True)
        for one in text:
            emit.text(one)
        return TextOutput(text, self.reason, Usage(10, len(text), 10 + len(text)), self.calls, self.thinks)


async def run(given: ChatInput, model: Model) -> tuple[TextOutput, list[str]]:
    heard = Heard()
    return await checked(Request("j", given, 7), heard, model), heard.texts


async def test_where_nothing_is_demanded_all_is_streamed() -> None:
    output, texts = await run(asked(), Model("hi"))
    assert (output.text, texts) == ("hi", ["h", "i"])


async def test_a_schema_that_grammars_hold_is_streamed_as_it_comes() -> None:
    output, texts = await run(asked(NUMBER), Model('{"n": 1}'))
    assert "".join(texts) == output.text == '{"n": 1}' and len(texts) > 1


async def test_what_was_streamed_and_does_not_fit_is_an_error_with_a_code() -> None:
    model = Model('{"n": "x"}')
    with pytest.raises(EngineError, match="n: ") as refused:
        await run(asked(NUMBER), model)
    assert (refused.value.code, refused.value.field) == (SCHEMA_NOT_MET, "response_format")
    assert len(model.requests) == 1


async def test_an_answer_that_does_not_fit_is_asked_for_once_more_and_told_why() -> None:
    model = Model('{"n": 3}', '{"n": 7}', thinks="hm")
    output, texts = await run(asked(BOUNDED), model)
    assert output.text == '{"n": 7}' and texts == ["<hm>", '{"n": 7}']  # what is wrong is never given
    again = model.requests[1]
    assert isinstance(again.input, ChatInput) and again.seed == 8
    _, said, correction = again.input.messages
    assert said.content == '{"n": 3}' and "minimum" in correction.text()
    assert output.usage == Usage(10, 16, 26) and output.reasoning == "hm"


async def test_two_answers_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(EngineError) as refused:
        await run(asked(BOUNDED), Model('{"n": 3}', "no"))
    assert refused.value.code == SCHEMA_NOT_MET


@pytest.mark.parametrize("schema", [NUMBER, BOUNDED])
async def test_what_was_cut_off_is_given_as_it_is(schema: Any) -> None:
    output, texts = await run(asked(schema), Model('{"n', reason="length"))
    assert output.text == "".join(texts) == '{"n'


async def test_json_mode_is_an_object() -> None:
    given = ChatInput((ChatMessage("user", "x"),), response_format={"type": "json_object"})
    assert (await run(given, Model("{}")))[0].text == "{}"
    with pytest.raises(EngineError):
        await run(given, Model("[]"))


async def test_nothing_of_a_demanded_call_is_streamed_as_text() -> None:
    output, texts = await run(asked(tools=(TOOL,), tool_choice="required"), Model(GOOD, thinks="let me see"))
    assert texts == ["<let me see>"]
    assert (output.text, output.finish_reason, output.reasoning) == ("", "tool_calls", "let me see")
    assert output.tool_calls[0]["function"] == {"name": "add", "arguments": '{"n":1}'}


async def test_a_demanded_call_is_asked_for_once_more() -> None:
    given = asked(tools=(TOOL,), tool_choice="required")
    output, _ = await run(given, Model("It is sunny.", GOOD))
    assert output.tool_calls[0]["function"]["name"] == "add"
    with pytest.raises(EngineError) as refused:
        await run(given, Model("It is sunny.", "Really."))
    assert (refused.value.code, refused.value.kind) == (CALL_FAILED, "fatal")


async def test_a_demanded_call_that_was_cut_off_is_the_clients_to_mend() -> None:
    with pytest.raises(EngineError) as refused:
        await run(asked(tools=(TOOL,), tool_choice="required"), Model('{"name"', reason="length"))
    assert (refused.value.code, refused.value.kind, refused.value.field) == (
        CALL_CUT_OFF,
        "validation",
        "max_tokens",
    )


async def test_a_call_in_the_engines_own_way_is_checked_too() -> None:
    given = asked(tools=(TOOL,), tool_choice="required")
    right = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"n": 1}'}}
    assert (await run(given, Model("", calls=(right,))))[0].tool_calls == (right,)
    wrong = right | {"function": {"name": "remove", "arguments": "{}"}}
    with pytest.raises(EngineError):
        await run(given, Model("", "", calls=(wrong,)))


async def test_a_model_that_calls_a_tool_owes_no_json() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    output, _ = await run(asked(BOUNDED, tools=(TOOL,)), Model("", calls=(call,)))
    assert output.tool_calls == (call,)
