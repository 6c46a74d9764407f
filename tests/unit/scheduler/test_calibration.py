"""How true predictions were: the median corrects the next one, nine of ten waits end within the other."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.services.scheduler.placing import calibration
from stoker.services.scheduler.placing.calibration import FEW, FIRST_P90, KEPT, Calibration


def test_until_a_few_waits_were_seen_a_prediction_stands() -> None:
    seen = Calibration()
    for _ in range(FEW - 1):
        seen.note(10.0, 100.0)
    assert seen.expected(10.0) == (10.0, FIRST_P90 * 10.0)
    seen.note(10.0, 100.0)
    assert seen.expected(10.0)[0] == pytest.approx(100.0)


def test_waits_of_other_lengths_say_nothing() -> None:
    seen = Calibration()
    for _ in range(50):
        seen.note(10.0, 40.0)
    assert seen.expected(2.0) == (2.0, FIRST_P90 * 2.0)
    assert seen.expected(100.0) == (100.0, FIRST_P90 * 100.0)


def test_what_is_long_ago_is_forgotten() -> None:
    seen = Calibration()
    for _ in range(KEPT):
        seen.note(10.0, 100.0)
    for _ in range(KEPT):
        seen.note(10.0, 5.0)
    assert seen.expected(10.0) == (pytest.approx(5.0), pytest.approx(5.0))


def test_half_and_nine_of_ten_are_places_among_the_last_waits() -> None:
    seen = Calibration()
    for waited in random.Random(3).sample(range(1, 100), 99):
        seen.note(10.0, float(waited))
    assert seen.expected(10.0) == (pytest.approx(51.0), pytest.approx(91.0))


@given(st.lists(st.floats(0, 100), min_size=FEW, max_size=80))
def test_only_the_last_waits_count(waits: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "KEPT", FEW + 5)
        seen = Calibration()
        for waited in waits:
            seen.note(10.0, waited)
    last = sorted(waits[-(FEW + 5) :])
    places = [min(int((len(last) + 1) * share), len(last) - 1) for share in (0.5, 0.9)]
    assert seen.expected(10.0) == tuple(pytest.approx(last[place], abs=1e-6) for place in places)


@given(st.lists(st.tuples(st.floats(0, 500), st.floats(-1, 1e4)), max_size=300), st.floats(0, 500))
def test_neither_is_negative_and_the_second_is_no_shorter(
    waits: list[tuple[float, float]], predicted_s: float
) -> None:
    seen = Calibration()
    for told, waited in waits:
        seen.note(told, waited)
    half, most = seen.expected(predicted_s)
    assert 0.0 <= half <= most


@pytest.mark.parametrize("spread", [0.2, 0.6, 1.0])
def test_nine_of_ten_waits_end_within_the_second(spread: float) -> None:
    chance, seen = random.Random(1), Calibration()
    within, below, count = 0, 0, 4000
    for number in range(count + 200):
        predicted = chance.uniform(0.2, 60.0)
        waited = 1.5 * predicted * chance.lognormvariate(0.0, spread)
        half, most = seen.expected(predicted)
        if number >= 200:
            within += waited <= most
            below += waited <= half
        seen.note(predicted, waited)
    assert within / count == pytest.approx(0.9, abs=0.02)
    assert below / count == pytest.approx(0.5, abs=0.03)
