"""What every engine must do, as a test class that the tests of each engine inherit.

An engine says how it is set up (`files`, `bad`, `quick`, `long`), and passes all of it: output, seeds, cancelling in every
state, bad files, wrong inputs, unloading, memory, parking and LoRAs where it has them.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from stoker.functions.output import OutputPart
from stoker.schemas.job_events import EmbeddingOutput, TextOutput, ValueOutput
from stoker.schemas.jobs import JobInput, LoadInput
from stoker.services.worker.engines.base import (
    Cancellation,
    Engine,
    EngineError,
    Files,
    Images,
    ModelFiles,
    Parks,
    Request,
    RunOutput,
    Stopped,
)
from stoker.services.worker.engines.registry import create

STOP_WITHIN_S = 60.0


class Emitted:
    """What a run emits; `first` is set with the first of it."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.tokens: list[int] = []
        self.steps: list[tuple[int, int]] = []
        self.first = threading.Event()

    def text(self, text: str, tokens: int = 1, *, is_reasoning: bool = False, logprobs: Any = ()) -> None:
        self.texts.append(text)
        self.tokens.append(tokens)
        self.first.set()

    def calls(self, parts: Any, tokens: int) -> None: ...

    def step(self, step: int, steps: int) -> None:
        self.steps.append((step, steps))
        self.first.set()

    def preview(self, index: int, step: int, width: int, height: int, png: bytes) -> None:
        assert png.startswith(b"\x89PNG")

    def printed(self, output: OutputPart) -> None: ...

    def drawn(self, kept: int, read: int) -> None: ...


def essence(output: RunOutput) -> object:
    """What must be the same for the same seed."""
    match output:
        case TextOutput(text=text, finish_reason=reason):
            return text, reason
        case EmbeddingOutput(vectors=vectors):
            return vectors
        case Images(images=images):
            return images
        case Files(output=value, contents=contents):
            return value.value, contents
        case ValueOutput(value=value):
            return value


