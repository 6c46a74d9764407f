"""How long text waits for more, by how far a gateway lags."""

from hypothesis import given
from hypothesis import strategies as st

from stoker.services.gateway.watching.pacing import EARLY_S, LATE_S, LEAST_S, MOST_S, next_window

LAGS = st.lists(st.floats(0, 10), max_size=60)


@given(LAGS)
def test_a_window_is_nothing_or_within_its_bounds(lags: list[float]) -> None:
    window_s = 0.0
    for lag_s in lags:
        window_s = next_window(window_s, lag_s)
        assert window_s == 0.0 or LEAST_S <= window_s <= MOST_S


@given(LAGS)
def test_a_gateway_that_lags_gets_larger_pieces_until_they_are_largest(lags: list[float]) -> None:
    window_s = 0.0
    for lag_s in lags:
        window_s = next_window(window_s, lag_s)
    for _ in range(10):
        before, window_s = window_s, next_window(window_s, LATE_S + 0.01)
        assert window_s > before or window_s == MOST_S
    assert window_s == MOST_S


@given(LAGS)
def test_one_that_keeps_up_gets_text_as_it_comes_again(lags: list[float]) -> None:
    window_s = 0.0
    for lag_s in lags:
        window_s = next_window(window_s, lag_s)
    for _ in range(40):
        window_s = next_window(window_s, EARLY_S / 2)
    assert window_s == 0.0


def test_in_between_it_stays() -> None:
    assert next_window(0.2, (EARLY_S + LATE_S) / 2) == 0.2
    assert next_window(0.0, (EARLY_S + LATE_S) / 2) == 0.0
