"""The books: every move of the table and no other; what a state holds goes with it; what is asked is answered."""

import copy
from typing import Any

import pytest

from stoker.schemas.fleet import Explanation, JobsQuery, JobView
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.workers import RunningJob
from stoker.services.scheduler.fleet.lane import Held
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.jobs import history, ledger
from stoker.services.scheduler.jobs.ledger import Ledger
from stoker.services.scheduler.jobs.record import (
    HOLDS_SLOT,
    REFUSAL_REMEMBERED_S,
    STATUS,
    TRANSITIONS,
    IllegalMove,
    Phase,
    Record,
)
from tests.unit.scheduler.making import lane_loads
from tests.unit.scheduler.workers import SimWorker

NOW = 1000.0
PHASES: list[Phase] = list(TRANSITIONS)


def job(name: str = "j", model: str = "a", **fields: Any) -> Job:
    return Job(id=name, model=model, input=CompletionInput("x"), gateway="gw", created_at=NOW, **fields)


def books() -> Ledger:
    fleet = Fleet()
    fleet.update(SimWorker("w").heartbeat(), NOW)
    return Ledger(fleet)


def held(name: str = "j", model: str = "a", attempt: int = 1) -> Held:
    return Held(name, model, "default", model, attempt, NOW)


def in_phase(phase: Phase) -> tuple[Ledger, Record]:
    """A job that has come to a state by legal moves."""
    found = books()
    record = found.add(job(), "h", 1, NOW)
    if phase in HOLDS_SLOT:
        found.offer(record, found.fleet.workers["w"], held(), 7, NOW + 1)
    ways: dict[Phase, list[Phase]] = {
        "running": ["running"],
        "checking": ["running", "checking"],
        "cancelling": ["cancelling"],
        "ended": ["ended"],
    }
    for step in ways.get(phase, []):
        found.move(record, step, NOW + 2)
    assert record.phase == phase
    return found, record


def snapshot(found: Ledger, record: Record) -> object:
    queue, worker = found.queue("a"), found.fleet.workers["w"]
    return copy.deepcopy(
        (record, list(queue.waiting.in_order()), queue.running, queue.by_spec, worker.held, lane_loads(worker))
    )


@pytest.mark.parametrize("to", PHASES)
@pytest.mark.parametrize("phase", PHASES)
def test_the_table_decides_and_an_illegal_move_changes_nothing(phase: Phase, to: Phase) -> None:
    found, record = in_phase(phase)
    before = snapshot(found, record)
    if to in TRANSITIONS[phase] and not (phase == "waiting" and to in HOLDS_SLOT):
        found.move(record, to, NOW + 3)
        assert (record.phase, record.mentioned_at) == (to, NOW + 3)
    elif to not in TRANSITIONS[phase]:
        with pytest.raises(IllegalMove, match=f"{phase} -> {to}"):
            found.move(record, to, NOW + 3)
        assert snapshot(found, record) == before


@pytest.mark.parametrize("phase", sorted(HOLDS_SLOT))
@pytest.mark.parametrize("to", ["waiting", "ended"])
def test_leaving_a_state_gives_its_slot_back(phase: Phase, to: Phase) -> None:
    if to not in TRANSITIONS[phase]:
        pytest.skip("no such move")
    found, record = in_phase(phase)
    queue, worker = found.queue("a"), found.fleet.workers["w"]
    assert (queue.running, queue.by_spec, lane_loads(worker)) == (1, {"default": 1}, {"a": 1})
    found.move(record, to, NOW + 3)
    assert (queue.running, queue.by_spec, lane_loads(worker), worker.held) == (0, {}, {}, {})
    assert (record.worker, record.spec) == (("", "") if to == "waiting" else ("w", "default"))
    assert ("j" in queue.waiting) == (to == "waiting")


def test_offering_takes_the_slot_and_says_whose_attempt_it_is() -> None:
    found, record = in_phase("offered")
    assert (record.worker, record.spec, record.attempt, record.term) == ("w", "default", 1, 7)
    assert record.queued_s == 1.0
    assert record.is_attempt("w", 1)
    assert not record.is_attempt("w", 2)
    assert not record.is_attempt("x", 1)
    found.move(record, "waiting", NOW + 2)
    assert not record.is_attempt("w", 1)
    found.validate()


def test_a_job_cannot_be_offered_twice_and_the_second_offer_takes_no_slot() -> None:
    found, record = in_phase("offered")
    with pytest.raises(IllegalMove):
        found.offer(record, found.fleet.workers["w"], held(attempt=2), 7, NOW)
    assert record.attempt == 1
    assert lane_loads(found.fleet.workers["w"]) == {"a": 1}
    found.validate()


