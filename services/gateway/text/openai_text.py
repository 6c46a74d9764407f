"""Chats and completions in OpenAI's form. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from stoker.schemas import wire
from stoker.schemas.job_events import Delta, TextOutput
from stoker.schemas.jobs import Job
from stoker.schemas.openai import (
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChunkChoice,
    CompletionRequest,
    TextChoice,
    TextCompletion,
    Usage,
)
from stoker.services.gateway.edge.problems import RequestError, openai_error
from stoker.services.gateway.edge.sse import sse
from stoker.services.gateway.text.writing import CallsGiven, chat_logprobs, completion_logprobs

DONE = b"data: [DONE]\n\n"
MARK = "\ue000"
"""Stands where text will be, and nowhere behind it."""


def summed(outputs: Sequence[TextOutput], n: int = 1) -> Usage:
    """The tokens of several answers, `n` to each prompt."""
    if len(outputs) == 1:
        return outputs[0].usage
    prompt = sum(output.usage.prompt_tokens for output in outputs[::n])
    made = sum(output.usage.completion_tokens for output in outputs)
    return Usage(prompt, made, prompt + made, outputs[0].usage.prompt_tokens_details)


def chat_message(output: TextOutput) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": output.text, "refusal": None}
    if output.tool_calls:
        message |= {"tool_calls": output.tool_calls, "content": output.text or None}
    if output.reasoning:
        message |= {"reasoning_content": output.reasoning, "reasoning": output.reasoning}
    return message


def chat_answer(job: Job, asked: ChatCompletionRequest, outputs: Sequence[TextOutput]) -> ChatCompletion:
    choices = tuple(
        ChatChoice(
            index, chat_message(output), output.finish_reason, _chat_chances(output) if asked.logprobs else None
        )
        for index, output in enumerate(outputs)
    )
    return ChatCompletion(
        id=f"chatcmpl-{job.id}",
        created=int(job.created_at),
        model=asked.model,
        choices=choices,
        usage=summed(outputs, len(outputs)),
    )


def _chat_chances(output: TextOutput) -> dict[str, Any]:
    """Those of the answer: what a model has thought before it has none in OpenAI's form."""
    return chat_logprobs([one for one in output.logprobs if one.at >= len(output.reasoning)])


