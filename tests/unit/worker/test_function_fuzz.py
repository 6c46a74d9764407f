"""Random calls of one project: raises of every kind, prints, children, cancels, ends and kills of the process,
edits between them. Each has exactly one end, and nothing is left of any.
"""

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import pytest

from stoker.functions.leftovers import descendants
from stoker.schemas.job_events import ValueOutput
from stoker.schemas.jobs import FunctionInput
from stoker.services.worker.engines.base import Cancellation, EngineError, ModelFiles, Request, Stopped
from stoker.services.worker.engines.functions.function import FunctionEngine
from stoker.services.worker.engines.functions.function_host import MARKER
from stoker.services.worker.engines.registry import CAPABILITIES
from tests.fixtures.faults import FAULTS
from tests.unit.worker.test_function_hosts import Listening, is_there
from tests.waiting import eventually

KINDS = (
    "fine", "fine", "ValidationError", "ValueError", "RetryableError", "MemoryError", "KeyboardInterrupt",
    "SystemExit", "GeneratorExit", "StopIteration", "CancelledError", "surrogate", "broken message", "recursion",
    "input", "os._exit", "segfault", "nan", "surrogate result", "fork and crash", "print", "system", "log",
    "print and exit", "popen", "fork", "daemon", "fork and raise", "thread", "thread that ends", "wait",
    "print and wait", "no such function",
)  # fmt: skip
ENDS = ("value", "stopped", "validation", "retryable", "resource", "fatal", "auth", "load_failed")
TOGETHER = 6


class Fuzz:
    """One engine with one project, which is edited now and then: a new version is another host."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.engine = FunctionEngine(CAPABILITIES["function"])
        self.folder = folder
        self.ends: dict[str, int] = {}
        self.pids: set[int] = set()
        self.under_way: list[str] = []
        self._versions = 0
        folder.joinpath("app.py").write_text(FAULTS)
        self.edit()

    def edit(self) -> None:
        """A new version: calls under way finish on the old one."""
        self._versions += 1
        name = f"fail-{self._versions}"
        options = {"project": str(self.folder), "version": str(self._versions)}
        try:
            self.engine.load(ModelFiles(name, Path(), options))
        except EngineError as error:  # its host was killed while it was imported: a worker loads it again
            assert "the process ended" in str(error)
            self.engine.load(ModelFiles(name, Path(), options))
        if self._versions > 2:
            self.engine.unload(f"fail-{self._versions - 2}")

    async def call(self) -> None:
        kind = self.random.choice(KINDS)
        asked = FunctionInput(
            "removed" if kind == "no such function" else "fail",
            {"kind": kind, "said": {"print": "3000", "wait": "0.05"}.get(kind, "m")},
        )
        cancelled, heard = Cancellation(), Listening()
        if kind == "print and wait" or self.random.random() < 0.1:
            asyncio.get_running_loop().call_later(self.random.random() * 0.1, cancelled.set)
        version = f"fail-{self._versions}"
        self.under_way.append(kind)
        try:
            found = await self.engine.run(version, Request("job", asked, 1), heard, cancelled)
            assert isinstance(found, ValueOutput)
            how = "value"
            if kind in ("popen", "fork", "daemon", "fork and raise"):
                self.pids.add(int(found.value["text"]))
        except Stopped:
            how = "stopped"
        except EngineError as error:
            how = error.kind
        self.under_way.remove(kind)
        part = heard.log.part()
        assert len(part.head) + len(part.tail) <= 64 * 1024
        self.ends[how] = self.ends.get(how, 0) + 1

    def kill_a_host(self) -> None:
        hosts = [
            pid
            for pid in descendants(os.getpid())
            if b"stoker.functions.host" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        if hosts:
            os.kill(self.random.choice(hosts), signal.SIGKILL)

    async def run(self, calls: int) -> None:
        done = 0
        while done < calls:
            together = self.random.randint(1, TOGETHER)
            group = [self.call() for _ in range(together)]
            if self.random.random() < 0.05:
                asyncio.get_running_loop().call_later(self.random.random() * 0.1, self.kill_a_host)
            try:
                async with asyncio.timeout(30):
                    await asyncio.gather(*group)
            except TimeoutError:
                pytest.fail(f"after {done} calls these do not end: {self.under_way}")
            done += together
            if self.random.random() < 0.03:
                await asyncio.to_thread(self.edit)
        assert sum(self.ends.values()) == done, "each call has one end"
        assert self.ends.keys() <= set(ENDS), self.ends

    async def close(self) -> None:
        for number in (self._versions - 1, self._versions):
            self.engine.unload(f"fail-{number}")
        try:
            await eventually(lambda: not left_running(), 10)
        except AssertionError:
            pytest.fail(f"left: {[shown(pid) for pid in left_running()]}")
        assert [pid for pid in self.pids if is_there(pid) and is_marked(pid)] == []


def shown(pid: int) -> str:
    return f"{Path(f'/proc/{pid}/stat').read_text()} {Path(f'/proc/{pid}/cmdline').read_bytes()!r}"


def is_marked(pid: int) -> bool:
    try:
        return f"{MARKER}={os.getppid()}.{os.getpid()}.".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def left_running() -> list[int]:
    """Hosts of this process and what they have started."""
    return [
        int(place.name)
        for place in Path("/proc").glob("[0-9]*")
        if is_marked(int(place.name)) and is_there(int(place.name))
    ]


async def fuzz(folder: Path, calls: int, seed: int) -> None:
    print(f"seed {seed}")  # shown when it fails
    found = Fuzz(folder, seed)
    try:
        await found.run(calls)
    finally:
        await found.close()


@pytest.mark.timeout(60)
async def test_random_calls_have_one_end_each_and_leave_nothing(tmp_path: Path) -> None:
    await fuzz(tmp_path, 60, seed=7)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_thousands_of_random_calls_have_one_end_each_and_leave_nothing(tmp_path: Path) -> None:
    await fuzz(
        tmp_path,
        int(os.environ.get("STOKER_FUZZ_CALLS", "3000")),
        seed=int(os.environ.get("STOKER_FUZZ_SEED", time.time())),
    )
