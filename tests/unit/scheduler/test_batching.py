"""Jobs that are drawn as one: what a batch gains is measured, and what is sent to a worker is alike."""

from typing import Any

import pytest

from stoker.schemas.jobs import ImageInput, likeness
from stoker.schemas.workers import Finished
from stoker.services.scheduler.fleet.batch_gains import KEPT_RUNS, BatchGains
from stoker.services.scheduler.fleet.estimates import Estimates
from stoker.services.scheduler.placing.batching import TOGETHER_S, learn
from stoker.services.scheduler.protocol.commands import Assign
from tests.unit.scheduler.place import NOW, Place, model, resident, spec

BATCHED = spec(options={"batch": 4})


def place() -> Place:
    found = Place(model("a", BATCHED))
    found.estimates.learn_run("a", "default", 20.0, 2.0)
    found.worker("w", resident(), slots=1, prefetch=1)
    return found


def image_job(found: Place, name: str, steps: int, priority: int = 0) -> None:
    found.job(name, priority=priority)
    record = found.ledger.records[name]
    record.job = type(record.job)(
        name, "a", ImageInput(name, num_inference_steps=steps), "gw", NOW, priority=priority
    )


def sent(found: Place, now: float = NOW) -> list[str]:
    """The jobs in the order in which they were given to the worker."""
    found.dispatcher.dispatch("a", now)
    found.dispatcher.fill(found.fleet.workers["w"], now)
    return list(found.fleet.workers["w"].held)


def steps_of(found: Place, jobs: list[str]) -> list[int | None]:
    asked = [found.ledger.records[name].job.input for name in jobs]
    return [one.num_inference_steps for one in asked if isinstance(one, ImageInput)]


def test_jobs_that_wait_in_the_lane_get_others_that_are_alike() -> None:
    found = place()
    for number in range(10):
        image_job(found, f"j{number}", (20, 30)[number % 2])
    assert steps_of(found, sent(found)) == [20] * 4 + [30] * 4
    ahead = [held.job for held in found.fleet.workers["w"].held.values() if held.is_ahead]
    assert steps_of(found, ahead) == [30] * 4


def test_what_comes_while_a_batch_waits_joins_it_or_stays_in_the_queue() -> None:
    found = place()
    later = NOW + 2 * TOGETHER_S
    for number, (steps, now) in enumerate([(20, NOW), (30, later), (20, later), (30, later), (20, later)]):
        image_job(found, f"j{number}", steps)
        sent(found, now)
    assert sent(found, later) == ["j0", "j1", "j3"]
    found.ledger.end(found.ledger.records["j0"], "completed", later + 1)
    worker = found.fleet.workers["w"]
    assert not any(held.is_ahead for held in worker.held.values()), "both began"
    assert sent(found, later + 1) == ["j1", "j3", "j2", "j4"]


def test_the_next_batch_begins_when_all_of_the_one_before_have_ended() -> None:
    found = place()
    for number in range(8):
        image_job(found, f"j{number}", 20)
    assert len(sent(found)) == 8
    worker = found.fleet.workers["w"]
    for number in range(3):
        found.ledger.end(found.ledger.records[f"j{number}"], "completed", NOW + 1)
        assert sum(held.is_ahead for held in worker.held.values()) == 4
    found.ledger.end(found.ledger.records["j3"], "completed", NOW + 1)
    assert sum(held.is_ahead for held in worker.held.values()) == 0


def test_a_batch_is_not_filled_past_what_is_more_urgent() -> None:
    found = place()
    image_job(found, "first", 20, priority=5)
    sent(found)
    image_job(found, "urgent", 30, priority=3)
    image_job(found, "alike", 20)
    assert sent(found, NOW + 1) == ["first", "urgent"]


def test_a_model_that_is_not_drawn_in_batches_keeps_the_order() -> None:
    found = Place(model("a", spec()))
    found.worker("w", resident(), slots=1, prefetch=3)
    for number in range(4):
        image_job(found, f"j{number}", (20, 30)[number % 2])
    assert sent(found) == ["j0", "j1", "j2", "j3"]


def test_likeness_is_of_pictures_that_differ_in_prompt_and_previews_only() -> None:
    found = Place()
    image_job(found, "one", 20)
    image_job(found, "two", 20)
    one, two = (found.ledger.records[name].job for name in ("one", "two"))
    assert likeness(one, BATCHED) == likeness(two, BATCHED)
    text = [found.job(f"t{number}").job for number in range(2)]
    assert likeness(text[0], BATCHED) != likeness(text[1], BATCHED)
    several = [type(one)(f"n{n}", "a", ImageInput("x", n=2), "gw", NOW) for n in range(2)]
    assert likeness(several[0], BATCHED) != likeness(several[1], BATCHED)


