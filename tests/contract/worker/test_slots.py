"""The slots of a spec: as many jobs as are sent to a worker are computed there at a time."""

import asyncio
from contextlib import suppress

import msgspec
import psutil

from stoker.schemas.catalog import Spec, weights_key
from stoker.schemas.jobs import CompletionInput
from stoker.services.process import open_files
from stoker.services.worker.engines.base import Cancellation, ModelFiles, Stopped
from stoker.services.worker.engines.registry import CAPABILITIES, create
from stoker.services.worker.models.weights.resolve import resolve
from stoker.services.worker.runner.messages import Load, Loaded, Run
from stoker.services.worker.runner.process import RunnerProcess
from tests.conftest import DEMO
from tests.contract.conftest import Connect
from tests.contract.test_text_servers import Heard, chat, run
from tests.contract.worker.agents import MB, working
from tests.waiting import eventually

ENGINES = {name: CAPABILITIES[name] for name in ("synthetic", "llamacpp")}
SPEC = Spec("default", "llamacpp", f"file://{DEMO / 'chat.gguf'}", options={"n_ctx": 256}, memory_bytes=20 * MB)


async def test_the_engine_has_as_many_slots_as_the_spec_says(connected: Connect) -> None:
    wide = msgspec.structs.replace(SPEC, slots=6)
    async with connected() as bus, working(bus, models={"own": SPEC, "wide": wide}, engines=ENGINES) as worker:
        for model, spec in (("own", SPEC), ("wide", wide)):
            worker.agent.load(model, spec)
        await eventually(lambda: len(worker.beat.vram_models) == 2, 60, "both to be loaded")
        slots = {one.model: one.card.slots for one in worker.beat.models if one.card is not None}
        assert slots == {"own": CAPABILITIES["llamacpp"].slots, "wide": 6}


def test_weights_with_other_slots_are_others() -> None:
    """Their KV caches are."""
    wide, wider = (msgspec.structs.replace(SPEC, slots=slots) for slots in (6, 8))
    assert len({weights_key("m", spec) for spec in (SPEC, wide, wider)}) == 3


async def test_runs_that_take_a_thread_wait_for_none() -> None:
    """On two cores six of them ran, and the others, which their worker said were running, waited."""
    loaded = asyncio.Event()
    runner = RunnerProcess(lambda message: loaded.set() if isinstance(message, Loaded) else None)
    await runner.start()
    serving = asyncio.create_task(runner.serve())
    try:
        runner.send(Load("m", "synthetic", "synthetic", {"stubborn_s": 60.0}))
        await asyncio.wait_for(loaded.wait(), 30)
        for number in range(100):
            runner.send(Run(f"j{number}", "m", CompletionInput("hi"), 1))
        await eventually(lambda: psutil.Process(runner.pid).num_threads() > 100, 30, "all of them to run")
    finally:
        runner.kill()
        await serving
        await runner.reap()


async def test_as_many_requests_are_open_at_a_server_as_there_are_slots() -> None:
    """512 were, and the others waited in their worker while others had room."""
    open_files.raise_limit()
    many, open_ones = 600, set[asyncio.StreamWriter]()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST "):
            open_ones.add(writer)
        else:
            writer.write(b"HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n")
        with suppress(ConnectionError):
            await reader.read()  # until it is cut off
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0, backlog=many) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        engine, cancelled = create("openai"), Cancellation()
        await asyncio.to_thread(lambda: engine.load(ModelFiles("m", resolve(url, print), {"model": "m"})))
        asked = [asyncio.create_task(run(engine, chat("hi"), Heard(cancelled))) for _ in range(many)]
        try:
            await eventually(lambda: len(open_ones) == many, 30, "all to be asked")
        finally:
            cancelled.set()
            ends = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(end) for end in ends} == {Stopped}