class EngineConformance:
    """Subclasses set `engine_name`, and give what the methods below ask for."""

    engine_name: ClassVar[str]
    takes_weights: ClassVar[bool] = True
    """Whether there are weights: they take memory, and their file may be bad."""
    is_cancelled_between_steps: ClassVar[bool] = True
    """Whether a run that goes on can be cancelled; an engine that calls plain functions cannot."""

    def files(self, folder: Path) -> ModelFiles:
        """A model that loads, under the name it must have."""
        raise NotImplementedError

    def bad(self, folder: Path) -> ModelFiles:
        """The same with weights that are none."""
        raise NotImplementedError

    def quick(self) -> JobInput:
        """A run that is over in a moment."""
        raise NotImplementedError

    def long(self) -> JobInput:
        """A run that takes seconds, and emits something in the meantime."""
        raise NotImplementedError

    # The tests ------------------------------------------------------------------------------------

    @pytest.fixture
    def loaded(self, tmp_path: Path) -> Iterator[tuple[Engine, str]]:
        """A loaded model. It is unloaded afterwards: a server of a model would go on for the tests to come."""
        engine, files = create(self.engine_name), self.files(tmp_path)
        engine.load(files)
        yield engine, files.model
        engine.unload(files.model)

    @staticmethod
    async def run(
        engine: Engine,
        model: str,
        asked: JobInput,
        seed: int = 7,
        cancelled: Cancellation | None = None,
        emitted: Emitted | None = None,
        **request: Any,
    ) -> RunOutput:
        found = Request("job", asked, seed, title=model, wants_events=True, **request)
        return await engine.run(model, found, emitted or Emitted(), cancelled or Cancellation())

    async def test_it_gives_output_and_the_same_for_the_same_seed(self, loaded: tuple[Engine, str]) -> None:
        engine, model = loaded
        first = essence(await self.run(engine, model, self.quick()))
        again = essence(await self.run(engine, model, self.quick()))
        assert first
        assert first == again

    async def test_it_goes_on_after_what_was_sent_as_if_it_had_been_one_run(
        self, loaded: tuple[Engine, str]
    ) -> None:
        engine, model = loaded
        emitted = Emitted()
        whole = await self.run(engine, model, self.quick(), emitted=emitted)
        if not isinstance(whole, TextOutput):
            pytest.skip("it makes no text")
        made = sum(emitted.tokens)
        assert ("".join(emitted.texts), made) == (whole.text, whole.usage.completion_tokens)
        for count in range(1, len(emitted.texts) + 1):
            sent, more = "".join(emitted.texts[:count]), Emitted()
            tokens = sum(emitted.tokens[:count])
            output = await self.run(
                engine, model, self.quick(), emitted=more, sent_text=sent, sent_tokens=tokens
            )
            assert isinstance(output, TextOutput)
            usage = msgspec.structs.replace(
                output.usage, prompt_tokens_details=whole.usage.prompt_tokens_details
            )
            assert msgspec.structs.replace(output, usage=usage) == whole, "but for what the engine had cached"
            assert sent + "".join(more.texts) == whole.text
            assert tokens + sum(more.tokens) == made

    async def test_cancelled_before_it_runs_it_stops_at_once(self, loaded: tuple[Engine, str]) -> None:
        engine, model = loaded
        cancelled = Cancellation()
        cancelled.set()
        began = time.monotonic()
        with pytest.raises(Stopped):
            await self.run(engine, model, self.long(), cancelled=cancelled)
        assert time.monotonic() - began < STOP_WITHIN_S

    async def test_cancelled_while_it_runs_it_stops_and_the_next_run_is_whole(
        self, loaded: tuple[Engine, str]
    ) -> None:
        if not self.is_cancelled_between_steps:
            pytest.skip("its runs cannot be interrupted")
        engine, model = loaded
        whole = essence(await self.run(engine, model, self.quick()))
        cancelled, emitted = Cancellation(), Emitted()

        async def cancel_soon() -> None:
            await asyncio.to_thread(emitted.first.wait, STOP_WITHIN_S)
            cancelled.set()

        began = time.monotonic()
        with pytest.raises(Stopped):
            async with asyncio.TaskGroup() as group:
                group.create_task(cancel_soon())
                run = group.create_task(self._stopped(engine, model, cancelled, emitted))
            raise run.result()
        assert time.monotonic() - began < STOP_WITHIN_S
        assert emitted.first.is_set(), "it had begun"
        assert essence(await self.run(engine, model, self.quick())) == whole

    async def _stopped(
        self, engine: Engine, model: str, cancelled: Cancellation, emitted: Emitted
    ) -> BaseException:
        try:
            await self.run(engine, model, self.long(), cancelled=cancelled, emitted=emitted)
        except Stopped as stopped:
            return stopped
        return AssertionError("it was not stopped")

    async def test_cancelled_after_it_has_run_nothing_happens(self, loaded: tuple[Engine, str]) -> None:
        engine, model = loaded
        cancelled = Cancellation()
        output = await self.run(engine, model, self.quick(), cancelled=cancelled)
        cancelled.set()
        assert essence(output) == essence(await self.run(engine, model, self.quick()))

    async def test_an_input_of_another_kind_is_the_callers_fault(self, loaded: tuple[Engine, str]) -> None:
        engine, model = loaded
        with pytest.raises(EngineError) as raised:
            await self.run(engine, model, LoadInput())
        assert raised.value.kind == "validation"
        assert essence(await self.run(engine, model, self.quick())), "and nobody else is harmed"

    async def test_as_many_run_at_once_as_it_has_slots(self, loaded: tuple[Engine, str]) -> None:
        engine, model = loaded
        count = min(engine.capability.slots, 4)
        runs = [self.run(engine, model, self.quick()) for _ in range(count)]
        outputs = [essence(output) for output in await asyncio.gather(*runs)]
        assert len(outputs) == count
        assert all(outputs)

    async def test_unloading_frees_the_model_and_it_can_be_loaded_again(
        self, loaded: tuple[Engine, str], tmp_path: Path
    ) -> None:
        engine, model = loaded
        before = essence(await self.run(engine, model, self.quick()))
        engine.unload(model)
        with pytest.raises((EngineError, KeyError)):
            await self.run(engine, model, self.quick())
        engine.load(self.files(tmp_path))
        assert essence(await self.run(engine, model, self.quick())) == before

    def test_unloading_what_is_not_there_is_harmless(self, loaded: tuple[Engine, str]) -> None:
        engine, model = loaded
        engine.unload("nobody")
        engine.unload(model)
        engine.unload(model)
        assert engine.capability.slots > 0

    def test_memory_is_said_in_bytes(self, loaded: tuple[Engine, str]) -> None:
        engine, model = loaded
        assert engine.memory_bytes(model) >= (1000 if self.takes_weights else 0)
        assert isinstance(engine.memory_bytes(model), int)

    def test_a_bad_file_is_said_by_its_name(self, tmp_path: Path) -> None:
        engine = create(self.engine_name)
        files = self.bad(tmp_path)
        with pytest.raises(EngineError) as raised:
            engine.load(files)
        named = files.path.name if self.takes_weights else files.model
        assert named in str(raised.value)
        assert raised.value.kind in ("load_failed", "fatal", "auth", "retryable")
        engine.load(self.files(tmp_path))  # and a good one loads afterwards
        engine.unload(self.files(tmp_path).model)

    async def test_parked_weights_come_back_as_they_were(self, loaded: tuple[Engine, str]) -> None:
        engine, model = loaded
        if not isinstance(engine, Parks):
            pytest.skip("it does not park")
        before = essence(await self.run(engine, model, self.quick()))
        for _ in range(2):
            engine.park(model)
            engine.unpark(model)
        assert essence(await self.run(engine, model, self.quick())) == before
        engine.park(model)
        engine.unload(model)
