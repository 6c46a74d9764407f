"""The queue of a model: rates, heat, charges; what views and pages show of jobs."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.fleet import JobsQuery, JobView
from stoker.schemas.jobs import CompletionInput, Job
from stoker.services.scheduler.fleet.lane import Held
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.jobs import history, ledger
from stoker.services.scheduler.jobs.history import History
from stoker.services.scheduler.jobs.ledger import Ledger
from stoker.services.scheduler.jobs.queues import HEAT_S, RATE_WINDOW_S, ModelQueue
from tests.unit.scheduler.workers import SimWorker

NOW = 1000.0


# Rates --------------------------------------------------------------------------------------------


def test_the_rate_follows_the_arrivals_in_proportion_to_the_time() -> None:
    queue = ModelQueue("a")
    for _ in range(6):
        queue.count_arrival(NOW)
    assert (queue.arrived, queue.rate_at, queue.is_changed) == (6, NOW, True)
    queue.settle_rate(NOW + 0.99)
    assert (queue.arrived, queue.arrival_rate) == (6, 0.0), "too soon to say"
    queue.settle_rate(NOW + 2.0)
    assert queue.arrival_rate == pytest.approx(2.0 / RATE_WINDOW_S * 3.0)
    assert (queue.arrived, queue.rate_at) == (0, NOW + 2.0)
    queue.settle_rate(NOW + 3.0)
    assert queue.arrival_rate == pytest.approx(0.6 * 0.9)


def test_after_a_whole_window_only_what_arrived_in_it_counts() -> None:
    queue = ModelQueue("a", arrival_rate=50.0, rate_at=NOW, arrived=40)
    queue.settle_rate(NOW + 2 * RATE_WINDOW_S)
    assert queue.arrival_rate == pytest.approx(2.0)


def test_the_first_arrival_starts_the_clock_and_later_ones_do_not() -> None:
    queue = ModelQueue("a", is_changed=False)
    queue.count_arrival(NOW)
    queue.count_arrival(NOW + 5)
    assert (queue.rate_at, queue.arrived, queue.is_changed) == (NOW, 2, True)


def test_a_queue_is_idle_when_nobody_waits_and_nobody_runs() -> None:
    queue = ModelQueue("a")
    assert queue.is_idle
    queue.running = 1
    assert not queue.is_idle
    queue.running = 0
    queue.waiting.push("j", 1)
    assert not queue.is_idle


# Views --------------------------------------------------------------------------------------------


def books() -> Ledger:
    fleet = Fleet()
    fleet.update(SimWorker("w").heartbeat(), NOW)
    return Ledger(fleet)


def job(name: str = "j", model: str = "a", **fields: Any) -> Job:
    return Job(name, model, CompletionInput("x"), "gw", fields.pop("created_at", NOW), **fields)


def give(found: Ledger, name: str, now: float = NOW) -> None:
    record = found.records[name]
    found.offer(record, found.fleet.workers["w"], Held(name, "a", "default", "a", 1, now), 7, now)


def test_a_view_shows_whose_job_it_is_and_how_long_it_waited() -> None:
    found = books()
    found.add(job(fingerprint="f", tenant="t"), "h", 1, NOW)
    give(found, "j", NOW + 1.23456)
    expected = JobView(
        id="j", model="a", status="assigned", created_at=NOW, attempt=1, worker="w", spec="default",
        queued_s=1.2346, fingerprint="f", gateway="gw", tenant="t",
    )  # fmt: skip
    assert found.view("j") == expected


def test_a_job_that_was_created_by_a_clock_ahead_of_ours_has_not_waited() -> None:
    found = books()
    found.add(job(created_at=NOW + 5), "h", 1, NOW)
    give(found, "j", NOW)
    assert found.records["j"].queued_s == 0.0
    assert found.depth(found.queue("a"), NOW, 9).oldest_wait_s == 0.0


def test_who_waits_is_watched_from_then_on_and_who_runs_is_asked_directly() -> None:
    found = books()
    waits, runs = found.add(job("waits"), "h", 1, NOW), found.add(job("runs"), "h", 2, NOW)
    give(found, "runs")
    for name in ("waits", "runs", "nobody"):
        found.watch(name)
    assert (waits.job.wants_events, runs.job.wants_events) == (True, False)


def test_depths_are_rounded_and_copied() -> None:
    found = books()
    found.add(job("waits", created_at=NOW - 1.23456), "h", 1, NOW)
    found.add(job("runs"), "h", 2, NOW)
    give(found, "runs")
    queue = found.queue("a")
    queue.arrival_rate = 0.12345
    depth = found.depth(queue, NOW, 9)
    assert (depth.model, depth.oldest_wait_s, depth.arrival_rate) == ("a", 1.235, 0.123)
    queue.by_spec["default"] = 99
    assert depth.by_spec == {"default": 1}


def test_a_depth_tells_the_most_jobs_at_a_time_since_the_last_one() -> None:
    found = books()
    records = [found.add(job(name), "h", number, NOW) for number, name in enumerate("abc")]
    for record in records:
        found.end(record, "cancelled", NOW)
    queue = found.queue("a")
    assert [found.depth(queue, NOW, 9).peak for _ in range(2)] == [3, 0]
    found.add(job("d"), "h", 4, NOW)
    assert [found.depth(queue, NOW, 9).peak for _ in range(2)] == [1, 1]


def test_a_page_that_ends_with_the_last_job_has_no_next() -> None:
    found = books()
    for number in range(4):
        found.add(job(f"j{number}", created_at=NOW + number), "h", number, NOW)
    page = found.page(JobsQuery(limit=2, cursor="j2"))
    assert ([view.id for view in page.jobs], page.next_cursor) == (["j1", "j0"], "")
    assert found.page(JobsQuery(limit=3)).next_cursor == "j1"
    assert found.page(JobsQuery(limit=4)).next_cursor == ""
    assert found.page(JobsQuery(limit=0)).next_cursor == ""


def test_jobs_of_the_same_moment_have_one_order() -> None:
    found = books()
    for name in ("b", "c", "a"):
        found.add(job(name), "h", 1, NOW)
    assert [view.id for view in found.page(JobsQuery()).jobs] == ["c", "b", "a"]


@given(st.integers(0, 25), st.integers(1, 9))
def test_pages_together_are_everything_once(count: int, limit: int) -> None:
    found = books()
    for number in range(count):
        record = found.add(job(f"j{number:02}", created_at=NOW + number % 3), "h", number, NOW)
        if number % 4 == 0:
            found.end(record, "failed", NOW)
    whole = [view.id for view in found.page(JobsQuery(limit=100)).jobs]
    seen, cursor = list[str](), ""
    for _ in range(count + 1):
        page = found.page(JobsQuery(limit=limit, cursor=cursor))
        seen += [view.id for view in page.jobs]
        cursor = page.next_cursor
        if not cursor:
            break
    assert seen == whole
    assert len(whole) == count


def test_queues_come_by_priority_then_what_tenants_were_given_then_depth_then_age() -> None:
    found = books()
    found.add(job("e1", "e", created_at=1.0, tenant="served"), "h", 1, NOW)
    found.clock.charge("served", 3.0)
    found.add(job("a1", "a", created_at=5.0), "h", 2, NOW)
    found.add(job("b1", "b", created_at=1.0, priority=-2), "h", 3, NOW)
    found.add(job("c1", "c", created_at=4.0), "h", 4, NOW)
    found.add(job("d1", "d", created_at=9.0, depth=1), "h", 5, NOW)
    assert [queue.name for queue in found.by_first_job(found.waiting_queues())] == ["d", "c", "a", "e", "b"]
    assert found.queue("e").waiting.first_with_order() == ("e1", (0, 3.0))
    assert found.queue("empty").waiting.first_with_order() is None


def test_the_first_job_that_any_worker_may_run_stands_behind_those_with_needs_of_their_own() -> None:
    found = books()
    for name in ("lost", "too", "plain"):
        found.add(job(name, "a"), "h", len(found.records) + 1, NOW)
    assert found.first_plain(found.queue("a")).id == "lost"
    for name in ("lost", "too"):
        found.records[name].lost_on.append("w")
    assert found.first_plain(found.queue("a")).id == "plain"


def test_heat_is_the_arrivals_of_the_last_minute_older_ones_less() -> None:
    queue = ModelQueue("a")
    assert queue.heat(NOW) == 0.0
    for _ in range(4):
        queue.count_arrival(NOW)
    assert queue.heat(NOW) == 4.0
    assert queue.heat(NOW + HEAT_S) == pytest.approx(4 / math.e)
    queue.count_arrival(NOW + HEAT_S)
    assert queue.heat(NOW + HEAT_S) == pytest.approx(1 + 4 / math.e)


def test_a_tenant_is_charged_when_its_job_is_given_out_and_again_by_what_it_took() -> None:
    found = books()
    for name in ("j", "k"):
        found.add(job(name, tenant="t"), "h", 1, NOW)
    give(found, "j")
    assert found.clock.given("t") == pytest.approx(2.56), "256 tokens at 0.01 s"
    found.ran(found.records["j"], 10.0)
    assert found.clock.given("t") == pytest.approx(10.0)
    found.ran(found.records["j"], 4.0)
    assert found.clock.given("t") == pytest.approx(10.0), "it goes on from there when it has used its credit"


def test_a_job_that_comes_back_is_not_charged() -> None:
    found = books()
    for name in ("j", "k"):
        found.add(job(name, tenant="t"), "h", 1, NOW)
    give(found, "j")
    found.move(found.records["j"], "waiting", NOW)
    found.clock.charge("t", 2.56)
    assert found.clock.given("t") == pytest.approx(2.56)
    assert [record.id for record in found.waiting("a")] == ["j", "k"], "and it has its place again"


def test_a_change_of_a_job_marks_its_queue_as_changed() -> None:
    found = books()
    found.add(job(), "h", 1, NOW)
    queue = found.queue("a")
    for step in ("give", "end"):
        queue.is_changed = False
        if step == "give":
            give(found, "j")
        else:
            found.end(found.records["j"], "failed", NOW)
        assert queue.is_changed


def test_models_whose_jobs_came_back_are_named_in_order_and_once() -> None:
    found = books()
    for name, model in (("1", "b"), ("2", "a"), ("3", "b")):
        record = found.add(job(name, model), "h", 1, NOW)
        found.offer(record, found.fleet.workers["w"], Held(name, model, "default", model, 1, NOW), 7, NOW)
        found.move(record, "waiting", NOW)
    assert found.take_returned() == ["a", "b"]
    assert found.take_returned() == []


def test_deadlines_of_live_jobs_outlive_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "KEPT_DEADLINES", 3)
    found = books()
    found.add(job("first", admission_timeout_s=9.0), "h", 1, NOW)
    for number in range(30):
        found.end(found.add(job(f"j{number}", admission_timeout_s=5.0), "h", 1, NOW), "failed", NOW)
    found.add(job("second", admission_timeout_s=2.0), "h", 1, NOW)
    assert len(found._deadlines) <= 2 * 2 + 3
    assert [record.id for record in found.overdue(NOW + 2)] == ["second"]
    assert [record.id for record in found.overdue(NOW + 9)] == ["first"]


def test_a_decision_that_is_made_again_is_explained_by_the_last() -> None:
    kept = History()
    for reason in ("first", "second"):
        kept.decided("j", lambda reason=reason: reason)  # type: ignore[misc]
    assert kept.explanation("j") == "second"


def test_an_ending_from_before_this_term_can_be_asked_for() -> None:
    found = books()
    before = JobView("old", "a", "completed", 1.0)
    found.history.note_ending(before)
    assert found.view("old") == before


def test_validate_sees_a_waiting_job_that_has_half_a_worker() -> None:
    for field in ("worker", "spec"):
        found = books()
        setattr(found.add(job(), "h", 1, NOW), field, "x")
        with pytest.raises(AssertionError, match="waits and has a worker"):
            found.validate()


def test_a_job_whose_id_was_used_before_has_its_own_deadline() -> None:
    found = books()
    found.end(found.add(job(admission_timeout_s=1.0), "h", 1, NOW), "failed", NOW)
    again = found.add(job(created_at=NOW + 0.5, admission_timeout_s=9.0), "h", 2, NOW + 0.5)
    assert found.overdue(NOW + 1.0) == []
    assert found.overdue(NOW + 9.5) == [again]


def test_exactly_so_many_decisions_and_endings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT_ENDINGS", 3)
    monkeypatch.setattr(history, "KEPT_EXPLANATIONS", 3)
    kept = History()
    for number in range(5):
        kept.ended(JobView(f"j{number}", "a", "completed", 1.0))
        kept.decided(f"j{number}", lambda number=number: number)  # type: ignore[misc]
        assert len(kept.endings) == len(kept._explanations) == min(number + 1, 3)
    assert list(kept.endings) == list(kept._explanations) == ["j2", "j3", "j4"]