# What a batch gains -------------------------------------------------------------------------------


def test_until_a_batch_was_measured_it_gains_nothing() -> None:
    estimates = Estimates()
    estimates.know(model("a", BATCHED))
    estimates.learn_run("a", "default", 20.0, 2.0)
    assert estimates.share("a", "default", 4) == 1.0


def test_a_measured_batch_says_what_each_of_it_takes() -> None:
    """Four in 3.8 s, of which one alone takes 2: each beyond the first costs 0.3 of a run."""
    estimates = Estimates()
    estimates.know(model("a", BATCHED))
    estimates.learn_run("a", "default", 20.0, 2.0)
    estimates.learn_run("a", "default", 20.0, 3.8, batch=4)
    assert estimates.run_s("a", "default", 20.0) == pytest.approx(2.0), "one alone takes what it took"
    assert estimates.share("a", "default", 4) == pytest.approx(3.8 / 2 / 4)
    assert estimates.share("a", "default", 2) == pytest.approx(1.3 / 2)
    assert estimates.share("a", "default", 1) == 1.0
    assert estimates.share("a", "default", 100) == estimates.share("a", "default", 4)
    estimates.forget("a")
    assert estimates.share("a", "default", 4) == 1.0


def test_a_batch_that_is_seen_first_is_taken_for_as_many_runs() -> None:
    estimates = Estimates()
    estimates.know(model("a", BATCHED))
    estimates.learn_run("a", "default", 20.0, 8.0, batch=4)
    assert estimates.run_s("a", "default", 20.0) == pytest.approx(2.0)


def test_each_of_a_batch_counts_with_what_it_adds_in_the_order_in_which_it_came() -> None:
    found = place()
    found.estimates.learn_run("a", "default", 20.0, 3.8, batch=4)
    for number in range(8):
        image_job(found, f"j{number}", 20)
    sent(found)
    shares = [found.estimates.share("a", "default", count) for count in (1, 2, 3, 4)]
    alone_s = found.estimates.run_s("a", "default", found.ledger.records["j0"].units)
    held = found.fleet.workers["w"].held.values()
    assert [one.run_s for one in held] == [pytest.approx(alone_s * share) for share in 2 * shares]
    assert len(set(shares)) == 4


# How many are drawn at once -----------------------------------------------------------------------


def gains_of(*runs: tuple[int, float], alike: bytes = b"x") -> BatchGains:
    """What was learned of runs: of how many, and the share of one alone that each took."""
    gains = BatchGains()
    for batch, share in ((1, 1.0), *runs):
        ran(gains, batch, share, alike)
    return gains


def ran(gains: BatchGains, batch: int, share: float, alike: bytes = b"x") -> None:
    """A batch has run: each of its jobs says so."""
    for _ in range(batch):
        gains.learn("a", "s", alike, batch, 10.0 * batch * share)


@pytest.mark.parametrize(
    ("shares", "size"),
    [
        ({1: 1.0, 2: 0.6, 4: 0.35, 8: 0.2}, 8),
        ({1: 1.0, 2: 0.6, 4: 0.5, 8: 0.49}, 4),
        ({1: 1.0, 2: 0.8, 4: 0.9, 8: 1.1}, 2),
        ({1: 1.0, 2: 1.0, 4: 1.02, 8: 1.05}, 1),
        ({1: 1.0, 2: 0.97, 4: 0.96, 8: 0.96}, 1),
    ],
)
def test_the_smallest_batch_that_gains_about_the_most_is_drawn(shares: dict[int, float], size: int) -> None:
    gains = gains_of()
    for _ in range(40):
        now = gains.size("a", "s", 8)
        ran(gains, now, shares[now])
    assert gains.size("a", "s", 8) == size


def test_a_size_is_tried_until_it_was_measured_three_times_beside_one_alone() -> None:
    unknown = BatchGains()
    for _ in range(9):
        unknown.learn("a", "s", b"x", 4, 90.0)
    assert unknown.size("a", "s", 4) == 4, "nobody knows what one alone takes"
    slow_at_first = [(4, 9.0), (4, 0.5), (4, 0.5)]
    assert [gains_of(*slow_at_first[:runs]).size("a", "s", 4) for runs in range(4)] == [4, 4, 4, 2]
    assert gains_of(*slow_at_first, *[(2, 0.7)] * 3).size("a", "s", 4) == 4


def test_ways_to_ask_are_compared_with_themselves() -> None:
    """Small pictures alone and large ones in batches: the time of a small one says nothing of the large."""
    gains = gains_of(*[(4, 0.5)] * 3, *[(2, 0.5)] * 3, alike=b"large")
    gains.learn("a", "s", b"small", 1, 0.1)
    gains.learn("a", "s", b"unknown", 2, 900.0)
    assert gains.size("a", "s", 4) == 2


