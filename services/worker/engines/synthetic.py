"""Sleeps and emits what it is told: for load tests and simulation, never a default.

Options of the model: `load_s`, `memory_bytes`, `tokens` (an answer's length where the request gives no
max_tokens, 16), `token_interval_s` (0: as fast as the wire takes them), `prefill_s`, `burst` (tokens handed
over at a time, 1), `crash` (end the process on a run), `step_s` (of a picture), `stubborn_s` (one step that
cannot be stopped), `hang_s` (hold up the whole process).
"""

import asyncio
import os
import time
from collections.abc import Iterator

from stoker.schemas.job_events import Picture, TextOutput
from stoker.schemas.jobs import ChatInput, CompletionInput, ImageInput, picture_seed
from stoker.schemas.openai import Usage
from stoker.schemas.workers import EngineCapability
from stoker.services.worker.engines.base import (
    Cancellation,
    Emitter,
    EngineError,
    Images,
    ModelFiles,
    Request,
    RunOutput,
    Stopped,
    wait_cancelled,
)

DEFAULT_TOKENS = 16
TOKENS_BETWEEN_LOOKS = 64
ONE_PIXEL_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


def _hold_up(seconds: float) -> None:
    """As a driver does that does not return."""
    time.sleep(seconds)


class _Steps:
    """The runs of all models with one interval make their tokens together, as those of a batch do: one timer,
    however many they are.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._waiting: list[asyncio.Future[None]] = []

    def next(self) -> "asyncio.Future[None]":
        """Done with the step that is under way, or with one that begins now."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_later(self._interval_s, self._end)
        step: asyncio.Future[None] = loop.create_future()
        self._waiting.append(step)
        return step

    def _end(self) -> None:
        ended, self._waiting = self._waiting, []
        for step in ended:
            if not step.done():
                step.set_result(None)


class _Run:
    """Waits for steps, and is woken when it is cancelled."""

    def __init__(self, steps: _Steps, cancelled: Cancellation) -> None:
        self._steps = steps
        self._cancelled = cancelled
        self._loop = asyncio.get_running_loop()
        self._step: asyncio.Future[None] | None = None
        cancelled.on_set(self._wake)

    async def step(self) -> None:
        """Raises Stopped."""
        self._step = self._steps.next()
        if not self._cancelled.is_set():
            await self._step
        if self._cancelled.is_set():
            raise Stopped

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._end_step)

    def _end_step(self) -> None:
        if self._step is not None and not self._step.done():
            self._step.set_result(None)


def words(count: int, start: int = 0) -> Iterator[str]:
    """The synthetic tokens: "t0 ", "t1 ", …"""
    return (f"t{index} " for index in range(start, count))


class SyntheticEngine:
    """See the file's opening."""

    def __init__(self, capability: EngineCapability) -> None:
        self.capability = capability
        self._options: dict[str, dict[str, object]] = {}
        self._steps: dict[float, _Steps] = {}

    def _number(self, model: str, option: str, default: float) -> float:
        value = self._options[model].get(option, default)
        if not isinstance(value, int | float):
            raise EngineError(f"option {option} of {model} must be a number, not {value!r}")
        return float(value)

    def load(self, files: ModelFiles) -> None:
        self._options[files.model] = files.options
        time.sleep(self._number(files.model, "load_s", 0.0))

    def unload(self, model: str) -> None:
        self._options.pop(model, None)

    def park(self, model: str) -> None:
        pass

    def unpark(self, model: str) -> None:
        pass

    def memory_bytes(self, model: str) -> int:
        return int(self._number(model, "memory_bytes", 1_000_000))

    async def run(self, model: str, request: Request, emit: Emitter, cancelled: Cancellation) -> RunOutput:
        if self._options[model].get("crash"):
            os._exit(13)
        if hang_s := self._number(model, "hang_s", 0.0):
            _hold_up(hang_s)
        if stubborn_s := self._number(model, "stubborn_s", 0.0):
            await asyncio.to_thread(time.sleep, stubborn_s)
            if cancelled.is_set():
                raise Stopped
        prefill_s = self._number(model, "prefill_s", 0.0)
        if prefill_s and await wait_cancelled(cancelled, prefill_s):
            raise Stopped
        match request.input:
            case ChatInput() | CompletionInput():
                return await self._text(model, request, request.input, emit, cancelled)
            case ImageInput():
                return await self._image(model, request.input, request.seed, emit, cancelled)
            case _:
                raise EngineError("the synthetic engine makes text and images only", "validation")

    async def _text(
        self,
        model: str,
        request: Request,
        asked: ChatInput | CompletionInput,
        emit: Emitter,
        cancelled: Cancellation,
    ) -> TextOutput:
        count = asked.max_tokens or int(self._number(model, "tokens", DEFAULT_TOKENS))
        interval_s = self._number(model, "token_interval_s", 0.0)
        burst = int(self._number(model, "burst", 1))
        text = request.sent_text
        run = _Run(self._steps.setdefault(interval_s, _Steps(interval_s)), cancelled) if interval_s else None
        pending, held = "", 0
        for index, word in enumerate(words(count, start=text.count(" "))):
            text += word
            if request.wants_events:
                pending, held = pending + word, held + 1
                if held >= burst:
                    emit.text(pending, held)
                    pending, held = "", 0
            if run is not None:
                await run.step()
            elif index % TOKENS_BETWEEN_LOOKS == TOKENS_BETWEEN_LOOKS - 1:
                await asyncio.sleep(0)
                if cancelled.is_set():
                    raise Stopped
        if held:
            emit.text(pending, held)
        return TextOutput(text=text, finish_reason="stop", usage=Usage(1, count, count + 1))

    async def _image(
        self, model: str, asked: ImageInput, seed: int, emit: Emitter, cancelled: Cancellation
    ) -> Images:
        steps = asked.num_inference_steps or 4
        for step in range(1, steps + 1):
            if await wait_cancelled(cancelled, self._number(model, "step_s", 0.0)):
                raise Stopped
            emit.step(step, steps)
        pictures = tuple(
            Picture(seed=picture_seed(seed, i), width=1, height=1, image_bytes=len(ONE_PIXEL_PNG))
            for i in range(asked.n)
        )
        return Images(pictures, (ONE_PIXEL_PNG,) * asked.n)


def create(capability: EngineCapability) -> SyntheticEngine:
    return SyntheticEngine(capability)
