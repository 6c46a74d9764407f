"""What calls do to their host process: every call has one end, its output is bounded, nothing of it stays."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.functions.output import OutputLog, OutputPart
from stoker.schemas.job_events import ValueOutput
from stoker.schemas.jobs import FunctionInput
from stoker.services.worker.engines.base import (
    Cancellation,
    EngineError,
    ModelFiles,
    Request,
    RunOutput,
    Stopped,
)
from stoker.services.worker.engines.functions.function import FunctionEngine
from stoker.services.worker.engines.functions.function_host import HostProcess
from stoker.services.worker.engines.registry import CAPABILITIES
from tests.fixtures.faults import FAULTS
from tests.waiting import eventually


class Listening:
    """An emitter that keeps what is printed."""

    def __init__(self) -> None:
        self.log = OutputLog()

    def text(self, text: str, tokens: int = 1, *, is_reasoning: bool = False, logprobs: Any = ()) -> None: ...

    def calls(self, parts: Any, tokens: int) -> None: ...

    def step(self, step: int, steps: int) -> None: ...

    def preview(self, index: int, step: int, width: int, height: int, png: bytes) -> None: ...

    def printed(self, output: OutputPart) -> None:
        self.log.add_part(output)

    @property
    def printed_text(self) -> str:
        part = self.log.part()
        return (part.head + part.tail).decode()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FunctionEngine]:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "app.py").write_text(FAULTS)
    found = FunctionEngine(CAPABILITIES["function"])
    found.load(ModelFiles("fail", Path(), {"project": str(folder)}))
    yield found
    found.unload("fail")


async def run(
    engine: FunctionEngine,
    kind: str,
    said: str = "m",
    *,
    function: str = "fail",
    heard: Listening | None = None,
    cancelled: Cancellation | None = None,
) -> RunOutput:
    asked = Request("job", FunctionInput(function, {"kind": kind, "said": said}), seed=1)
    return await engine.run("fail", asked, heard or Listening(), cancelled or Cancellation())


async def value(engine: FunctionEngine, kind: str, **named: Any) -> str:
    found = await run(engine, kind, **named)
    assert isinstance(found, ValueOutput)
    text: str = found.value["text"]
    return text


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("kind", "failure", "says"),
    [
        ("ValidationError", "validation", "m"),
        ("ValueError", "validation", "ValueError: m"),
        ("UnicodeDecodeError", "fatal", "UnicodeDecodeError"),
        ("RetryableError", "retryable", "m"),
        ("ResourceError", "resource", "m"),
        ("AuthError", "auth", "m"),
        ("FatalError", "fatal", "m"),
        ("MemoryError", "resource", "MemoryError: m"),
        ("KeyboardInterrupt", "fatal", "KeyboardInterrupt"),
        ("SystemExit", "fatal", "SystemExit"),
        ("GeneratorExit", "fatal", "GeneratorExit"),
        ("StopIteration", "fatal", "raised StopIteration"),
        ("CancelledError", "fatal", "raised CancelledError"),
        ("surrogate", "fatal", r"\\udcff"),
        ("broken message", "fatal", "Broken, whose message raised ZeroDivisionError"),
        ("recursion", "fatal", "RecursionError"),
        ("input", "fatal", "EOFError"),
        ("os._exit", "fatal", "status 3"),
        ("segfault", "resource", "signal 11"),
        ("nan", "fatal", r"at inner\[1\]\.number \(nan\) that JSON has not"),
        ("surrogate result", "fatal", "surrogates not allowed"),
        ("fork and crash", "resource", "signal 11"),
    ],
)
@pytest.mark.timeout(20)
async def test_every_call_has_one_end_within_two_seconds(
    engine: FunctionEngine, kind: str, failure: str, says: str
) -> None:
    await value(engine, "fine")
    began = time.monotonic()
    with pytest.raises(EngineError, match=says) as failed:
        await run(engine, kind)
    assert failed.value.kind == failure
    assert time.monotonic() - began < 2.0
    assert await value(engine, "fine") == "fine"


async def test_a_function_that_is_gone_and_a_model_that_is_not_loaded_end_the_call(
    engine: FunctionEngine,
) -> None:
    with pytest.raises(EngineError, match="no longer has a function 'removed'"):
        await run(engine, "x", function="removed")
    asked = Request("job", FunctionInput("fail", {"kind": "fine"}, {"m": "nowhere"}), seed=1)
    with pytest.raises(EngineError, match="'nowhere' is not loaded in this process"):
        await engine.run("fail", asked, Listening(), Cancellation())


async def test_what_a_call_prints_is_its_own_bounded_log(engine: FunctionEngine) -> None:
    heard, other = Listening(), Listening()
    await run(engine, "print", "20000", heard=heard)
    part = heard.log.part()
    assert part.head.startswith(b"line 0\nline 1\n")
    assert part.tail.endswith(b"line 19998\nline 19999\n")
    assert part.dropped_lines == 20000 - part.head.count(b"\n") - part.tail.count(b"\n")
    await run(engine, "stderr", heard=other)
    assert (len(other.log.part().head), other.log.part().dropped_bytes) == (32 * 1024, 5_000_000 - 64 * 1024)


async def test_what_children_and_descriptors_print_is_in_the_log_too(engine: FunctionEngine) -> None:
    for _ in range(20):  # it comes by a pipe of its own, and is there all the same when the call has ended
        heard = Listening()
        await run(engine, "system", heard=heard)
        assert "hello from a child" in heard.printed_text
    heard = Listening()
    await run(engine, "log", heard=heard)
    assert heard.printed_text == "INFO stoker.function by ctx.log\nWARNING of.its.own by logging\n"


async def test_calls_that_run_together_have_each_their_own_output(engine: FunctionEngine) -> None:
    heard = [Listening() for _ in range(4)]
    await asyncio.gather(
        *(run(engine, "print slowly", f"of {number}", heard=one) for number, one in enumerate(heard))
    )
    assert [set(one.printed_text.splitlines()) for one in heard] == [{f"of {number}"} for number in range(4)]


async def test_output_can_be_read_while_the_call_runs_and_survives_an_exit(engine: FunctionEngine) -> None:
    heard, cancelled = Listening(), Cancellation()
    running = asyncio.create_task(run(engine, "print and wait", heard=heard, cancelled=cancelled))
    await eventually(lambda: "waiting" in heard.printed_text)
    cancelled.set()
    with pytest.raises(Stopped):
        await running
    heard = Listening()
    with pytest.raises(EngineError, match="status 3"):
        await run(engine, "print and exit", heard=heard)
    assert heard.printed_text == "last words\n"


@pytest.mark.parametrize("kind", ["popen", "fork", "daemon"])
async def test_child_processes_of_a_call_end_with_it(engine: FunctionEngine, kind: str) -> None:
    heard = Listening()
    pid = int(await value(engine, kind, heard=heard))
    assert not is_there(pid)
    assert "processes that the call had left were ended" in heard.printed_text


async def test_child_processes_end_with_a_host_that_crashes(engine: FunctionEngine) -> None:
    heard = Listening()
    with pytest.raises(EngineError, match="signal 11"):
        await run(engine, "popen and crash", heard=heard)
    pid = int(heard.printed_text)
    await eventually(lambda: not is_there(pid), what="the child to end")


async def test_a_thread_of_the_project_that_goes_on_ends_with_its_process(engine: FunctionEngine) -> None:
    heard = Listening()
    host = int(await value(engine, "thread", heard=heard))
    assert "threads that go on (endless): the process of the project is replaced" in heard.printed_text
    assert int(await value(engine, "pid")) != host
    await eventually(lambda: not is_there(host))
    same = int(await value(engine, "pid"))
    assert int(await value(engine, "thread that ends")) == same == int(await value(engine, "pid"))


async def test_a_call_may_take_the_memory_that_it_says_and_others_what_most_say(engine: FunctionEngine) -> None:
    assert await value(engine, "10", function="modest") == "10"
    for function, kind, said in (("modest", "400", ""), ("fail", "allocate", "2000")):
        with pytest.raises(EngineError, match="MemoryError") as failed:
            await run(engine, kind, said, function=function)
        assert failed.value.kind == "resource"
    assert await value(engine, "allocate", said="400") == "400"


async def test_a_child_that_its_parent_has_left_behind_is_not_the_hosts_end(engine: FunctionEngine) -> None:
    """A forked child shares the host's connection; what it raises is nobody's call."""
    for _ in range(3):
        assert int(await value(engine, "fork and raise")) not in (0, os.getpid())
    assert await value(engine, "fine") == "fine"


async def test_what_a_call_has_forked_ends_with_it_while_others_run(engine: FunctionEngine) -> None:
    said, cancelled = Listening(), Cancellation()
    others = asyncio.create_task(run(engine, "print and wait", heard=said, cancelled=cancelled))
    await eventually(lambda: "waiting" in said.printed_text)
    for kind in ("fork", "popen"):
        heard = Listening()
        assert not is_there(int(await value(engine, kind, heard=heard)))
        assert "1 processes that the call had left were ended" in heard.printed_text
    assert not others.done()
    cancelled.set()
    with pytest.raises(Stopped):
        await others


def test_a_host_that_is_unloaded_ends_by_itself_and_need_not_be_killed(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(FAULTS)
    found = HostProcess(str(tmp_path))
    found.stop()
    assert found.process.returncode == 0
