"""Names become one token of a subject, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.subjects import (
    ANY,
    MAX_NAME_BYTES,
    BadName,
    Subjects,
    check_name,
    from_token,
    last_name,
    to_token,
)

NAMES = st.text(min_size=1, max_size=40).filter(lambda name: name.isprintable())


@given(NAMES)
def test_a_token_gives_its_name_back_and_cannot_change_the_subject(name: str) -> None:
    token = to_token(name)
    assert from_token(token) == name
    assert token.isascii()
    assert not set(token) & set(". *>\t\r\n/")


@given(NAMES, NAMES)
def test_different_names_have_different_tokens(one: str, other: str) -> None:
    assert (to_token(one) == to_token(other)) == (one == other)


def test_a_name_with_wildcards_stays_one_token() -> None:
    subject = Subjects().job("a.b > *")
    assert subject == "stoker.jobs.a=2Eb=20=3E=20=2A"
    assert last_name(subject) == "a.b > *"


@pytest.mark.parametrize("name", ["", "a\nb", "a\0b", "x" * (MAX_NAME_BYTES + 1), "\ud800"])
def test_names_that_cannot_travel_are_refused(name: str) -> None:
    with pytest.raises(BadName):
        check_name(name)


def test_the_prefix_is_configurable() -> None:
    assert Subjects("prod").worker("w 1", "assign") == "prod.worker.w=201.assign"
    assert Subjects("prod").every("out", ANY, "*") == "prod.out.*.=2A"
