"""Engines of users' functions: what a handler or a project does wrong fails that job alone, with a kind and a reason."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.functions.messages import Call
from stoker.functions.output import OutputPart
from stoker.schemas.job_events import ValueOutput
from stoker.schemas.jobs import CallInput, FunctionInput, JobInput, LoadInput
from stoker.services.worker.engines.base import (
    Cancellation,
    Content,
    EngineError,
    Files,
    ModelFiles,
    Request,
    Stopped,
)
from stoker.services.worker.engines.functions.custom import CustomEngine, allowed_handlers
from stoker.services.worker.engines.functions.function import FunctionEngine, _ended
from stoker.services.worker.engines.functions.function_host import HostDied, HostProcess
from stoker.services.worker.engines.registry import CAPABILITIES, ENGINES, HANDLERS_VARIABLE, create
from tests.waiting import eventually

HERE = __name__


class Heard:
    """An emitter that keeps what it hears."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def text(self, text: str, tokens: int = 1, *, is_reasoning: bool = False, logprobs: Any = ()) -> None:
        self.said.append(text)

    def calls(self, parts: Any, tokens: int) -> None: ...

    def step(self, step: int, steps: int) -> None:
        self.said.append((step, steps))

    def preview(self, index: int, step: int, width: int, height: int, png: bytes) -> None: ...

    def printed(self, output: OutputPart) -> None: ...


def add(a: int, b: int = 1) -> int:
    return a + b


async def add_later(a: int, b: int = 1) -> int:
    await asyncio.sleep(0)
    return a + b


def fails() -> None:
    raise KeyError("x")


def leaves() -> None:
    raise SystemExit(3)


def gives(kind: str) -> Any:
    loop: list[Any] = []
    loop.append(loop)
    return {"object": object(), "surrogate": "\ud800", "loop": loop, "key": {(1, 2): 3}}[kind]


NOT_CALLABLE = 3


def handler(monkeypatch: pytest.MonkeyPatch, name: str) -> CustomEngine:
    monkeypatch.setenv(HANDLERS_VARIABLE, f" other:f, {name} ,,")
    engine = CustomEngine(CAPABILITIES["custom"])
    engine.load(ModelFiles(name, Path(), {}))
    return engine


async def called(
    engine: Any, name: str, asked: JobInput, cancelled: Cancellation | None = None, emit: Any = None
) -> Any:
    request = Request("job", asked, seed=1)
    return await engine.run(name, request, emit or Heard(), cancelled or Cancellation())


@pytest.mark.parametrize("function", ["add", "add_later"])
async def test_a_handler_is_called_with_its_arguments(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    name = f"{HERE}:{function}"
    engine = handler(monkeypatch, name)
    assert await called(engine, name, CallInput((2,), {"b": 5})) == ValueOutput(7)
    assert engine.memory_bytes(name) == 0
    engine.unload(name)
    engine.unload(name)


async def test_a_handler_without_a_signature_is_called_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = handler(monkeypatch, "builtins:max")
    assert await called(engine, "builtins:max", CallInput((2, 5, 3))) == ValueOutput(5)


@pytest.mark.parametrize(
    ("function", "asked", "kind", "says"),
    [
        ("add", CallInput(), "validation", "missing a required argument: 'a'"),
        ("add", CallInput((1, 2, 3)), "validation", "too many positional arguments"),
        ("add", CallInput((1,), {"c": 1}), "validation", "unexpected keyword argument 'c'"),
        ("add", LoadInput(), "validation", "a handler takes args and kwargs"),
        ("add", CallInput(("x",)), "fatal", "raised TypeError"),
        ("fails", CallInput(), "fatal", "raised KeyError: 'x'"),
        ("leaves", CallInput(), "fatal", "raised SystemExit: 3"),
        ("gives", CallInput(("object",)), "fatal", "returned what is not JSON"),
        ("gives", CallInput(("surrogate",)), "fatal", "returned what is not JSON"),
        ("gives", CallInput(("loop",)), "fatal", "returned what is not JSON"),
        ("gives", CallInput(("key",)), "fatal", "returned what is not JSON"),
    ],
)
async def test_what_a_handler_does_wrong_fails_its_job(
    monkeypatch: pytest.MonkeyPatch, function: str, asked: JobInput, kind: str, says: str
) -> None:
    name = f"{HERE}:{function}"
    engine = handler(monkeypatch, name)
    with pytest.raises(EngineError, match=says) as failed:
        await called(engine, name, asked)
    assert failed.value.kind == kind


async def test_the_result_of_a_cancelled_handler_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, cancelled = handler(monkeypatch, f"{HERE}:gives"), Cancellation()
    cancelled.set()
    with pytest.raises(Stopped):
        await called(engine, f"{HERE}:gives", CallInput(("object",)), cancelled)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_module:f", "cannot be imported"),
        (f"{HERE}:nothing", "cannot be imported"),
        (f"{HERE}:NOT_CALLABLE", "is not a function"),
    ],
)
def test_a_handler_that_is_not_there_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    with pytest.raises(EngineError, match=says) as failed:
        handler(monkeypatch, name)
    assert failed.value.kind == "load_failed"


