"""Priorities first, tenants in turn, then age."""

from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.jobs.fair_queue import FairQueue


def drain(queue: FairQueue) -> list[str]:
    return [queue.pop() for _ in range(len(queue))]


def test_one_tenant_is_served_in_order_of_arrival() -> None:
    queue = FairQueue()
    for job in "abc":
        queue.push(job)
    assert drain(queue) == ["a", "b", "c"]


def test_higher_priority_goes_first() -> None:
    queue = FairQueue()
    for job, priority in (("low", -1), ("normal", 0), ("high", 5)):
        queue.push(job, priority)
    assert drain(queue) == ["high", "normal", "low"]


def test_a_light_tenant_does_not_wait_behind_a_heavy_one() -> None:
    queue = FairQueue()
    for index in range(10):
        queue.push(f"heavy{index}", tenant="heavy")
    queue.push("light", tenant="light")
    assert drain(queue).index("light") <= 1


def test_weights_share_the_queue_in_proportion() -> None:
    queue = FairQueue()
    for index in range(30):
        queue.push(f"a{index}", tenant="a", weight=2.0)
        queue.push(f"b{index}", tenant="b", weight=1.0)
    first = drain(queue)[:30]
    assert abs(sum(job[0] == "a" for job in first) - 20) <= 2


def test_a_job_that_is_pushed_back_keeps_its_place() -> None:
    queue = FairQueue()
    key = queue.push("first")
    queue.push("second")
    assert queue.pop() == "first"
    queue.push_back("first", key)
    assert drain(queue) == ["first", "second"]


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["push", "remove", "pop"])), max_size=80))
def test_positions_and_order_agree_with_a_plain_list(steps: list[tuple[int, str]]) -> None:
    queue, model = FairQueue(), list[str]()
    for number, step in steps:
        job = str(number)
        if step == "push" and job not in model:
            queue.push(job)
            model.append(job)
        elif step == "remove":
            assert queue.remove(job) == (job in model)
            model = [one for one in model if one != job]
        elif step == "pop" and model:
            assert queue.pop() == model.pop(0)
        assert len(queue) == len(model)
        assert list(queue.first(99)) == model
        assert [queue.position(one) for one in model] == list(range(len(model)))
        assert queue.peek() == (model[0] if model else None)