def test_adopting_takes_over_the_workers_attempt() -> None:
    found = books()
    record = found.add(job(), "h", 1, NOW)
    found.adopt(record, found.fleet.workers["w"], RunningJob("j", "a", "default", 4, 3), NOW + 5)
    assert (record.phase, record.attempt, record.term, record.worker) == ("running", 4, 3, "w")
    found.validate()
    with pytest.raises(IllegalMove):
        found.adopt(record, found.fleet.workers["w"], RunningJob("j", "a", "default", 5, 3), NOW + 5)
    assert record.attempt == 4


def test_a_job_that_comes_back_keeps_its_place_and_its_model_is_named_once() -> None:
    found = books()
    first, second = (found.add(job(name), f"h{name}", 1, NOW) for name in "ab")
    found.offer(first, found.fleet.workers["w"], held("a"), 1, NOW)
    assert found.take_returned() == []
    found.move(first, "waiting", NOW)
    assert [record.id for record in found.waiting("a")] == ["a", "b"]
    assert found.take_returned() == ["a"]
    assert found.take_returned() == []
    assert second.phase == "waiting"


def test_a_deadline_is_told_once_while_the_job_waits_and_again_when_it_comes_back() -> None:
    found = books()
    record = found.add(job(admission_timeout_s=5.0), "h", 1, NOW)
    assert found.overdue(NOW + 4.9) == []
    found.offer(record, found.fleet.workers["w"], held(), 1, NOW)
    assert found.overdue(NOW + 6) == [], "it runs: nothing is overdue"
    found.move(record, "waiting", NOW + 7)
    assert found.overdue(NOW + 7) == [record]
    assert found.overdue(NOW + 8) == []


def test_the_nearer_of_two_limits_is_the_deadline() -> None:
    found = books()
    record = found.add(job(admission_timeout_s=50.0, deadline_s=2.0), "h", 1, NOW)
    assert found.overdue(NOW + 1.9) == []
    assert found.overdue(NOW + 2.0) == [record]


def test_deadlines_of_ended_jobs_are_swept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "KEPT_DEADLINES", 10)
    found = books()
    for number in range(100):
        found.end(found.add(job(f"j{number}"), "h", number, NOW), "failed", NOW)
    assert len(found._deadlines) < 20


def test_ending_leaves_a_view_and_nothing_else() -> None:
    found, record = in_phase("running")
    found.end(record, "completed", NOW + 9)
    view = found.view("j")
    assert view is not None
    assert (view.status, view.worker, view.attempt, view.spec) == ("completed", "w", 1, "default")
    assert found.records == {}
    assert found.view("other") is None
    found.validate()


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "ended"])
def test_people_are_told_a_status_for_every_state(phase: Phase) -> None:
    found, _ = in_phase(phase)
    view = found.view("j")
    assert view is not None
    assert view.status == STATUS[phase]
    assert view.position == (0 if phase == "waiting" else None)


def test_a_position_counts_the_jobs_ahead() -> None:
    found = books()
    for name in "abc":
        found.add(job(name), name, 1, NOW)
    found.add(job("urgent", priority=5), "u", 1, NOW)
    positions = {name: view.position for name in ("urgent", *"abc") if (view := found.view(name))}
    assert positions == {"urgent": 0, "a": 1, "b": 2, "c": 3}


def test_pages_are_newest_first_filtered_and_go_on_from_a_cursor() -> None:
    found = books()
    for number in range(5):
        made = Job(f"j{number}", "ab"[number % 2], CompletionInput("x"), "gw", NOW + number, tenant="t")
        found.add(made, "h", number, NOW)
    found.end(found.records["j0"], "cancelled", NOW)
    found.history.note_ending(JobView("old", "a", "completed", 1.0, tenant="other"))

    def ids(**query: Any) -> list[str]:
        return [view.id for view in found.page(JobsQuery(**query)).jobs]

    assert ids() == ["j4", "j3", "j2", "j1", "j0", "old"]
    assert ids(model="b") == ["j3", "j1"]
    assert ids(status="cancelled") == ["j0"]
    assert ids(tenant="other") == ["old"]
    page = found.page(JobsQuery(limit=2))
    assert page.next_cursor == "j3"
    assert ids(limit=2, cursor="j3") == ["j2", "j1"]
    assert found.page(JobsQuery(limit=2, cursor="j1")).next_cursor == ""
    assert ids(cursor="nobody") == []


def test_depth_says_who_waits_who_runs_and_how_long() -> None:
    found = books()
    first = found.add(job("a"), "h", 1, NOW)
    found.add(job("b"), "h", 2, NOW)
    found.offer(first, found.fleet.workers["w"], held("a"), 1, NOW + 1)
    depth = found.depth(found.queue("a"), NOW + 3, 99)
    assert (depth.queued, depth.running, depth.oldest_wait_s, depth.by_spec) == (1, 1, 3.0, {"default": 1})
    assert depth.limit == 99
    empty = found.depth(found.queue("none"), NOW, 9)
    assert (empty.queued, empty.running, empty.oldest_wait_s, empty.by_spec) == (0, 0, 0.0, {})


