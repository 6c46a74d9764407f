"""What an attempt needs is brought here, or the attempt ends: nothing is left running, pinned or waited for."""

import pytest
from nats.js.errors import NotFoundError

from stoker.schemas.batches import Segment
from stoker.schemas.job_events import Cancelled, Failed
from stoker.schemas.jobs import Attachment, FunctionInput, ImageInput, TranscriptionInput, UpscaleInput
from stoker.schemas.subjects import RESULTS_STREAM
from stoker.schemas.workers import JobCommand, Revocation
from stoker.services.records import parts
from stoker.services.records.blobs import write_blob
from tests.contract.conftest import Connect
from tests.contract.worker.agents import spec_of, working
from tests.waiting import eventually

QUICK = spec_of(tokens=4)
SLOW_LOAD = spec_of(tokens=4, load_s=1.0)
HOOK = "http://hooks.example/x"


def call(**models: str) -> FunctionInput:
    return FunctionInput("f", {}, models)


async def test_a_call_that_is_cancelled_while_its_companions_load_lets_them_go(connected: Connect) -> None:
    models = {"m": SLOW_LOAD, "q": QUICK}
    async with connected() as bus, working(bus, models=models) as worker:
        worker.assign("a", SLOW_LOAD, job_input=call(one="m", two="q"))
        cache = worker.agent.loader.cache
        await eventually(lambda: "q" in cache.entries and cache.entries["q"].pins == 1)
        assert worker.phase("a") == "preparing"
        worker.agent.cancel(JobCommand("a"))
        assert isinstance(await worker.ended("a"), Cancelled)
        await eventually(lambda: worker.agent.loader.is_hot("m", SLOW_LOAD))
        worker.check_nothing_is_held()


async def test_a_call_that_is_revoked_while_a_companion_loads_lets_it_go_when_it_comes(
    connected: Connect,
) -> None:
    models = {"m": QUICK, "q": SLOW_LOAD}
    async with connected() as bus, working(bus, models=models) as worker:
        worker.assign("a", QUICK, job_input=call(one="m", two="q"))
        await eventually(lambda: worker.agent.loader.tier("q", SLOW_LOAD) == "loading")
        assert worker.agent.revoke(Revocation("a", 1, 1))
        await eventually(lambda: worker.agent.loader.is_hot("q", SLOW_LOAD))
        assert "a" not in worker.finished
        worker.check_nothing_is_held()


async def test_a_call_with_a_companion_that_this_worker_does_not_serve_fails(connected: Connect) -> None:
    async with connected() as bus, working(bus, models={"m": QUICK}) as worker:
        worker.assign("a", QUICK, job_input=call(one="m", two="elsewhere"))
        told = await worker.outcome("a")
        assert (told.outcome, told.kind, "elsewhere" in told.reason) == ("lost", "load_failed", True)
        worker.check_nothing_is_held()


async def test_a_companion_that_cannot_be_loaded_fails_the_call_and_pins_nothing(connected: Connect) -> None:
    huge = spec_of(memory_mb=5000)
    async with connected() as bus, working(bus, models={"m": QUICK, "q": huge}) as worker:
        worker.assign("a", QUICK, job_input=call(one="m", two="q"))
        told = await worker.outcome("a")
        assert (told.outcome, told.kind) == ("lost", "load_failed")
        worker.check_nothing_is_held()


async def test_models_that_do_not_fit_together_fail_the_call_with_the_sums_and_nothing_is_loaded(
    connected: Connect,
) -> None:
    half = spec_of(memory_mb=60, tokens=4)
    async with connected() as bus, working(bus, models={"m": half, "q": half}) as worker:
        worker.assign("a", half, job_input=call(one="m", two="q"))
        told = await worker.outcome("a")
        assert "they need m 60 MB + q 60 MB = 120 MB together, and this worker has 100 MB" in told.reason
        assert {entry.tier for entry in worker.agent.loader.cache.entries.values()} == {"warm"}
        assert worker.beat.failed_loads == {}, "each of them can be loaded"
        worker.check_nothing_is_held()


