"""Jobs that end without a worker: what their last event says, and what the core tells of models and replicas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.fleet import ModelReplicas, SpecReplicas
from stoker.schemas.job_events import Cancelled, Expired, Failed, Queued, TerminalEvent, Timings
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.workers import ResidentModel, RunningJob
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.jobs.ledger import Ledger
from stoker.services.scheduler.placing.possibility import STARTING_GRACE_S
from stoker.services.scheduler.protocol import commands, events
from stoker.services.scheduler.protocol.endings import Endings
from tests.unit.scheduler.making import lane_loads, make_model
from tests.unit.scheduler.single import NOW, TERM, Core
from tests.unit.scheduler.workers import MB, SimWorker


def test_a_client_that_does_not_wait_longer_is_told_when_to_try_again() -> None:
    core = Core()
    core.arrive(unserved_timeout_s=30.0)
    core.arrive("patient", 2)
    core.now += 30.0
    assert [c for c in core.feed(events.Ticked()) if isinstance(c, commands.EndJob)] == []
    core.now += 31.0
    [end] = [c for c in core.feed(events.Ticked()) if isinstance(c, commands.EndJob)]
    assert isinstance(end.event, Failed)
    assert (end.job.id, end.event.kind, end.event.code) == ("j", "resource", "unserved")
    assert end.event.retry_after_s == 5
    assert "patient" in core.scheduler.ledger.records


def ended(how: str, waited_s: float = 2.5) -> tuple[TerminalEvent, commands.EndJob, Ledger]:
    ledger = Ledger(Fleet())
    endings = Endings(ledger, TERM)
    job = Job("j", "a", CompletionInput("x"), "gw", NOW, fingerprint="f", webhook="http://h", tenant="t")
    record = ledger.add(job, "h1", 1, NOW)
    record.attempt = 3
    now = NOW + waited_s
    found = {
        "cancelled": lambda: endings.cancelled(record, now),
        "failed": lambda: endings.failed(record, "impossible", "because", now),
        "expired": lambda: endings.expired(record, now),
    }[how]()
    [end] = found
    assert isinstance(end, commands.EndJob)
    return end.event, end, ledger


@pytest.mark.parametrize("how", ["cancelled", "failed", "expired"])
def test_the_last_event_says_whose_job_it_was_and_when_it_ended(how: str) -> None:
    event, end, ledger = ended(how)
    assert (event.term, event.attempt, event.job, event.model) == (TERM, 3, "j", "a")
    assert (event.created_at, event.finished_at, event.timings) == (NOW, NOW + 2.5, Timings(queued_s=2.5))
    assert (event.fingerprint, event.webhook, event.tenant) == ("f", "http://h", "t")
    assert (end.handle, end.job.id) == ("h1", "j")
    assert (ledger.records, ledger.history.endings["j"].status) == ({}, how)
    ledger.validate()


def test_each_way_to_end_has_its_own_event() -> None:
    assert isinstance(ended("cancelled")[0], Cancelled)
    failed, expired = ended("failed")[0], ended("expired", 61.4)[0]
    assert isinstance(failed, Failed) and isinstance(expired, Expired)
    assert (failed.kind, failed.message) == ("impossible", "because")
    assert expired.message == "no worker could start it within 61 s"


@given(st.floats(-5, 1e6))
def test_nobody_has_waited_less_than_nothing(waited_s: float) -> None:
    """The clock of who created the job may be ahead of ours."""
    queued_s = ended("cancelled", waited_s)[0].timings.queued_s
    assert queued_s == pytest.approx(max(waited_s, 0.0), abs=1e-3)


def test_the_core_ends_jobs_in_its_own_term() -> None:
    core = Core()
    core.arrive()
    [end] = core.feed(events.CancelRequested("j"))
    assert isinstance(end, commands.EndJob)
    assert end.event.term == TERM


def test_what_the_autoscaler_has_recorded_becomes_an_eta() -> None:
    core = Core()
    record = ModelReplicas("a", (SpecReplicas("default", 1, 0, start_s=30.0),), NOW)
    assert core.feed(events.ReplicasChanged("a", record)) == []
    [notify] = core.arrive(wants_events=True)
    assert isinstance(notify, commands.Notify)
    assert notify.event == Queued(position=0, eta_s=30.0, eta_p90_s=60.0)
    core.feed(events.ReplicasChanged("a", None))
    [notify] = core.arrive("k", 2, wants_events=True)
    assert isinstance(notify, commands.Notify)
    assert notify.event == Queued(position=1, eta_s=None)


def test_a_model_that_changed_is_published_at_the_next_turn() -> None:
    core = Core("w")
    core.feed(events.Ticked())
    core.now += 0.1
    assert not [c for c in core.feed(events.Ticked()) if isinstance(c, commands.PublishDepth)]
    core.feed(events.ModelChanged("a", make_model("a")))
    core.now += 0.1
    assert [c.depth.model for c in core.feed(events.Ticked()) if isinstance(c, commands.PublishDepth)] == ["a"]


def test_replicas_that_share_a_lane_are_ordered_by_what_is_in_it() -> None:
    core = Core()
    core.feed(events.ModelChanged("i", make_model("i", "image")))
    core.feed(events.ModelChanged("k", make_model("k", "image")))
    for name in ("w1", "w2"):
        core.sims[name] = SimWorker(name)
        shown = tuple(ResidentModel(one, "default", "image", "hot", 100 * MB) for one in "ik")
        core.sims[name].models = {one.model: one for one in shown}
        core.beat(name)
    given_to = []
    for number, model in enumerate(("i", "k", "i", "k")):
        [assign] = core.arrive(f"j{number}", number + 1, model=model)
        assert isinstance(assign, commands.Assign)
        given_to.append(assign.worker)
    assert sorted(given_to[:2]) == sorted(given_to[2:]) == ["w1", "w2"]
    assert core.arrive("full", 9, model="i") == []


def test_a_job_that_ends_in_the_queue_costs_its_tenant_no_turn() -> None:
    core = Core()
    for number in range(3):
        core.arrive(f"heavy{number}", number + 1, tenant="heavy")
    for number in (2, 1):
        core.feed(events.CancelRequested(f"heavy{number}"))
    core.arrive("light", 9, tenant="light")
    core.arrive("heavy-again", 10, tenant="heavy")
    assert [record.id for record in core.scheduler.ledger.waiting("a")] == ["heavy0", "light", "heavy-again"]
    assert core.scheduler.ledger.clock.given("light") == 0.0


def test_every_job_that_is_overdue_ends_at_the_same_tick() -> None:
    core = Core()
    for number in range(3):
        core.arrive(f"j{number}", number + 1, admission_timeout_s=2.0)
    core.now += 2.5
    ends = [c.job.id for c in core.feed(events.Ticked()) if isinstance(c, commands.EndJob)]
    assert sorted(ends) == ["j0", "j1", "j2"]


def test_every_job_of_an_impossible_model_ends_at_the_same_tick() -> None:
    core = Core()
    core.sims["small"] = SimWorker("small", memory_mb=1)
    core.beat("small")
    for number in range(3):
        core.arrive(f"j{number}", number + 1)
    core.now += STARTING_GRACE_S + 1
    core.beat("small")
    ends = [c for c in core.feed(events.Ticked()) if isinstance(c, commands.EndJob)]
    assert [end.job.id for end in ends] == ["j0", "j1", "j2"]
    assert {type(end.event) for end in ends} == {Failed}


def test_an_adopted_job_takes_a_slot_of_the_lane_of_its_engine() -> None:
    core = Core()
    core.sims["w"] = SimWorker("w")
    core.sims["w"].models = {"i": ResidentModel("i", "default", "image", "hot", 100 * MB)}
    core.sims["w"].running = {
        "drawn": RunningJob("drawn", "i", "default", 1, 3),
        "unknown": RunningJob("unknown", "u", "default", 1, 3),
    }
    core.beat("w")
    core.arrive("drawn", 1, model="i")
    core.arrive("unknown", 2, model="u")
    worker = core.scheduler.fleet.workers["w"]
    assert lane_loads(worker) == {"lane:device": 1, "u": 1}
    held = worker.held["drawn"]
    assert (held.job, held.model, held.spec, held.attempt, held.since) == ("drawn", "i", "default", 1, NOW)
