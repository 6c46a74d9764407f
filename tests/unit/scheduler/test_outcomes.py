"""The core, one event at a time: how attempts end, what lookups say, workers and models that come and go."""

from typing import Any

import pytest

from stoker.schemas.catalog import Model, Spec
from stoker.schemas.fleet import PlatformEvent
from stoker.schemas.job_events import Expired, Failed
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.workers import Finished, Heartbeat, Outcome, ResidentModel, RunningJob
from stoker.services.scheduler.protocol import commands, events
from tests.unit.scheduler.making import make_model
from tests.unit.scheduler.single import NOW, TERM, Core, kept, kinds
from tests.unit.scheduler.workers import SimWorker

# Ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["completed", "failed", "cancelled"])
def test_a_job_that_has_ended_is_acknowledged_and_its_slot_goes_to_the_next(outcome: Outcome) -> None:
    core = Core("w")
    core.running()
    for number in range(6):
        core.arrive(f"k{number}", number + 2)
    core.now += 3
    found = core.feed(events.JobFinished("w", Finished("j", "a", 1, outcome)))
    assert found[0] == commands.Acknowledge("h1")
    assert kinds(found[1:]) == ["Assign"]
    ending = core.scheduler.ledger.history.endings["j"]
    assert (ending.status, ending.worker) == (outcome, "w")


def test_how_long_a_run_took_is_learned_from_what_was_completed_as_the_current_attempt() -> None:
    for outcome, attempt, learned in (("completed", 1, 0.5), ("failed", 1, 0.01), ("completed", 2, 0.01)):
        core = Core("w")
        core.running()
        kind: Outcome = "completed" if outcome == "completed" else "failed"
        core.feed(events.JobFinished("w", Finished("j", "a", attempt, kind, run_s=5.0, units=10.0)))
        assert core.scheduler.estimates.run_s("a", "default", 1.0) == pytest.approx(learned)


def test_an_attempt_that_ends_late_ends_the_job_and_its_newer_attempt() -> None:
    core = Core("w", "x")
    core.running()
    assert core.feed(events.JobFinished("elsewhere", Finished("j", "a", 0, "completed"))) == [
        commands.Revoke(core.scheduler.ledger.history.endings["j"].worker, "j", TERM, 1),
        commands.Acknowledge("h1"),
    ]


def test_a_lost_attempt_is_tried_elsewhere_where_it_was_the_current_one() -> None:
    core = Core("w", "x")
    record = core.running()
    first = record.worker
    assert core.feed(events.JobFinished(first, Finished("j", "a", 9, "lost"))) == []
    assert record.lost_on == []
    core.now += 1
    assert kinds(core.feed(events.JobFinished(first, Finished("j", "a", 1, "lost")))) == ["Assign"]
    assert (record.lost_on, record.worker != first) == ([first], True)


def test_an_end_of_an_unknown_job_only_ends_its_claim() -> None:
    core = Core("w")
    core.sims["w"].running["j"] = RunningJob("j", "a", "default", 3, 5)
    core.beat("w")
    assert core.feed(events.JobFinished("w", Finished("j", "a", 3, "completed"))) == []
    assert core.scheduler.reconciler.claim_of("j") is None


# Lookups ------------------------------------------------------------------------------------------


def checking() -> Core:
    core = Core("w")
    core.running()
    core.now += 2.5
    assert core.beat("w") == [commands.CheckResult("j", 1)]
    core.now += 1
    return core


def test_a_result_that_is_stored_ends_the_job() -> None:
    core = checking()
    assert core.feed(events.ResultChecked("j", 1, "stored")) == [commands.Acknowledge("h1")]
    assert core.scheduler.ledger.history.endings["j"].status == "completed"
    assert core.feed(events.ResultChecked("j", 1, "stored")) == []


def test_a_result_that_is_not_stored_lets_the_job_run_again() -> None:
    core = checking()
    [assign] = core.feed(events.ResultChecked("j", 1, "not_stored"))
    assert isinstance(assign, commands.Assign) and assign.assignment.attempt == 2


def test_a_lookup_that_failed_leaves_the_job_running_since_then() -> None:
    core = checking()
    assert core.feed(events.ResultChecked("j", 1, "unknown")) == []
    assert (core.record().phase, core.record().mentioned_at) == ("running", NOW + 3.5)


def test_a_lookup_of_another_attempt_counts_only_where_the_result_is_there() -> None:
    core = checking()
    assert core.feed(events.ResultChecked("j", 9, "not_stored")) == []
    assert core.record().phase == "checking"
    assert core.feed(events.ResultChecked("j", 9, "stored")) == [
        commands.Revoke("w", "j", TERM, 1),
        commands.Acknowledge("h1"),
    ]


# Workers and models -------------------------------------------------------------------------------


def test_a_new_worker_is_told_about_with_what_it_has() -> None:
    core = Core()
    core.sims["w"] = SimWorker("w")
    [joined] = kept(core.beat("w"))
    assert joined == PlatformEvent(
        kind="joined", subject="w", at=NOW, reason="cpu on h, engines text, image", worker="w"
    )
    assert kept(core.beat("w")) == []


def test_an_earlier_process_of_a_worker_is_not_listened_to() -> None:
    core = Core("w")
    core.sims["w"].life = 5.0
    core.beat("w")
    core.sims["w"].life = 4.0
    assert core.beat("w", is_leaving=True) == []
    assert core.scheduler.fleet.workers["w"].facts.started_at == 5.0


def test_a_worker_that_was_started_again_has_lost_what_it_ran() -> None:
    core = Core("w")
    core.running()
    core.sims["w"].life = 5.0
    core.now += 1
    found = kept(core.beat("w"))
    assert [(event.kind, event.reason.split(",")[0]) for event in found] == [
        ("lost", "it was started again"),
        ("joined", "cpu on h"),
    ]
    assert core.scheduler.ledger.records["j"].lost_on == ["w"]


