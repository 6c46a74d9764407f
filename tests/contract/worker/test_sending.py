"""What becomes of a run whose input no message to a runner can hold."""

from typing import Any

import pytest

from stoker.schemas.job_events import Failed
from stoker.schemas.jobs import ImageInput
from tests.contract.conftest import Connect
from tests.contract.worker.agents import spec_of, working


@pytest.mark.parametrize("value", [2**64, [-(2**63) - 1], "\udcff"])
async def test_it_fails_by_itself_and_the_next_one_of_its_lane_runs(connected: Connect, value: Any) -> None:
    """It had its slot already: without an end it would keep it, and everybody behind it would wait."""
    spec = spec_of(tokens=4, slots=1)
    async with connected() as bus, working(bus, models={"m": spec}) as worker:
        worker.assign("wrong", spec, job_input=ImageInput("x", parameters={"eta": value}))
        worker.assign("right", spec)
        assert (await worker.outcome("wrong")).outcome == "failed"
        end = await worker.end_of("wrong")
        assert isinstance(end, Failed) and end.kind == "validation" and "cannot be sent" in end.message
        assert (await worker.outcome("right")).outcome == "completed"
        worker.check_nothing_is_held()
