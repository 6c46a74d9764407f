"""Loads that failed: which of them count, and for how long they are told."""

from stoker.services.worker.models.asking import LoadError
from stoker.services.worker.models.failures import CRASHES_BELIEVED, REMEMBERED_S, LoadFailures

NOW = 100.0


def test_a_load_that_failed_counts_and_is_told_for_a_while() -> None:
    found = LoadFailures()
    found.note("m", LoadError("no such file"), NOW)
    assert (found.counts, found.lately(NOW + REMEMBERED_S - 0.1)) == ({"m": 1}, {"m": "no such file"})
    assert (found.counts, found.lately(NOW + REMEMBERED_S)) == ({"m": 1}, {})


def test_what_was_killed_from_outside_or_stopped_has_not_failed() -> None:
    found = LoadFailures()
    found.note("m", LoadError("killed", is_lost=True, was_killed=True), NOW)
    assert (found.counts, found.lately(NOW)) == ({}, {})


def test_one_crash_may_be_an_accident_and_is_told_so_that_others_are_tried_first() -> None:
    found = LoadFailures()
    for number in range(1, CRASHES_BELIEVED + 1):
        found.note("m", LoadError("the runner died", is_lost=True), NOW)
        assert found.lately(NOW) == {"m": "the runner died"}
        assert found.counts == ({"m": 1} if number == CRASHES_BELIEVED else {})


def test_a_load_that_went_well_forgives() -> None:
    found = LoadFailures()
    found.note("m", LoadError("the runner died", is_lost=True), NOW)
    found.loaded("m")
    found.note("m", LoadError("the runner died", is_lost=True), NOW + 1)
    assert found.counts == {}
    found.loaded("m")
    assert found.lately(NOW + 1) == {}