def test_what_does_not_fit_the_device_is_not_tried_again() -> None:
    gains = gains_of(*[(4, 0.5)] * 3, *[(2, 0.7)] * 3)
    gains.too_many("a", "s", 8)
    assert gains.size("a", "s", 8) == 4
    assert gains.size("b", "s", 8) == 8, "another model"


def test_the_jobs_of_one_batch_are_one_measurement() -> None:
    gains = gains_of((8, 3.0))
    assert gains.size("a", "s", 8) == 8, "the first of a size is slow"
    ran(gains, 8, 0.5)
    ran(gains, 8, 0.5)
    for size in (4, 2):
        for _ in range(3):
            ran(gains, size, 0.9)
    assert gains.size("a", "s", 8) == 8


def test_what_was_found_is_found_again_after_many_runs_and_forgotten_with_the_model() -> None:
    gains = gains_of()
    gains.too_many("a", "s", 2)
    assert gains.size("a", "s", 2) == 1
    for _ in range(KEPT_RUNS):
        gains.learn("a", "s", b"x", 1, 10.0)
    assert gains.size("a", "s", 2) == 2
    gains.learn("a", "s", b"x", 1, 10.0)
    gains.too_many("a", "s", 2)
    gains.forget("a")
    assert gains.size("a", "s", 2) == 2


def test_a_model_whose_batches_gain_nothing_keeps_the_order_and_its_jobs_free_for_others() -> None:
    found = place()
    for size in (4, 2):
        found.estimates.gains.too_many("a", "default", size)
    for number in range(6):
        image_job(found, f"j{number}", (20, 30)[number % 2])
    assert sent(found) == ["j0", "j1"], "one runs, one is ahead, as without batches"


def test_the_worker_is_told_how_many_may_be_drawn_with_a_job() -> None:
    found = place()
    found.estimates.gains.too_many("a", "default", 4)
    image_job(found, "j0", 20)
    told = [one for one in found.dispatcher.dispatch("a", NOW) if isinstance(one, Assign)]
    assert [one.assignment.together for one in told] == [2]
    plain = Place(model("a", spec()))
    plain.worker("w", resident(), slots=1, prefetch=1)
    plain.job("t")
    told = [one for one in plain.dispatcher.dispatch("a", NOW) if isinstance(one, Assign)]
    assert [one.assignment.together for one in told] == [0]


def finished(found: Place, job: str, **fields: Any) -> None:
    learn(
        found.estimates,
        found.dispatcher.models["a"],
        found.ledger.records[job],
        Finished(job, "a", 1, "completed", **fields),
    )


def test_what_a_worker_says_of_a_run_is_learned() -> None:
    found = place()
    image_job(found, "j0", 20)
    found.ledger.records["j0"].spec = "default"
    finished(found, "j0", run_s=2.0, units=20.0)
    for size in (4, 2):
        for _ in range(3 * size):
            finished(found, "j0", run_s=2.0 * size, units=20.0, batch=size)
    assert found.estimates.batch_size("a", BATCHED) == 1, "four take as long as four alone"
    again = place()
    image_job(again, "j0", 20)
    again.ledger.records["j0"].spec = "default"
    finished(again, "j0", run_s=2.0, units=20.0, too_many=4)
    assert again.estimates.batch_size("a", BATCHED) == 2


def test_a_batch_is_measured_against_pictures_alone_that_were_asked_for_alike() -> None:
    """Two of fifty steps take 1.1 of one; beside one of five steps that would be no gain."""
    found, pairs = place(), spec(options={"batch": 2})
    found.dispatcher.set("a", model("a", pairs))
    for name, steps in (("large", 50), ("small", 5)):
        image_job(found, name, steps)
        found.ledger.records[name].spec = "default"
        finished(found, name, run_s=2.0 * steps, units=float(steps))
    for _ in range(6):
        finished(found, "large", run_s=110.0, units=50.0, batch=2)
    assert found.estimates.batch_size("a", pairs) == 2


def test_what_waits_is_predicted_with_what_its_batches_gain() -> None:
    found = place()
    found.estimates.learn_run("a", "default", 20.0, 3.8, batch=4)
    for number in range(8):
        image_job(found, f"j{number}", 20)
    each_s = found.dispatcher.predictor.mean_run_s("a", "default")
    alone_s = found.estimates.run_s("a", "default", found.ledger.records["j0"].units)
    assert each_s == pytest.approx(alone_s * 3.8 / 8)
    assert found.dispatcher.predictor.mean_run_s("b", "default") > 0.0
