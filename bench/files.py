"""Files in and out: megabytes a second beside what the NATS server does alone, and memory of each process.

Alone: parts of 512 KB, eight under way, into a stream and out of it, with nothing else done (bare parts), and
the object store of nats-py. Then a file by POST /v1/files, its content by GET, the same file as input of a
function (until the function has it on its disk), a file that a function saves (until the call is answered, less
the time in which the function writes it), and that file by GET.

python -m bench.files [--megabytes 1024]
"""

import argparse
import asyncio
import http.client
import io
import json
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil
import uvloop

from bench.system import Running, running
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.publishing import PubAck, into
from stoker.services.process.embedded import URL_FILE
from stoker.services.process.settings import BusSettings
from stoker.services.records.parts import AT_ONCE, PART_BYTES

MB = 1024 * 1024
DEFAULT_MB = 256
PATTERN = os.urandom(4 * MB)
SAMPLE_S = 0.05
PROJECT = """\
import time
from pathlib import Path
import msgspec
from stoker import ActionContext, Asset, FileRef, worker_function

class Ask(msgspec.Struct):
    document: Asset

class Size(msgspec.Struct):
    size: int

class Make(msgspec.Struct):
    megabytes: int

class Made(msgspec.Struct):
    document: FileRef
    writing_s: float

@worker_function()
def look(ctx: ActionContext, payload: Ask) -> Size:
    return Size(Path(payload.document.local_path).stat().st_size)

@worker_function()
def make(ctx: ActionContext, payload: Make) -> Made:
    began = time.perf_counter()
    path = ctx.folder / "made"
    with path.open("wb") as file:
        for _ in range(payload.megabytes):
            file.write(bytes(1024 * 1024))
    writing_s = time.perf_counter() - began
    return Made(ctx.save_file(path, "made.bin"), writing_s)
"""
CONFIG = "workers: [{count: 1, engines: [function]}]\n"


class Memory:
    """The largest resident set of each process while the block of `watched` lasts, bytes."""

    def __init__(self, system: Running) -> None:
        self._system = system
        self.peaks: dict[str, int] = {}

    def processes(self) -> dict[str, psutil.Process]:
        found = self._system.processes()
        for name in [name for name in found if name.endswith("runner")]:
            for child in found[name].children():
                found["host"] = child
        wanted = {"gateway": "gateway", "host": "host", "nats": "nats"}
        named = {
            label: process for name, process in found.items() for label in wanted if name.startswith(label)
        }
        workers = {name: process for name, process in found.items() if name.startswith("worker")}
        for name, process in workers.items():
            named["runner" if "runner" in name else "worker"] = process
        return named

    @contextmanager
    def watched(self) -> Iterator[None]:
        ended = threading.Event()

        def look() -> None:
            processes = self.processes()
            while not ended.wait(SAMPLE_S):
                for name, process in processes.items():
                    try:
                        self.peaks[name] = max(self.peaks.get(name, 0), process.memory_info().rss)
                    except psutil.Error:
                        continue

        looking = threading.Thread(target=look)
        looking.start()
        try:
            yield
        finally:
            ended.set()
            looking.join()


class _Endless(io.RawIOBase):
    """A file of so many bytes, none of which is made before it is read."""

    def __init__(self, size: int) -> None:
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._left, len(PATTERN))
        buffer[:count] = PATTERN[:count]
        self._left -= count
        return count


async def _alone(bus: Bus, size: int) -> tuple[float, float]:
    """Seconds in which parts of so many bytes go into a stream, and come out of it."""
    part = PATTERN[:PART_BYTES]
    count = size // PART_BYTES
    began = time.perf_counter()
    under_way: deque[asyncio.Future[PubAck]] = deque()
    for number in range(count):
        if len(under_way) == AT_ONCE:
            await under_way.popleft()
        under_way.append(asyncio.get_running_loop().create_future())
        bus.post_stored(bus.subjects.blob("bench", number), part, into(under_way[-1]))
    for one in under_way:
        await one
    stored_s = time.perf_counter() - began
    left = iter(range(count))

    async def get() -> None:
        for number in left:
            await bus.jetstream.get_last_msg("STOKER_BLOBS", bus.subjects.blob("bench", number), direct=True)

    began = time.perf_counter()
    await asyncio.gather(*(get() for _ in range(AT_ONCE)))
    return stored_s, time.perf_counter() - began


