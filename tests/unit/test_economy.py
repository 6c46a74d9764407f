"""Money and waiting: which specs race, how long the last replica is kept, how many replicas work is worth."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.fleet import SpecReplicas
from stoker.services.autoscaler.economy import (
    ASKED_AGAIN_S,
    FIRST_STOCK,
    HOUR_S,
    TYPICAL_SHARE,
    Learned,
    Racer,
    cost,
    first_ready_s,
    kept_idle_s,
    race,
    worth,
)

CHEAP = Racer("cheap", 1 / HOUR_S, stock=0.9, start_s=60, slow_s=60)
DEAR = Racer("dear", 4 / HOUR_S, stock=0.9, start_s=50, slow_s=50)
RACERS = st.lists(
    st.builds(
        Racer,
        name=st.integers().map(str),
        price_s=st.floats(0.0, 0.01),
        stock=st.floats(0.05, 1.0),
        start_s=st.floats(1.0, 100.0),
        slow_s=st.floats(100.0, 300.0),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda one: one.name,
)


def drawn_s(racers: list[Racer], chance: random.Random) -> float:
    """One draw of what `first_ready_s` expects."""
    ready: list[float] = []
    for one in racers:
        waited_s = 0.0
        while chance.random() >= one.stock:
            waited_s += ASKED_AGAIN_S
        ready.append(waited_s + (one.start_s if chance.random() < TYPICAL_SHARE else one.slow_s))
    return min(ready)


@pytest.mark.parametrize(
    "racers",
    [
        [CHEAP],
        [Racer("a", 0.0, 0.5, 60, 120)],
        [Racer("a", 0.0, 0.5, 60, 120), Racer("b", 0.0, 0.5, 90, 100)],
        [Racer("a", 0.0, 0.2, 60, 300), Racer("b", 0.0, 0.3, 90, 100), Racer("c", 0.0, 0.9, 200, 250)],
    ],
)
def test_the_expected_start_is_the_mean_of_many(racers: list[Racer]) -> None:
    chance = random.Random(1)
    drawn = [drawn_s(racers, chance) for _ in range(20_000)]
    assert first_ready_s(racers) == pytest.approx(sum(drawn) / len(drawn), rel=0.04)


@given(RACERS)
def test_one_more_never_makes_the_first_later(racers: list[Racer]) -> None:
    assert first_ready_s(racers) <= first_ready_s(racers[:-1] or racers) + 1e-6


def test_without_a_price_all_race() -> None:
    assert race([Racer("a", 0.0), Racer("b", 0.0, start_s=500, slow_s=500)], 1.0) == ["a", "b"]


def test_a_dear_one_races_where_much_waits_and_not_where_little_does() -> None:
    assert race([CHEAP, DEAR], 0.1 / HOUR_S) == ["cheap"]
    assert sorted(race([CHEAP, DEAR], 1000 / HOUR_S)) == ["cheap", "dear"]


def test_one_that_is_seldom_in_stock_gets_company() -> None:
    rare = Racer("rare", 1 / HOUR_S, stock=0.2, start_s=60, slow_s=60)
    other = Racer("other", 1 / HOUR_S, stock=0.2, start_s=60, slow_s=60)
    sure = Racer("sure", 1 / HOUR_S, stock=1.0, start_s=60, slow_s=60)
    assert sorted(race([rare, other], 5 / HOUR_S)) == ["other", "rare"]
    assert race([sure, rare], 5 / HOUR_S) == ["sure"]


@given(RACERS, st.floats(0.0, 0.1))
def test_the_set_that_races_costs_no_more_than_any_one_alone(racers: list[Racer], waiting_s: float) -> None:
    chosen = [one for one in racers if one.name in race(racers, waiting_s)]
    assert chosen
    if any(one.price_s for one in racers):
        assert cost(chosen, waiting_s) <= min(cost([one], waiting_s) for one in racers) + 1e-9


def test_the_last_replica_is_kept_until_it_has_cost_what_starting_it_would() -> None:
    price_s, waiting_s = 2 / HOUR_S, 10 / HOUR_S
    assert kept_idle_s(0.0, 60.0, waiting_s, 0.1) == 0.0
    assert kept_idle_s(price_s, 60.0, waiting_s, 0.0) == pytest.approx(60 + 10 * 60 / 2)
    assert kept_idle_s(price_s, 60.0, waiting_s, 0.1) == pytest.approx(60 + 10 * 60 * 6 / 2)


@given(st.floats(1.0, 1000.0), st.floats(1e-4, 0.01), st.floats(1e-4, 0.1))
def test_whenever_the_next_request_comes_at_most_twice_the_least_is_paid(
    start_s: float, price_s: float, waiting_s: float
) -> None:
    """Ski rental: a request after any gap, against somebody who knew the gap."""
    keeps_s = kept_idle_s(price_s, start_s, waiting_s, 0.0)
    restart = price_s * start_s + waiting_s * start_s
    for gap_s in (0.1 * keeps_s, keeps_s, 1.01 * keeps_s, 100 * keeps_s):
        paid = price_s * min(gap_s, keeps_s) + (restart if gap_s > keeps_s else 0.0)
        assert paid <= 2 * min(price_s * gap_s, restart) * (1 + 1e-9)


def test_work_is_worth_more_replicas_the_more_of_it_waits_and_no_more_than_it_keeps_busy() -> None:
    price_s, waiting_s = 1 / HOUR_S, 10 / HOUR_S
    counts = [worth(n, n * 30.0, price_s, waiting_s, 90.0, 60.0) for n in (1, 4, 16, 64)]
    assert counts == sorted(counts) and counts[0] == 1 and counts[-1] > 8
    assert worth(1000, 120.0, price_s, waiting_s, 90.0, 60.0) <= 2, (
        "each has as much to do as it takes to start"
    )
    assert worth(3, 10_000.0, price_s, waiting_s, 90.0, 60.0) <= 3, "no more than there are requests"
    assert worth(100, 1000.0, 0.0, waiting_s, 90.0, 60.0) == 0, "without a price nothing is said"


@given(st.integers(1, 200), st.floats(1.0, 60.0), st.floats(1e-4, 0.01), st.floats(1e-4, 0.01))
def test_one_more_replica_would_cost_more_than_it_saves(
    waiting: int, each_s: float, price_s: float, waiting_s: float
) -> None:
    work_s, idle_s = waiting * each_s, 90.0
    count = worth(waiting, work_s, price_s, waiting_s, idle_s, 60.0)

    def costs(replicas: int) -> float:
        return waiting * work_s / replicas / 2 * waiting_s + replicas * price_s * idle_s

    if count:
        assert costs(count) <= costs(count + 2) * (1 + 1e-3) or count in (math.ceil(work_s / 60.0), waiting)


# What is learned ----------------------------------------------------------------------------------


def test_orders_of_one_batch_are_judged_once() -> None:
    learned = Learned()
    for _ in range(8):
        learned.ordered(10.0, 11.0, is_taken=False)
    assert learned.stock == pytest.approx(0.8 * FIRST_STOCK)
    learned.ordered(20.0, 21.0, is_taken=True)
    assert learned.stock > 0.8 * FIRST_STOCK


def test_starts_have_a_median_and_a_slow_tenth() -> None:
    learned = Learned()
    assert learned.start_s(0.5) is None
    for seconds in (60.0,) * 8 + (200.0,) * 2:
        learned.started(seconds)
    assert (learned.start_s(0.5), learned.start_s(0.9)) == (60.0, 200.0)


def test_what_an_earlier_autoscaler_knew_is_recalled() -> None:
    learned = Learned()
    learned.recall(SpecReplicas("l4", 0, 0, start_s=60.0, slow_start_s=90.0, stock=0.3))
    assert (learned.start_s(0.5), learned.start_s(0.9), learned.stock) == (60.0, 90.0, 0.3)
    untouched = Learned()
    untouched.recall(SpecReplicas("l4", 0, 0))
    assert (untouched.start_s(0.5), untouched.stock) == (None, FIRST_STOCK)