async def test_calls_that_want_the_same_models_in_another_order_all_run(connected: Connect) -> None:
    models = {name: spec_of(memory_mb=50, tokens=1) for name in ("m", "q", "r")}
    async with connected() as bus, working(bus, models=models) as worker:
        for number in range(12):
            first, second = (("m", "q"), ("q", "m"), ("r", "q"))[number % 3]
            asked = call(one=first, two=second)
            worker.assign(f"j{number}", models[first], model=first, job_input=asked)
        for number in range(12):
            await worker.outcome(f"j{number}")  # the synthetic engine runs no functions: that is their end
        assert {worker.finished[f"j{number}"].outcome for number in range(12)} == {"failed"}
        worker.check_nothing_is_held()


@pytest.mark.parametrize("kind", [UpscaleInput, TranscriptionInput])
async def test_a_file_that_is_no_longer_kept_fails_the_job(
    connected: Connect, kind: type[UpscaleInput] | type[TranscriptionInput]
) -> None:
    async with connected() as bus, working(bus, models={"m": QUICK}) as worker:
        asked = kind({"file": Attachment(blob="gone")})
        worker.assign("a", QUICK, job_input=asked)
        end = await worker.ended("a")
        assert isinstance(end, Failed)
        assert (end.kind, "gone is no longer kept" in end.message) == ("load_failed", True)
        worker.check_nothing_is_held()


async def test_a_file_that_its_client_has_deleted_is_the_clients_to_send_again(connected: Connect) -> None:
    async with connected() as bus, working(bus, models={"m": QUICK}) as worker:
        asked = TranscriptionInput({"file": Attachment(segments=(Segment("gone", 1, 5),))})
        worker.assign("a", QUICK, job_input=asked)
        end = await worker.ended("a")
        assert isinstance(end, Failed)
        assert (end.kind, "file" in end.message) == ("validation", True)


async def test_a_file_that_cannot_be_read_now_is_tried_elsewhere(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody answers in time: nobody can say that it is gone."""
    async with connected() as bus, working(bus, models={"m": QUICK}) as worker:
        name = await write_blob(bus, "kept", b"x" * 200_000, is_sealed=True)
        monkeypatch.setattr(parts, "PART_LIMIT_S", 0.0)
        worker.assign("a", QUICK, job_input=ImageInput("x", files={"image": Attachment(blob=name)}))
        told = await worker.outcome("a")
        assert (told.outcome, "reading a part of the blob" in told.reason) == ("lost", True)
        worker.check_nothing_is_held()


async def test_a_job_whose_model_is_unknown_here_loads_what_it_brings_along(connected: Connect) -> None:
    async with connected() as bus, working(bus) as worker:
        worker.assign("a", QUICK, model="brought")
        assert (await worker.outcome("a")).outcome == "completed"
        assert worker.agent.loader.cache.entries == {}, "no model of the catalog needs its weights"
        worker.check_nothing_is_held()


async def test_while_results_cannot_be_stored_an_attempt_stays_and_is_listed(connected: Connect) -> None:
    async with connected() as bus, connected() as operator, working(bus, models={"m": QUICK}) as worker:
        config = (await operator.jetstream.stream_info(RESULTS_STREAM)).config
        await operator.jetstream.delete_stream(RESULTS_STREAM)
        with pytest.raises(NotFoundError):
            await operator.jetstream.stream_info(RESULTS_STREAM)
        worker.assign("a", QUICK)
        await eventually(lambda: worker.phase("a") == "ending")
        assert [attempt.job for attempt in worker.agent.core.listed()] == ["a"]
        worker.check_pins_are_gone()
        await operator.jetstream.add_stream(config)
        assert (await worker.outcome("a", 30)).outcome == "completed"
        worker.check_nothing_is_held()
