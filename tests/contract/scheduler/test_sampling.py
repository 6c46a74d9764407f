"""What the leader writes down for the time axis: jobs that ended, samples, loads and evictions, jobs to run again."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from stoker.schemas import wire
from stoker.schemas.fleet import JobView, PlatformEvent
from stoker.schemas.history import EndedJob, EndedJobs, Sample
from stoker.schemas.jobs import Job, Status
from stoker.schemas.subjects import ANY, EVENTS_STREAM, HISTORY_STREAM, RETRIES_STREAM
from stoker.schemas.workers import Finished, Heartbeat, ResidentModel
from stoker.services.bus.connection import Bus
from stoker.services.bus.streams import declare
from stoker.services.records.history import between
from stoker.services.scheduler import sampling
from stoker.services.scheduler.core import Scheduler
from stoker.services.scheduler.sampling import Sampler
from tests.contract.conftest import Connect
from tests.contract.scheduler.test_service import ScriptedWorker, beating, leading, submit
from tests.fixtures.ends import one_job
from tests.waiting import eventually

T0 = 1000.0


@asynccontextmanager
async def sampled(connected: Connect) -> AsyncIterator[tuple[Bus, Sampler, Scheduler]]:
    async with connected() as bus:
        await declare(bus)
        core = Scheduler(1, T0)
        yield bus, Sampler(bus, core), core


def view(name: str, status: Status = "completed", **fields: Any) -> JobView:
    given = {"model": "m", "created_at": T0, "finished_at": T0 + 5, "attempt": 1, "worker": "w", "spec": "s"}
    return JobView(id=name, status=status, **(given | fields))


def beat(*models: ResidentModel, worker: str = "w", **fields: Any) -> Heartbeat:
    return Heartbeat(
        worker=worker, started_at=1.0, seq=1, spec="", profile="", device="cpu", host="h", engines={},
        memory_total_bytes=1, memory_used_bytes=0, models=models, **fields,
    )  # fmt: skip


def resident(model: str, tier: Any, **fields: Any) -> ResidentModel:
    return ResidentModel(model, "s", "e", tier, **fields)


async def stored(bus: Bus, part: str, kind: Any, count: int = 1) -> list[Any]:
    """What is stored of the history, once there are so many."""

    async def found() -> list[Any]:
        every = [one async for _, one in between(bus, HISTORY_STREAM, bus.subjects.history(part), kind, 0, 0)]
        return every if len(every) >= count else []

    got: list[Any] = await eventually(found)
    return got


async def told(bus: Bus, count: int) -> list[PlatformEvent]:
    async def found() -> list[PlatformEvent]:
        subject = bus.subjects.every("events", ANY, ANY)
        every = [one async for _, one in between(bus, EVENTS_STREAM, subject, PlatformEvent, 0, 0)]
        return every if len(every) >= count else []

    got: list[PlatformEvent] = await eventually(found)
    return got


async def test_an_ended_job_is_noted_with_what_its_time_went_into(connected: Connect) -> None:
    async with sampled(connected) as (bus, sampler, core):
        sampler.finished(Finished("a", "m", 1, "completed", load_s=1.0, fetch_s=0.5, run_s=2.0))
        sampler.finished(Finished("b", "m", 1, "lost", run_s=9.0))
        core.ledger.history.ended(view("a", queued_s=2.0, tenant="t"), one_job("a"))
        core.ledger.history.ended(view("b", "failed", attempt=0, worker="", spec=""), one_job("b"))
        sampler.look(T0 + 6)
        [page] = await stored(bus, "jobs", EndedJobs)
        common = {"model": "m", "created_at": T0, "finished_at": T0 + 5}
        assert page == EndedJobs(
            T0 + 6,
            (
                EndedJob(
                    "a", status="completed", worker="w", spec="s", attempt=1, tenant="t", queued_s=2.0,
                    fetch_s=0.5, load_s=1.0, run_s=2.0, **common,
                ),
                EndedJob("b", status="failed", queued_s=5.0, **common),
            ),
        )  # fmt: skip
        sampler.look(T0 + 7)
        assert len(await stored(bus, "jobs", EndedJobs)) == 1, "a second in which nothing ended says nothing"


async def test_a_load_that_a_job_waited_for_in_the_queue_is_loading(connected: Connect) -> None:
    async with sampled(connected) as (bus, sampler, core):
        began = time.time()
        sampler.heartbeat(beat())
        sampler.heartbeat(beat(resident("m", "loading")))
        sampler.heartbeat(beat(resident("m", "hot", load_s=9.0, loaded_from="cold", fetch_s=0.0)))
        waiting = view("a", created_at=began - 1, queued_s=61.0, finished_at=began + 61)
        core.ledger.history.ended(waiting, one_job("a"))
        sampler.look(began)
        [page] = await stored(bus, "jobs", EndedJobs)
        [job] = page.jobs
        assert 0 <= job.load_s <= time.time() - began + 0.001
        assert abs(job.load_s + job.queued_s - 61.0) < 0.001, "no second is counted twice"


async def test_loads_and_evictions_are_told_with_their_reasons(connected: Connect) -> None:
    async with sampled(connected) as (bus, sampler, _):
        sampler.heartbeat(beat(resident("there", "hot")))
        sampler.heartbeat(
            beat(resident("there", "parked"), resident("new", "hot", load_s=1.5, loaded_from="warm"))
        )
        sampler.heartbeat(beat(resident("there", "parked")))
        sampler.heartbeat(beat(is_leaving=True))
        sampler.heartbeat(beat(resident("there", "hot")))
        said = [(one.kind, one.subject, one.worker, one.reason) for one in await told(bus, 3)]
        assert said == [
            ("loaded", "new", "w", "loaded in 1.50 s, from disk"),
            ("evicted", "there", "w", "parked in RAM; its room was wanted for new"),
            ("evicted", "new", "w", "on disk only now"),
        ], "nothing of what was hot when a worker was first seen"


async def test_a_sample_has_what_ended_what_waits_and_who_is_busy(connected: Connect) -> None:
    async with sampled(connected) as (bus, sampler, core):
        for number in range(20):
            core.ledger.history.ended(view(f"j{number}", finished_at=T0 + number), one_job(f"j{number}"))
        core.ledger.history.ended(view("f", "failed"), one_job("f"))
        sampler.look(T0 + 1)
        sampler.sample(T0 + 10)
        sampler.sample(T0 + 20)
        first, second = await stored(bus, "samples", Sample, 2)
        assert first.models["m"].ended == 21
        assert first.models["m"].failed == 1
        assert first.models["m"].p95_s == 19.0
        assert second == Sample(T0 + 20), "each counts once"


async def test_what_did_not_complete_is_kept_to_be_run_again(connected: Connect, monkeypatch: Any) -> None:
    async with sampled(connected) as (bus, sampler, core):
        monkeypatch.setattr(sampling, "MAX_RETRY_BYTES", 500)
        large = one_job("large", fingerprint="x" * 500)
        kept = [("failed", one_job("f")), ("completed", one_job("c")), ("failed", one_job("call", parent="p"))]
        for status, job in [*kept, ("failed", large), ("cancelled", one_job("k"))]:
            core.ledger.history.ended(view(job.id, status), job)  # type: ignore[arg-type]
        sampler.look(T0)

        async def ids() -> list[str]:
            state = (await bus.jetstream.stream_info(RETRIES_STREAM)).state
            found = [await bus.jetstream.get_msg(RETRIES_STREAM, at) for at in range(1, state.last_seq + 1)]
            return [wire.decode(Job, one.data or b"").id for one in found]

        assert await eventually(lambda: _once(ids, 2)) == ["f", "k"]


async def _once(ids: Any, count: int) -> list[str]:
    found: list[str] = await ids()
    return found if len(found) >= count else []


async def test_a_leader_notes_what_its_workers_do(connected: Connect) -> None:
    async with connected() as bus, leading(bus), beating(ScriptedWorker(bus)) as worker:
        await submit(bus, "a")
        await eventually(lambda: worker.assigned)
        worker.running.clear()
        bus.tell(bus.subjects.finished("w1"), Finished("a", "m", 1, "completed", run_s=0.25, term=1))
        [page] = await stored(bus, "jobs", EndedJobs)
        assert [(one.id, one.status, one.worker, one.run_s) for one in page.jobs] == [
            ("a", "completed", "w1", 0.25)
        ]


def test_a_message_of_jobs_fits_what_nats_takes() -> None:
    name = "x" * 60
    one = EndedJob(name, name, "completed", T0, T0, name, name, 1, name, 1.0, 1.0, 1.0, 1.0)
    page = EndedJobs(T0, (one,) * sampling.MAX_JOBS_PER_MESSAGE)
    assert len(msgspec.json.encode(page)) < 1024**2
