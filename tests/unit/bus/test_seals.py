"""Seals: who was given a job can show it, nobody else, and an upgrade has time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.subjects import Subjects, check_name, opened, sealed
from stoker.services.bus import seals
from stoker.services.bus.seals import SealKey, Seals

HOUR_S = 3600.0
NAMES = st.text(min_size=1, max_size=40).filter(lambda name: _can_be_a_name(name))


def _can_be_a_name(name: str) -> bool:
    try:
        return bool(check_name(name))
    except ValueError:
        return False


@given(NAMES, NAMES)
def test_a_seal_is_of_one_job_and_one_key(one: str, other: str) -> None:
    ours, theirs = Seals(SealKey(b"a" * 32)), Seals(SealKey(b"b" * 32))
    assert ours.holds(one, ours.of(one))
    assert not ours.holds(one, theirs.of(one))
    assert ours.holds(other, ours.of(one)) == (one == other)
    assert not ours.holds(one, "")


@given(NAMES, st.sampled_from(["", "0123456789abcdef", "0" * 32]))
def test_a_subject_tells_the_name_and_the_seal(job: str, seal: str) -> None:
    subject = Subjects().result(job, seal)
    assert opened(subject) == (job, seal)
    assert subject.count(".") == 3
    assert sealed(job, seal).startswith(sealed(job, ""))


@given(st.text(min_size=1))
def test_whatever_is_shown_instead_of_a_seal_is_none(shown: str) -> None:
    found = Seals(SealKey(b"k" * 32))
    assert found.holds("job", shown) == (shown == found.of("job"))
    assert not found.holds("job", "é" * 32)


def test_where_nobody_knows_the_key_no_job_has_a_seal() -> None:
    nobodys = Seals()
    assert nobodys.of("j") == ""
    assert not nobodys.are_there and nobodys.may_be_missing
    assert nobodys.holds("j", "")
    assert not nobodys.holds("j", "0" * 32), "what it does not know it does not believe"


def test_an_upgrade_has_an_hour_and_the_results_of_before_another(monkeypatch: pytest.MonkeyPatch) -> None:
    since = 1_000_000.0
    upgraded, new = Seals(SealKey(b"k" * 32, since), HOUR_S), Seals(SealKey(b"k" * 32), HOUR_S)
    for after_s, expected in ((0.0, (False, True)), (HOUR_S, (True, True)), (2 * HOUR_S, (True, False))):
        monkeypatch.setattr(seals.time, "time", lambda now=since + after_s: now)
        assert (upgraded.are_there, upgraded.may_be_missing) == expected
        assert (new.are_there, new.may_be_missing) == (True, False)
        assert upgraded.of("j") == new.of("j") != ""