def test_a_worker_that_leaves_is_drained_and_out_of_the_books() -> None:
    core = Core("w")
    assert [event.kind for event in kept(core.beat("w", is_leaving=True))] == ["drained"]
    assert core.scheduler.fleet.workers == {}


def loaded(tier: Any = "hot", load_s: float | None = 9.0) -> tuple[ResidentModel, ...]:
    return (ResidentModel("a", "default", "text", tier, 10**8, load_s, "parked"),)


@pytest.mark.parametrize(
    ("shown", "learned_s"), [(loaded(), 9.0), (loaded("loading"), None), (loaded(load_s=None), None)]
)
def test_a_load_that_was_measured_is_learned_once(shown: tuple[ResidentModel, ...], learned_s: Any) -> None:
    core = Core("w")
    spec = make_model("a").specs[0]
    before = core.scheduler.estimates.load_s("a", spec, "parked")
    core.beat("w", models=shown)
    after = core.scheduler.estimates.load_s("a", spec, "parked")
    assert after == (learned_s if learned_s is not None else before)
    core.scheduler.estimates.learn_load("a", "default", "parked", 1.0)
    moved = core.scheduler.estimates.load_s("a", spec, "parked")
    core.beat("w", models=shown)
    assert core.scheduler.estimates.load_s("a", spec, "parked") == moved


def test_a_worker_that_becomes_free_is_given_the_longest_waiting_model_first() -> None:
    core = Core()
    core.feed(events.ModelChanged("b", make_model("b")))
    core.arrive("b1", 1, model="b")
    core.now += 1
    core.arrive("a1", 2)
    sim = core.sims["w"] = SimWorker("w")
    for name in "ab":
        sim.make_hot(name, make_model(name).specs[0])
    core.beat("w")
    given = [c.assignment.job.id for c in core.feed(events.Ticked()) if isinstance(c, commands.Assign)]
    assert given == ["b1", "a1"]


def test_a_model_that_is_gone_is_forgotten_and_its_waiting_jobs_end() -> None:
    core = Core()
    core.scheduler.estimates.learn_run("a", "default", 1.0, 9.0)
    core.arrive()
    [end] = core.feed(events.ModelChanged("a", None))
    assert isinstance(end, commands.EndJob) and isinstance(end.event, Failed)
    assert end.event.message == "the model 'a' was removed from the catalog while the job waited"
    assert core.scheduler.estimates.run_s("a", "default", 1.0) == 0.01


def test_jobs_that_brought_their_spec_along_outlive_their_model() -> None:
    core = Core()
    core.arrive(spec=Spec("own", "text", ""))
    assert core.feed(events.ModelChanged("a", None)) == []
    assert core.record().phase == "waiting"


def test_a_job_that_brought_its_spec_along_runs_again_though_its_model_has_gone() -> None:
    core = Core("w", "v")
    core.arrive(spec=Spec("own", "text", ""))
    core.accept()
    core.feed(events.ModelChanged("a", None))
    core.feed(events.Ticked())
    lost_on = core.record().worker
    core.now += 10
    core.beat("v" if lost_on == "w" else "w")
    found = core.feed(events.WorkerGone(lost_on)) + core.feed(events.Ticked())
    core.now += 2
    found += core.feed(events.Ticked())
    assert [one.worker for one in found if isinstance(one, commands.Assign)] == ["v" if lost_on == "w" else "w"]


def test_a_model_that_is_back_while_its_jobs_wait_stays() -> None:
    core = Core()
    core.arrive(spec=Spec("own", "text", ""))
    core.feed(events.ModelChanged("a", None))
    core.feed(events.ModelChanged("a", make_model("a")))
    core.feed(events.CancelRequested("j"))
    core.feed(events.Ticked())
    assert "a" in core.scheduler.dispatcher.models


def test_a_model_that_comes_places_the_jobs_that_wait_for_it() -> None:
    core = Core("w", is_settled=False)
    core.feed(events.ModelChanged("a", None))
    core.scheduler.is_settling = False
    core.scheduler.ledger.add(Job("j", "a", CompletionInput("x"), "gw", NOW), "h1", 1, NOW)
    model: Model = make_model("a")
    assert kinds(core.feed(events.ModelChanged("a", model))) == ["Assign"]


def test_a_job_that_waited_too_long_expires_though_the_scheduler_still_settles() -> None:
    core = Core(is_settled=False)
    core.arrive(admission_timeout_s=2.0)
    core.now += 2.5
    [end] = core.feed(events.Ticked())
    assert isinstance(end, commands.EndJob) and isinstance(end.event, Expired)
    assert (end.event.finished_at, end.event.message) == (NOW + 2.5, "no worker could start it within 2 s")


def test_a_tick_asks_silent_workers() -> None:
    core = Core("w")
    core.now += 2
    assert commands.Probe("w") in core.feed(events.Ticked())


def test_a_worker_of_which_nobody_listens_is_away() -> None:
    core = Core("w")
    assert core.feed(events.WorkerGone("w")) == []
    assert core.scheduler.fleet.workers["w"].presence == "away"


def test_a_heartbeat_that_comes_twice_is_taken_in_once() -> None:
    core = Core("w")
    heartbeat: Heartbeat = core.sims["w"].heartbeat()
    core.feed(events.HeartbeatSeen(heartbeat))
    seen_at = core.scheduler.fleet.workers["w"].seen_at
    core.now += 1
    assert core.feed(events.HeartbeatSeen(heartbeat)) == []
    assert core.scheduler.fleet.workers["w"].seen_at == seen_at
