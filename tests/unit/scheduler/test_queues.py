"""The queue of a model to the last number: keys, virtual time, rates; what views and pages show of jobs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.fleet import JobsQuery, JobView
from schemas.jobs import CompletionInput, Job
from services.scheduler.fleet.workers import Fleet, Held
from services.scheduler.jobs import history, ledger
from services.scheduler.jobs.fair_queue import FairQueue
from services.scheduler.jobs.history import History
from services.scheduler.jobs.ledger import Ledger
from services.scheduler.jobs.queues import RATE_WINDOW_S, ModelQueue
from tests.unit.scheduler.workers import SimWorker

NOW = 1000.0


def drain(queue: FairQueue) -> list[str]:
    return [queue.pop() for _ in range(len(queue))]


# Fairness -----------------------------------------------------------------------------------------


def test_a_key_says_priority_start_and_arrival() -> None:
    queue = FairQueue()
    assert queue.push("a") == (0, 0.0, 1)
    assert queue.push("b", priority=3, tenant="t") == (-3, 0.0, 2)
    assert queue.push("c", weight=4.0) == (0, 1.0, 3)
    assert queue.push("d") == (0, 1.25, 4)


def test_jobs_without_a_tenant_are_one_tenant() -> None:
    queue = FairQueue()
    queue.push("a")
    assert queue.push("b", tenant="") == (0, 1.0, 2)


def test_of_equal_tags_the_earlier_arrival_goes_first_whatever_it_is_called() -> None:
    queue = FairQueue()
    for job, tenant in (("z", "t1"), ("m", "t2"), ("a", "t3")):
        queue.push(job, tenant=tenant)
    assert drain(queue) == ["z", "m", "a"]


def test_a_tenant_that_comes_late_starts_where_the_queue_is_and_not_in_the_past() -> None:
    queue = FairQueue()
    for number in range(4):
        queue.push(f"a{number}", tenant="a")
    assert [queue.pop(), queue.pop(), queue.pop()] == ["a0", "a1", "a2"]
    assert queue.push("b0", tenant="b") == (0, 2.0, 5)
    assert queue.push("b1", tenant="b") == (0, 3.0, 6)
    assert drain(queue) == ["b0", "a3", "b1"]


def test_a_job_that_is_taken_out_of_turn_moves_the_time_and_taking_an_earlier_one_does_not_turn_it_back() -> (
    None
):
    queue = FairQueue()
    for number in range(3):
        queue.push(f"a{number}", tenant="a")
    queue.take("a2")
    queue.take("a0")
    assert queue.push("b", tenant="b")[1] == 2.0


def test_a_job_that_is_removed_costs_nobody_any_time() -> None:
    queue = FairQueue()
    for number in range(3):
        queue.push(f"a{number}", tenant="a")
    assert queue.remove("a2")
    assert not queue.remove("a2")
    assert queue.push("b", tenant="b")[1] == 0.0


def test_fairness_is_within_a_priority() -> None:
    queue = FairQueue()
    for number in range(3):
        queue.push(f"low{number}", tenant="a")
    assert queue.push("high", priority=1, tenant="a") == (-1, 0.0, 4)


def test_an_empty_queue_forgets_what_tenants_had() -> None:
    queue = FairQueue()
    for number in range(5):
        queue.push(f"a{number}", tenant="a")
    drain(queue)
    assert queue.push("again", tenant="a")[1] == 0.0
    queue.remove("again")
    assert queue.push("once more", tenant="a")[1] == 0.0
    assert "once more" in queue
    assert "again" not in queue


def test_taking_what_is_not_there_is_an_error() -> None:
    queue = FairQueue()
    with pytest.raises(IndexError, match="empty"):
        queue.pop()
    with pytest.raises(KeyError):
        queue.take("nobody")
    assert (queue.peek(), list(queue.in_order()), queue.position("nobody")) == (None, [], None)


@given(
    st.lists(
        st.tuples(st.integers(-1, 1), st.sampled_from("xyz"), st.sampled_from([0.5, 1.0, 2.0])), max_size=40
    )
)
def test_the_order_is_that_of_the_keys_however_it_is_asked_for(jobs: list[tuple[int, str, float]]) -> None:
    queue = FairQueue()
    keys = {f"j{n}": queue.push(f"j{n}", *job) for n, job in enumerate(jobs)}
    expected = sorted(keys, key=lambda job: keys[job])
    assert list(queue.in_order()) == expected
    assert list(queue.first(3)) == expected[:3]
    assert [queue.position(job) for job in expected] == list(range(len(expected)))
    for job in expected[::2]:
        queue.take(job)
    for job in expected[:4:2]:
        queue.push_back(job, keys[job])
    left = [job for n, job in enumerate(expected) if n % 2 or n < 4]
    assert list(queue.in_order()) == left
    assert drain(queue) == left


@given(st.integers(1, 5), st.integers(1, 5))
def test_two_tenants_that_always_wait_get_shares_by_their_weights(one: int, other: int) -> None:
    queue = FairQueue()
    for number in range(120):
        queue.push(f"a{number}", tenant="a", weight=float(one))
        queue.push(f"b{number}", tenant="b", weight=float(other))
    served = [queue.pop()[0] for _ in range(60)]
    assert abs(served.count("a") - 60 * one / (one + other)) <= 2


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
    queue.waiting.push("j")
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


def test_first_keys_order_queues_by_priority_then_age() -> None:
    found = books()
    found.add(job("a1", "a", created_at=5.0), "h", 1, NOW)
    found.add(job("b1", "b", created_at=1.0, priority=-2), "h", 2, NOW)
    assert found.first_key("a") == (0, 5.0)
    assert found.first_key("b") == (2, 1.0)
    assert found.first_key("empty") == (0, 0.0)


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