def test_queues_of_models_that_are_gone_go_when_no_job_is_left() -> None:
    found, record = in_phase("running")
    found.forget_queue("a")
    assert "a" in found.queues
    found.end(record, "completed", NOW)
    found.forget_queue("a")
    found.forget_queue("never there")
    assert found.queues == {}


def test_queues_that_wait_come_in_the_order_of_their_first_jobs() -> None:
    found = books()
    for name, model, at, priority in (("1", "a", 3.0, 0), ("2", "b", 1.0, 0), ("3", "c", 9.0, 1)):
        made = Job(name, model, CompletionInput("x"), "gw", at, priority=priority)
        found.add(made, "h", 1, NOW)
    found.queue("empty")
    waiting = found.waiting_queues()
    assert {queue.name for queue in waiting} == {"a", "b", "c"}
    assert [queue.name for queue in found.by_first_job(waiting)] == ["c", "b", "a"]
    assert found.has_waiting("a")
    assert not found.has_waiting("empty")
    assert not found.has_waiting("never there")


def test_arrivals_become_a_rate() -> None:
    queue = books().queue("a")
    for step in range(21):
        queue.count_arrival(NOW + step)
        queue.count_arrival(NOW + step)
        queue.settle_rate(NOW + step + 0.999)
    assert 1.2 < queue.arrival_rate < 2.1
    for step in range(22, 80):
        queue.settle_rate(NOW + step)
    assert queue.arrival_rate < 0.05


def test_a_refusal_fades() -> None:
    record = books().add(job(), "h", 1, NOW)
    assert not record.refused_lately("w", NOW)
    record.refused_at["w"] = NOW
    assert record.refused_lately("w", NOW + REFUSAL_REMEMBERED_S - 0.01)
    assert not record.refused_lately("w", NOW + REFUSAL_REMEMBERED_S)
    assert not record.refused_lately("x", NOW)


@pytest.mark.parametrize(
    ("fields", "is_particular"),
    [({}, False), ({"lost_on": ["w"]}, True), ({"refused_at": {"w": 1.0}}, True)],
)
def test_a_job_with_needs_of_its_own_is_particular(fields: dict[str, Any], is_particular: bool) -> None:
    record = books().add(job(), "h", 1, NOW)
    for name, value in fields.items():
        setattr(record, name, value)
    assert record.is_particular is is_particular
    assert books().add(job(adapter="style"), "h", 1, NOW).is_particular


def test_history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT_ENDINGS", 3)
    monkeypatch.setattr(history, "KEPT_EXPLANATIONS", 3)
    kept = history.History()
    for number in range(5):
        kept.ended(JobView(f"j{number}", "a", "completed", 1.0))
        kept.decided(f"j{number}", lambda: Explanation("j", "a", 1, 1.0, "w", "r", 1))
    assert list(kept.endings) == ["j2", "j3", "j4"]
    assert kept.explanation("j1") is None
    explained = kept.explanation("j4")
    assert explained is not None and explained.chosen == "w"
    kept.note_ending(JobView("j4", "a", "failed", 1.0))
    assert kept.endings["j4"].status == "completed", "what this leader saw itself stands"


@pytest.mark.parametrize(
    "damage",
    [
        lambda found, record: setattr(record, "phase", "ended"),
        lambda found, record: setattr(record, "phase", "waiting"),
        lambda found, record: found.fleet.release(found.fleet.workers["w"], "j", 0.0),
        lambda found, record: setattr(record, "attempt", 9),
        lambda found, record: found.queue("a").by_spec.update({"default": 2}),
        lambda found, record: setattr(found.queue("a"), "running", 5),
        lambda found, record: found.queue("a").waiting.push("ghost", 99),
        lambda found, record: setattr(found.fleet.workers["w"].lanes["a"], "jobs", 2),
        lambda found, record: found.fleet.workers["w"].busy.update({"a": 2}),
        lambda found, record: found.fleet.workers["w"].lanes["a"].ahead.update({"ghost": held("ghost")}),
        lambda found, record: found.fleet.workers["w"].held.update({"ghost": held("ghost")}),
    ],
)
def test_validate_sees_every_contradiction(damage: Any) -> None:
    found, record = in_phase("running")
    found.validate()
    damage(found, record)
    with pytest.raises((AssertionError, KeyError)):
        found.validate()


def test_the_deadline_of_an_earlier_job_of_the_same_id_is_not_told() -> None:
    found = books()
    first = found.add(job("j", admission_timeout_s=5.0), "h1", 1, NOW)
    found.end(first, "completed", NOW)
    again = found.add(job("j", admission_timeout_s=1.0), "h2", 2, NOW)
    assert found.overdue(NOW + 2) == [again]
    assert found.overdue(NOW + 6) == [], "that was the first one's"
