"""Pictures of a real engine in a real runner: the device is the next job's while files are written."""

import asyncio
from pathlib import Path

import pytest

from stoker.schemas.catalog import Spec
from stoker.schemas.job_events import Completed
from stoker.schemas.jobs import ImageInput
from stoker.services.worker.engines.registry import CAPABILITIES
from tests.contract.conftest import Connect
from tests.contract.worker.agents import MB, working
from tests.fixtures import checkpoints
from tests.waiting import eventually

ENGINES = {name: CAPABILITIES[name] for name in ("synthetic", "diffusers")}


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_slot_is_free_when_the_device_is_and_both_jobs_end(connected: Connect, tmp_path: Path) -> None:
    path = await asyncio.to_thread(checkpoints.sd15, tmp_path / "sd15")
    spec = Spec("default", "diffusers", f"file://{path}", memory_bytes=50 * MB)
    asked = ImageInput("a cat", num_inference_steps=2, width=128, height=128)
    async with connected() as bus, working(bus, models={"m": spec}, engines=ENGINES) as worker:
        for job in ("one", "two"):
            worker.assign(job, spec, job_input=asked)
        for job in ("one", "two"):
            await worker.outcome(job, 100)
            ended = await worker.end_of(job)
            assert isinstance(ended, Completed)
            assert 0 < worker.finished[job].run_s < ended.timings.run_s, "the lane was taken for less"
        await eventually(lambda: worker.agent.core.is_idle)
        worker.check_nothing_is_held()