async def _object_store(bus: Bus, size: int) -> tuple[float, float]:
    """The same with nats-py's object store, of at most DEFAULT_MB: it is slow."""
    size = min(size, DEFAULT_MB * MB)
    store = await bus.jetstream.create_object_store("bench")
    began = time.perf_counter()
    await store.put("one", io.BufferedReader(_Endless(size)))
    stored_s = time.perf_counter() - began
    began = time.perf_counter()
    with open(os.devnull, "wb") as nowhere:  # noqa: ASYNC230, PTH123  # nothing waits for it
        await store.get("one", writeinto=nowhere)
    read_s = time.perf_counter() - began
    await bus.jetstream.delete_object_store("bench")
    await bus.jetstream.purge_stream("STOKER_BLOBS")
    return stored_s, read_s


async def baselines(system: Running, size: int) -> tuple[tuple[float, float], tuple[float, float]]:
    url = (system.data / URL_FILE).read_text().strip()
    async with open_bus(BusSettings(nats=url), "bench") as bus:
        found = await _alone(bus, size)
        await bus.jetstream.purge_stream("STOKER_BLOBS")
        return found, await _object_store(bus, size)


class Client:
    """HTTP as cheap as Python has it: the load shares the machine with what it measures."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, method: str, path: str, body: IO[bytes] | bytes = b"", **headers: str) -> Any:
        """The JSON of an answer. Raises RuntimeError for another than 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600, blocksize=MB)
        connection.request(
            method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:500]!r}")
        return json.loads(content)

    def download(self, path: str) -> int:
        """How many bytes there are."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        connection.request("GET", path)
        answer = connection.getresponse()
        buffer, size = memoryview(bytearray(MB)), 0
        while read := answer.readinto(buffer):
            size += read
        connection.close()
        return size


def measure(system: Running, size: int) -> dict[str, float]:
    """Seconds of each way."""
    client = Client(system.port)
    call = {"content_type": "application/json"}
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - began

    with timed("POST /v1/files"):
        sent = client.ask(
            "POST", "/v1/files?filename=bench.bin", io.BufferedReader(_Endless(size), MB),
            content_type="application/octet-stream", content_length=str(size),
        )  # fmt: skip
    assert sent["bytes"] == size
    with timed("GET /v1/files/{id}/content"):
        assert client.download(f"/v1/files/{sent['id']}/content") == size
    with timed("input of a function"):
        asked = json.dumps({"document": sent["id"]}).encode()
        assert client.ask("POST", "/v1/functions/look", asked, **call)["size"] == size
    with timed("output of a function"):
        made = client.ask("POST", "/v1/functions/make", json.dumps({"megabytes": size // MB}).encode(), **call)
    seconds["output of a function"] -= made["writing_s"]
    with timed("GET of that output"):
        assert client.download(made["document"]["url"]) == size
    client.ask("DELETE", f"/v1/files/{sent['id']}")
    return seconds


def report(megabytes: int = DEFAULT_MB) -> list[str]:
    size = megabytes * MB
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "app.py").write_text(PROJECT)
        with running(CONFIG, functions=Path(folder)) as system:
            client = Client(system.port)
            client.ask("POST", "/v1/functions/make", b'{"megabytes": 1}', content_type="application/json")
            memory = Memory(system)
            rest = {name: process.memory_info().rss for name, process in memory.processes().items()}
            (in_s, out_s), (store_in_s, store_out_s) = uvloop.run(baselines(system, size))
            with memory.watched():
                seconds = measure(system, size)
    store_mb = min(megabytes, DEFAULT_MB)
    rows = [
        f"| {megabytes} MB | MB/s | of the object store | of bare parts |",
        "|---|---|---|---|",
        f"| bare parts into a stream | {megabytes / in_s:,.0f} | | |",
        f"| bare parts out of a stream | {megabytes / out_s:,.0f} | | |",
        f"| object store of nats-py, put ({store_mb} MB) | {store_mb / store_in_s:,.0f} | | |",
        f"| object store of nats-py, get ({store_mb} MB) | {store_mb / store_out_s:,.0f} | | |",
    ]
    for name, taken in seconds.items():
        parts_s, store_s = (in_s, store_in_s) if name.startswith(("POST", "output")) else (out_s, store_out_s)
        of_store = store_s * megabytes / store_mb / taken
        rows.append(f"| {name} | {megabytes / taken:,.0f} | {of_store:.0%} | {parts_s / taken:.0%} |")
    rows += ["", "| process | at rest, MB | at most, MB |", "|---|---|---|"]
    peaks = sorted(memory.peaks.items())
    return rows + [f"| {name} | {rest.get(name, 0) / MB:,.0f} | {peak / MB:,.0f} |" for name, peak in peaks]


if __name__ == "__main__":
    options = argparse.ArgumentParser(description="Files in and out.")
    options.add_argument("--megabytes", type=int, default=DEFAULT_MB)
    print("\n".join(report(options.parse_args().megabytes)))