def completion_answer(job: Job, asked: CompletionRequest, outputs: Sequence[TextOutput]) -> TextCompletion:
    echoes = echoed(asked)
    choices: list[TextChoice] = []
    for index, output in enumerate(outputs):
        before = echoes[index // asked.n]
        chances = None
        if asked.logprobs is not None:
            chances = completion_logprobs(output.logprobs, len(before))
        text = before + output.reasoning + output.text
        choices.append(TextChoice(index, text, output.finish_reason, chances))
    return TextCompletion(
        id=f"cmpl-{job.id}",
        created=int(job.created_at),
        model=asked.model,
        choices=tuple(choices),
        usage=summed(outputs, asked.n),
    )


def echoed(asked: CompletionRequest) -> list[str]:
    """What stands before the answers of each prompt."""
    prompts = asked.prompt if isinstance(asked.prompt, tuple) else (asked.prompt,)
    if not asked.echo:
        return [""] * len(prompts)
    return [prompt if isinstance(prompt, str) else "" for prompt in prompts]


class _Chunks:
    """What both writers share. kind: what an answer's name begins with."""

    def __init__(self, job: Job, asked: ChatCompletionRequest | CompletionRequest, kind: str) -> None:
        self._id = f"{kind}-{job.id}"
        self._created = int(job.created_at)
        self._model = asked.model
        self._n = asked.n
        options = asked.stream_options
        self._include_usage = options is not None and options.include_usage
        self._usage = None if self._include_usage else msgspec.UNSET
        """Of a chunk in the middle: OpenAI says null where the last has it."""

    def error(self, error: RequestError) -> bytes:
        return sse(wire.encode(openai_error(error)), "error")

    def waiting(self, comment: bytes) -> bytes:
        return comment


class ChatWriter(_Chunks):
    """A chat as chunks."""

    def __init__(self, job: Job, asked: ChatCompletionRequest) -> None:
        super().__init__(job, asked, "chatcmpl")
        self._has_logprobs = bool(asked.logprobs)
        self._calls: dict[int, CallsGiven] = {}
        self._around: dict[int, tuple[bytes, bytes]] = {}

    def _chunk(
        self, index: int, delta: dict[str, Any], reason: str | None = None, chances: Any = None
    ) -> bytes:
        choice = ChunkChoice(index, delta, reason, chances)
        chunk = ChatCompletionChunk(self._id, self._created, self._model, (choice,), usage=self._usage)
        return sse(wire.encode(chunk))

    def _text(self, index: int, text: str) -> bytes:
        """A chunk of text alone: what stands around it is the same each time."""
        if index not in self._around:
            before, _, after = self._chunk(index, {"content": MARK}).rpartition(wire.encode(MARK))
            self._around[index] = before, after
        before, after = self._around[index]
        return b"".join((before, wire.encode(text), after))

    def opening(self, index: int) -> bytes:
        self._calls[index] = CallsGiven()
        return self._chunk(index, {"role": "assistant", "content": ""})

    def delta(self, index: int, delta: Delta) -> bytes:
        reasoning, text = delta.text[: delta.reasoning], delta.text[delta.reasoning :]
        written = b""
        if reasoning:
            written += self._chunk(index, {"reasoning_content": reasoning, "reasoning": reasoning})
        if text and self._has_logprobs:
            chances = chat_logprobs([one for one in delta.logprobs if one.at >= delta.at + delta.reasoning])
            written += self._chunk(index, {"content": text}, None, chances)
        elif text:
            written += self._text(index, text)
        for part in delta.calls:
            if (fragment := self._calls[index].fragment(part)) is not None:
                written += self._chunk(index, {"tool_calls": [fragment]})
        return written

    def ending(self, index: int, output: TextOutput) -> bytes:
        written = b""
        if fragments := self._calls[index].rest(output.tool_calls):
            written += self._chunk(index, {"tool_calls": fragments})
        return written + self._chunk(index, {}, output.finish_reason)

    def closing(self, outputs: Sequence[TextOutput]) -> bytes:
        if not self._include_usage:
            return DONE
        usage = summed(outputs, len(outputs))
        chunk = ChatCompletionChunk(self._id, self._created, self._model, (), usage=usage)
        return sse(wire.encode(chunk)) + DONE


class CompletionWriter(_Chunks):
    """A completion as chunks."""

    def __init__(self, job: Job, asked: CompletionRequest) -> None:
        super().__init__(job, asked, "cmpl")
        self._has_logprobs = asked.logprobs is not None
        self._echoes = echoed(asked)

    def _chunk(self, index: int, text: str, reason: str | None = None, chances: Any = None) -> bytes:
        choice = TextChoice(index, text, reason, chances)
        chunk = TextCompletion(self._id, self._created, self._model, (choice,), usage=self._usage)
        return sse(wire.encode(chunk))

    def opening(self, index: int) -> bytes:
        before = self._echoes[index // self._n]
        return self._chunk(index, before) if before else b""

    def delta(self, index: int, delta: Delta) -> bytes:
        if not delta.text:
            return b""
        offset = len(self._echoes[index // self._n]) + delta.at
        chances = completion_logprobs(delta.logprobs, offset) if self._has_logprobs else None
        return self._chunk(index, delta.text, None, chances)

    def ending(self, index: int, output: TextOutput) -> bytes:
        return self._chunk(index, "", output.finish_reason)

    def closing(self, outputs: Sequence[TextOutput]) -> bytes:
        if not self._include_usage:
            return DONE
        usage = summed(outputs, self._n)
        chunk = TextCompletion(self._id, self._created, self._model, (), usage=usage)
        return sse(wire.encode(chunk)) + DONE
