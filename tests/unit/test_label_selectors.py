"""Label selectors: what they mean, and that a model outside is not there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.services.gateway.edge.label_selectors import Requirement, parse, selects
from stoker.services.gateway.edge.problems import RequestError

RED = {"tenancy": "red", "zone": "a", "example.com/tier": "paid"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("tenancy=red", True),
        ("tenancy==red", True),
        ("tenancy=blue", False),
        ("tenancy!=red", False),
        ("other!=red", True),
        ("tenancy=red,zone=a", True),
        ("tenancy = red , zone = b", False),
        ("zone in (a, b)", True),
        ("zone in (b,c)", False),
        ("zone notin (b, c)", True),
        ("zone notin (a)", False),
        ("other notin (a)", True),
        ("tenancy", True),
        ("other", False),
        ("!other", True),
        ("!tenancy,zone=a", False),
        ("example.com/tier=paid", True),
        ("zone in (a, b),tenancy=red,!other", True),
        ("tenancy=", False),
        ("", True),
    ],
)
def test_a_selector_means_what_it_means_in_kubernetes(text: str, *, matches: bool) -> None:
    assert selects(parse([text]), RED) is matches


def test_several_headers_all_hold() -> None:
    assert selects(parse(["tenancy=red", "zone=a"]), RED)
    assert not selects(parse(["tenancy=red", "zone=b"]), RED)


@pytest.mark.parametrize(
    "text", ["=red", "zone in a", "zone in (a", "a b", "!", "-x=1", "zone in (a) b", "a=b c"]
)
def test_what_is_no_selector_is_refused_with_the_way_to_write_one(text: str) -> None:
    with pytest.raises(RequestError, match="is no label selector; write it as") as refused:
        parse([text])
    assert (refused.value.status, refused.value.field) == (400, "X-Label-Selector")


@given(st.text(max_size=40))
def test_any_text_is_a_selector_or_is_refused(text: str) -> None:
    try:
        found = parse([text])
    except RequestError as error:
        assert error.status == 400
    else:
        assert all(isinstance(one, Requirement) for one in found)
