"""A worker on real parts: every attempt ends once, whatever happens to it, and holds nothing afterwards."""

import asyncio
import os
import signal
import time

import pytest
from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.job_events import Cancelled, Completed, Failed, TextOutput
from stoker.schemas.jobs import LoadInput
from stoker.schemas.workers import Accepted, Heartbeat, JobCommand, Refused, ReplayRequest, Revocation
from stoker.services.bus.streams import admit_leader
from stoker.services.records.results import supersede
from stoker.services.worker import agent
from stoker.services.worker.agent import Limits
from stoker.services.worker.heartbeats import CHANGE_DELAY_S
from stoker.services.worker.jobs import preparing
from stoker.services.worker.runner import supervisor
from tests.contract.conftest import Connect
from tests.contract.worker.agents import MB, WorkerUnderTest, spec_of, working
from tests.waiting import eventually

QUICK = spec_of(tokens=4)
SLOW = spec_of(tokens=1000, token_interval_s=0.05)


async def test_a_job_runs_and_its_end_is_stored_before_it_is_said(connected: Connect) -> None:
    async with connected() as bus, working(bus, models={"m": QUICK}) as worker:
        worker.assign("a", QUICK)
        told = await worker.outcome("a")
        assert (told.outcome, told.attempt, told.term) == ("completed", 1, 1)
        end = await worker.end_of("a")
        assert isinstance(end, Completed) and isinstance(end.output, TextOutput)
        assert end.output.text.split() == ["t0", "t1", "t2", "t3"]
        worker.check_nothing_is_held()