def test_what_is_not_on_the_list_is_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = handler(monkeypatch, f"{HERE}:add")
    with pytest.raises(
        EngineError, match=r"os:system is not on this worker's allow list \(--handlers\)"
    ) as failed:
        engine.load(ModelFiles("os:system", Path(), {}))
    assert failed.value.kind == "auth"
    assert allowed_handlers() == ("other:f", f"{HERE}:add")
    monkeypatch.delenv(HANDLERS_VARIABLE)
    assert allowed_handlers() == ()


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (-9, "resource", r"signal 9 \(out of memory\?\)"),
        (-11, "resource", r"signal 11 \(it crashed\)"),
        (3, "fatal", "with status 3"),
        (None, "fatal", "status None"),
    ],
)
def test_how_a_process_ended_is_told(status: int | None, kind: str, says: str) -> None:
    error = _ended(status)
    assert error.kind == kind
    with pytest.raises(EngineError, match=says):
        raise error


def test_every_engine_has_a_capability_and_an_unknown_one_is_an_error() -> None:
    assert ENGINES.keys() == CAPABILITIES.keys()
    with pytest.raises(EngineError, match="unknown engine 'vlllm'; there are custom, diffusers"):
        create("vlllm")


PROJECT = """
import os
from collections.abc import Iterator
import msgspec
from stoker import ActionContext, FileRef, worker_function

class P(msgspec.Struct):
    n: int = 0
class F(msgspec.Struct):
    file: FileRef

@worker_function()
def double(ctx: ActionContext, payload: P) -> P:
    ctx.progress(1, 2)
    return P(payload.n * 2)
@worker_function()
def count(ctx: ActionContext, payload: P) -> Iterator[P]:
    yield from map(P, range(payload.n))
@worker_function()
def saves(ctx: ActionContext, payload: P) -> F:
    return F(ctx.save_file(b"abc", "x.txt"))
@worker_function()
def waits(ctx: ActionContext, payload: P) -> P:
    ctx.progress(1, 2)
    ctx.wait_cancelled(60)
    ctx.raise_if_cancelled()
    return payload
@worker_function()
def leaves(ctx: ActionContext, payload: P) -> P:
    os._exit(3)
@worker_function()
def raises(ctx: ActionContext, payload: P) -> P:
    raise KeyError(payload.n)
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FunctionEngine]:
    folder = tmp_path_factory.mktemp("project")
    (folder / "app.py").write_text(PROJECT)
    found = FunctionEngine(CAPABILITIES["function"])
    for name in ("double", "count"):
        found.load(ModelFiles(name, Path(), {"project": str(folder)}))
    yield found
    for name in ("double", "count", "count"):
        found.unload(name)


async def test_a_function_of_a_project_runs_in_its_host(engine: FunctionEngine) -> None:
    heard = Heard()
    assert await called(engine, "double", FunctionInput("double", {"n": 4}), emit=heard) == ValueOutput(
        {"n": 8}
    )
    assert heard.said == [(1, 2)]
    assert engine.memory_bytes("double") == 0


async def test_results_of_a_stream_come_as_lines_and_together(engine: FunctionEngine) -> None:
    heard = Heard()
    found = await called(engine, "count", FunctionInput("count", {"n": 3}), emit=heard)
    assert found == ValueOutput([{"n": 0}, {"n": 1}, {"n": 2}])
    assert heard.said == ['{"n":0}\n', '{"n":1}\n', '{"n":2}\n']


async def test_files_come_with_the_result(engine: FunctionEngine) -> None:
    found = await called(engine, "double", FunctionInput("saves", {}))
    assert isinstance(found, Files)
    assert found.contents == (Content(b"abc"),)
    assert found.output.value["file"]["url"] == "/v1/jobs/job/files/0"


@pytest.mark.parametrize(
    ("function", "payload", "kind", "says"),
    [
        ("double", {"n": "x"}, "validation", "Expected `int`, got `str`"),
        ("raises", {"n": 7}, "fatal", "KeyError: 7"),
        ("leaves", {}, "fatal", "ended its process with status 3"),
        ("double", {"n": []}, "validation", "Expected `int`, got `array`"),
    ],
)
async def test_what_a_function_does_wrong_fails_its_call_and_the_next_one_runs(
    engine: FunctionEngine, function: str, payload: dict[str, Any], kind: str, says: str
) -> None:
    with pytest.raises(EngineError, match=says) as failed:
        await called(engine, "double", FunctionInput(function, payload))
    assert failed.value.kind == kind
    await eventually(lambda: called(engine, "double", FunctionInput("double", {"n": 1})))


async def test_a_call_that_is_cancelled_stops(engine: FunctionEngine) -> None:
    cancelled, heard = Cancellation(), Heard()
    running = asyncio.create_task(called(engine, "double", FunctionInput("waits", {}), cancelled, heard))
    await eventually(lambda: heard.said)
    cancelled.set()
    with pytest.raises(Stopped):
        await running


async def test_a_function_takes_a_payload_and_nothing_else(engine: FunctionEngine) -> None:
    with pytest.raises(EngineError, match="a function takes a payload"):
        await called(engine, "double", CallInput())


@pytest.mark.timeout(30)
async def test_nobody_waits_for_a_host_that_has_ended(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROJECT)
    host = HostProcess(str(tmp_path))
    host.kill()
    await eventually(lambda: host.is_dead)
    done = threading.Event()

    def ask() -> None:
        with pytest.raises(EngineError, match="the process ended while it loaded key"):
            host.load("key", tmp_path, "m:K")
        host.unload("key")
        done.set()

    threading.Thread(target=ask, daemon=True).start()
    await eventually(done.is_set, 10, "a load of a dead host")
    _, answer = host.call(Call("", "job", "double", {}), lambda message: None)
    with pytest.raises(HostDied):
        answer.result(10)


def test_a_project_that_cannot_be_imported_is_no_host(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("1 / 0\n")
    with pytest.raises(EngineError, match="ZeroDivisionError") as failed:
        HostProcess(str(tmp_path))
    assert failed.value.kind == "load_failed"


async def test_a_project_that_ends_the_process_while_it_is_imported_fails_the_load_and_its_calls(
    engine: FunctionEngine, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text("import os\nos._exit(7)\n")
    with pytest.raises(EngineError, match=r"the process ended while it was imported \(status 7\)") as failed:
        engine.load(ModelFiles("ends", Path(), {"project": str(tmp_path)}))
    assert failed.value.kind == "load_failed"
    (tmp_path / "app.py").write_text(PROJECT)
    engine.load(ModelFiles("later", Path(), {"project": str(tmp_path)}))
    (tmp_path / "app.py").write_text("import os\nos._exit(7)\n")
    with pytest.raises(EngineError, match="ended its process with status 3"):
        await called(engine, "later", FunctionInput("leaves", {}))
    with pytest.raises(EngineError, match="ended its process with status 7"):
        await eventually(lambda: called(engine, "later", FunctionInput("double", {"n": 1})))
    engine.unload("later")