async def test_a_job_is_said_to_be_accepted_unless_it_ends_before_that(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    async with connected() as bus, working(bus, models={"m": QUICK, "s": SLOW}) as worker:
        worker.assign("slow", SLOW, model="s")
        worker.agent.accept("slow", lambda: told.append("slow"))
        await eventually(lambda: told == ["slow"])
        monkeypatch.setattr(agent, "ACCEPT_WITHIN_S", 0.5)
        worker.assign("quick", QUICK)
        worker.agent.accept("quick", lambda: told.append("quick"))
        await worker.outcome("quick")
        await asyncio.sleep(0.6)
        assert told == ["slow"]
        worker.agent.cancel(JobCommand("slow", 1))
        await worker.outcome("slow")


async def test_a_mode_switch_loads_and_runs_nothing(connected: Connect) -> None:
    async with connected() as bus, working(bus, models={"m": QUICK}) as worker:
        worker.assign("a", QUICK, job_input=LoadInput())
        assert (await worker.outcome("a")).outcome == "completed"
        assert worker.agent.loader.is_hot("m", QUICK)
        worker.check_nothing_is_held()


@pytest.mark.parametrize("phase", ["preparing", "ready", "running"])
async def test_a_cancel_ends_a_job_in_every_state(connected: Connect, phase: str) -> None:
    spec = spec_of(tokens=1000, token_interval_s=0.02, load_s=0.5 if phase == "preparing" else 0.0, slots=1)
    async with connected() as bus, working(bus, models={"m": spec}) as worker:
        if phase == "ready":
            worker.assign("first", spec)
            await worker.runs("first")
        worker.assign("a", spec)
        await eventually(lambda: worker.phase("a") == phase)
        assert worker.agent.cancel(JobCommand("a", 1))
        assert (await worker.outcome("a")).outcome == "cancelled"
        assert isinstance(await worker.end_of("a"), Cancelled)
        assert not worker.agent.cancel(JobCommand("a", 1)), "it has ended"
        if phase == "ready":
            worker.agent.cancel(JobCommand("first"))
            await worker.outcome("first")
        await eventually(lambda: worker.agent.core.is_idle)
        worker.check_nothing_is_held()


@pytest.mark.parametrize("phase", ["preparing", "ready", "running"])
async def test_a_revoked_attempt_goes_without_a_word(connected: Connect, phase: str) -> None:
    spec = spec_of(tokens=1000, token_interval_s=0.02, load_s=0.5 if phase == "preparing" else 0.0, slots=1)
    async with connected() as bus, working(bus, models={"m": spec}) as worker:
        if phase == "ready":
            worker.assign("first", spec)
            await worker.runs("first")
        worker.assign("a", spec, attempt=2, term=3)
        await eventually(lambda: worker.phase("a") == phase)
        assert not worker.agent.revoke(Revocation("a", 3, 1)), "another attempt is meant"
        assert not worker.agent.revoke(Revocation("a", 2, 2)), "of another term"
        assert worker.agent.revoke(Revocation("a", 3, 2))
        assert [attempt.job for attempt in worker.agent.core.listed() if attempt.job == "a"] == []
        if phase == "ready":
            worker.agent.cancel(JobCommand("first"))
            await worker.outcome("first")
        await eventually(lambda: worker.agent.core.is_idle)
        assert "a" not in worker.finished
        assert await worker.end_of("a") is None
        worker.check_nothing_is_held()


async def test_a_later_attempt_takes_the_place_of_an_earlier_one(connected: Connect) -> None:
    spec = spec_of(tokens=30, token_interval_s=0.03)
    async with connected() as bus, working(bus, models={"m": spec}) as worker:
        worker.assign("a", spec, attempt=1)
        await worker.runs("a")
        later = worker.assignment("a", spec, attempt=2)
        assert isinstance(worker.agent.assign(later), Accepted)
        told = await worker.outcome("a")
        assert (told.outcome, told.attempt) == ("completed", 2)
        end = await worker.end_of("a")
        assert isinstance(end, Completed) and end.attempt == 2
        await eventually(lambda: worker.agent.core.is_idle)
        worker.check_nothing_is_held()


async def test_an_assignment_for_another_process_of_this_name_is_not_answered(connected: Connect) -> None:
    async with connected() as bus, working(bus, models={"m": QUICK}) as worker:
        given = worker.assignment("a", QUICK)
        others = type(given)(given.job, 1, 1, QUICK, life=12345.0)
        assert worker.agent.assign(others) is None
        mine = type(given)(given.job, 1, 1, QUICK, life=worker.agent.heartbeats.started_at)
        assert isinstance(worker.agent.assign(mine), Accepted)
        await worker.outcome("a")


async def test_a_newer_process_of_the_same_name_replaces_this_one_and_an_older_does_not(
    connected: Connect,
) -> None:
    def heartbeat(started_at: float, seq: int = 1) -> Heartbeat:
        return Heartbeat("w1", started_at, seq, "", "cpu", "cpu", "h", {}, 1, 0)

    async with connected() as bus, working(bus) as worker:
        own = worker.agent.heartbeats.started_at
        worker.agent.heartbeat_seen(heartbeat(own))
        for life in (own - 1, own + 2, own + 1, own + 10_000):
            worker.agent.heartbeat_seen(heartbeat(life))
        worker.agent.heartbeat_seen(heartbeat(own + 10_000, 2))
        assert not worker.agent.replaced.is_set(), "one heartbeat, or one from the future, proves nothing"
        worker.agent.heartbeat_seen(heartbeat(own + 1, 1))
        worker.agent.heartbeat_seen(heartbeat(own + 1, 1))
        assert not worker.agent.replaced.is_set()
        worker.agent.heartbeat_seen(heartbeat(own + 1, 2))
        assert worker.agent.replaced.is_set()


async def test_a_runner_that_is_killed_loses_what_ran_and_nothing_else(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.05)
    async with connected() as bus, working(bus, models={"m": SLOW, "q": QUICK}) as worker:
        worker.assign("a", SLOW)
        worker.assign("stopped", SLOW)
        await worker.runs("a")
        await worker.runs("stopped")
        os.kill(worker.runner.pid, signal.SIGSTOP)
        worker.agent.cancel(JobCommand("stopped"))
        os.kill(worker.runner.pid, signal.SIGKILL)
        told = await worker.outcome("a")
        assert (told.outcome, "status" in told.reason, told.was_killed) == ("lost", True, True)
        assert await worker.end_of("a") is None
        assert (await worker.outcome("stopped")).outcome == "cancelled", "it was told to stop, and has"
        worker.assign("b", QUICK, model="q")
        assert (await worker.outcome("b")).outcome == "completed"
        assert worker.runner.starts == 2
        worker.check_nothing_is_held()


async def test_an_engine_that_does_not_stop_is_ended_with_its_process(connected: Connect) -> None:
    async with connected() as bus, working(bus, models={"m": SLOW}, limits=Limits(stop_grace_s=0.2)) as worker:
        worker.assign("a", SLOW)
        await worker.runs("a")
        first = worker.runner.pid
        os.kill(first, signal.SIGSTOP)  # a hung driver
        worker.agent.cancel(JobCommand("a"))
        assert (await worker.outcome("a")).outcome == "cancelled"
        await eventually(lambda: worker.runner.pid not in (0, first), 30)
        worker.check_nothing_is_held()


async def test_a_run_that_takes_too_long_times_out(connected: Connect) -> None:
    async with connected() as bus, working(bus, models={"m": SLOW}) as worker:
        worker.assign("a", SLOW, run_timeout_s=0.3)
        assert (await worker.outcome("a")).outcome == "failed"
        end = await worker.end_of("a")
        assert isinstance(end, Failed) and end.kind == "timeout"
        worker.check_nothing_is_held()


async def test_a_model_that_cannot_be_loaded_here_is_left_to_others_with_the_reason(connected: Connect) -> None:
    huge = spec_of(memory_mb=5000)
    async with connected() as bus, working(bus, memory_mb=100, models={"m": huge}) as worker:
        worker.assign("a", huge)
        told = await worker.outcome("a")
        assert (told.outcome, told.kind, "5000 MB" in told.reason) == ("lost", "load_failed", True)
        assert await worker.end_of("a") is None
        assert "m" in worker.agent.loader.failures.lately(time.monotonic())
        worker.check_nothing_is_held()


async def test_an_attempt_that_finds_no_room_in_its_time_is_lost_and_not_running_for_ever(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "MIN_PREPARE_S", 0.3)
    a, b = spec_of(60, tokens=1000, token_interval_s=0.05), spec_of(60, tokens=2)
    async with connected() as bus, working(bus, memory_mb=100, models={"a": a, "b": b}) as worker:
        worker.assign("holds", a, model="a")
        await worker.runs("holds")
        worker.assign("waits", b, model="b", admission_timeout_s=0.0)
        told = await worker.outcome("waits")
        assert (told.outcome, "bringing b into memory" in told.reason) == ("lost", True)
        worker.agent.cancel(JobCommand("holds"))
        await worker.outcome("holds")
        worker.check_nothing_is_held()


async def test_what_a_watcher_missed_is_replayed_from_its_place(connected: Connect) -> None:
    async with connected() as bus, working(bus, models={"m": SLOW}) as worker:
        worker.assign("a", SLOW, wants_events=True)
        await worker.runs("a")
        attempt = worker.agent.core.current("a")
        assert attempt is not None
        await eventually(lambda: attempt.log.chars > 10)
        whole = worker.agent.replay(ReplayRequest("a"))
        assert whole.known and attempt.wants_events
        rest = worker.agent.replay(ReplayRequest("a", 1, 1, 99, chars=3))
        assert rest.known
        assert whole.events[-1].text[3:10] == rest.events[-1].text[:7]  # type: ignore[union-attr]
        assert not worker.agent.replay(ReplayRequest("other")).known
        worker.agent.cancel(JobCommand("a"))
        await worker.outcome("a")


async def test_a_draining_worker_finishes_what_it_has_and_takes_nothing(connected: Connect) -> None:
    spec = spec_of(tokens=20, token_interval_s=0.02)
    async with connected() as bus, working(bus, models={"m": spec}) as worker:
        worker.assign("a", spec)
        await worker.runs("a")
        await worker.agent.drain(10.0)
        assert worker.agent.core.is_idle
        assert (await worker.outcome("a")).outcome == "completed"
        assert isinstance(worker.agent.assign(worker.assignment("b", spec)), Refused)
        worker.check_nothing_is_held()


async def test_a_drain_that_takes_too_long_is_cut_short(connected: Connect) -> None:
    async with connected() as bus, working(bus, models={"m": SLOW}) as worker:
        worker.assign("a", SLOW)
        await worker.runs("a")
        await worker.agent.drain(0.2)
        assert "a" not in worker.finished


async def test_a_client_that_leaves_in_a_long_step_costs_nobody_else_anything(connected: Connect) -> None:
    stubborn, beside = spec_of(stubborn_s=1.5), spec_of(tokens=60, token_interval_s=0.05)
    limits = Limits(stop_grace_s=0.2)
    async with connected() as bus, working(bus, models={"m": stubborn, "q": beside}, limits=limits) as worker:
        worker.assign("beside", beside, model="q")
        await worker.runs("beside")
        worker.assign("a", stubborn)
        await worker.runs("a")
        first = worker.runner.pid
        worker.agent.cancel(JobCommand("a"))
        assert (await worker.outcome("a")).outcome == "cancelled"
        assert (await worker.outcome("beside")).outcome == "completed"
        worker.assign("alone", stubborn)
        await worker.runs("alone")
        worker.agent.cancel(JobCommand("alone"))
        assert (await worker.outcome("alone")).outcome == "cancelled"
        assert worker.runner.pid == first, "other weights are hot in it"
        worker.check_nothing_is_held()


async def test_a_step_that_outlasts_its_run_is_ended_whatever_lives_beside(connected: Connect) -> None:
    stubborn = spec_of(stubborn_s=30.0)
    limits = Limits(stop_grace_s=0.2)
    async with connected() as bus, working(bus, models={"m": stubborn, "q": QUICK}, limits=limits) as worker:
        worker.agent.load("q", QUICK)
        await eventually(lambda: worker.agent.loader.is_hot("q", QUICK))
        worker.assign("a", stubborn, run_timeout_s=0.5)
        await worker.runs("a")
        assert (await worker.outcome("a")).outcome == "failed"
        end = await worker.end_of("a")
        assert isinstance(end, Failed) and end.kind == "timeout"
        await eventually(lambda: worker.runner.starts == 2, 30)


async def test_a_runner_that_hangs_is_silent_first_and_ended_then_and_its_jobs_go_elsewhere(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PULSE_S", 0.1)
    monkeypatch.setattr(supervisor, "SILENT_S", 0.4)
    limits = Limits(runner_silent_s=2.0)
    beats: list[Heartbeat] = []

    def note(message: Msg) -> None:
        beats.append(wire.decode(Heartbeat, message.data))

    async with (
        connected() as bus,
        working(bus, models={"m": SLOW}, limits=limits) as worker,
        bus.listening((bus.subjects.heartbeat("w1"), note)),
    ):
        worker.assign("a", SLOW)
        await worker.runs("a")
        first = worker.runner.pid
        os.kill(first, signal.SIGSTOP)
        await eventually(lambda: worker.runner.state == "silent")
        await eventually(lambda: beats and beats[-1].engines == {}, what="a heartbeat without engines")
        os.kill(first, signal.SIGCONT)
        await eventually(lambda: beats[-1].engines, what="a heartbeat with engines again")
        assert worker.phase("a") == "running", "a short pause costs nothing"
        os.kill(first, signal.SIGSTOP)
        told = await worker.outcome("a")
        assert (told.outcome, told.kind, told.was_killed) == ("lost", "", False)
        await eventually(lambda: worker.runner.pid not in (0, first), 30)
        worker.check_nothing_is_held()


async def test_an_attempt_that_was_superseded_ends_nothing_and_says_nothing(connected: Connect) -> None:
    slow = spec_of(tokens=4, token_interval_s=0.1)
    async with connected() as bus, working(bus, models={"m": slow}) as worker:
        await admit_leader(bus, 1)
        worker.assign("a", slow)
        await worker.runs("a")
        attempt = worker.agent.core.current("a")
        assert attempt is not None
        fence = await supersede(bus, 1, attempt.assignment.job, 2, 0)
        await eventually(lambda: worker.phase("a") == "gone")
        assert "a" not in worker.finished
        assert await worker.end_of("a") is None
        worker.assign("a", slow, attempt=2, fence=fence)
        assert (await worker.outcome("a")).outcome == "completed"
        end = await worker.end_of("a")
        assert end is not None and end.attempt == 2
        worker.check_nothing_is_held()


async def test_a_slot_that_is_freed_goes_to_the_next(connected: Connect) -> None:
    spec = spec_of(tokens=2, slots=1)
    async with connected() as bus, working(bus, models={"m": spec}) as worker:
        for number in range(20):
            worker.assign(f"j{number}", spec)
        for number in range(20):
            assert (await worker.outcome(f"j{number}")).outcome == "completed"
        worker.check_nothing_is_held()


def memory_used(worker: WorkerUnderTest) -> int:
    return worker.agent.loader.cache.used_bytes // MB


async def test_heartbeats_say_what_is_here(connected: Connect) -> None:
    async with connected() as bus, working(bus, models={"m": SLOW}) as worker:
        worker.assign("a", SLOW, attempt=4, term=7)
        await worker.runs("a")
        beat = worker.agent.heartbeats._heartbeat(is_leaving=False)
        [running] = beat.running
        assert (running.job, running.attempt, running.term, running.spec) == ("a", 4, 7, "default")
        assert beat.vram_models == ("m",)
        assert beat.engines.keys() == {"synthetic"}
        assert memory_used(worker) == 10
        worker.agent.cancel(JobCommand("a"))
        await worker.outcome("a")


async def test_who_has_said_goodbye_says_nothing_more(connected: Connect) -> None:
    """Else the scheduler takes it in again, and gives it up once more when it falls silent."""
    told: list[bool] = []

    def heard(message: Msg) -> None:
        told.append(wire.decode(Heartbeat, message.data).is_leaving)

    async with (
        connected() as bus,
        working(bus) as worker,
        bus.listening((bus.subjects.heartbeat("w1"), heard)),
    ):
        await worker.agent.drain(1.0)
        worker.agent.heartbeats.changed()  # as when it is asked for one, or its runner ends
        worker.agent.heartbeats.beat()
        await eventually(lambda: True in told)
        await asyncio.sleep(5 * CHANGE_DELAY_S)
        await bus.client.flush()
        assert told[told.index(True) :] == [True]
