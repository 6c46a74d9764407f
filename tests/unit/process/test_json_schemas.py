"""JSON schemas of strangers: what fits, what does not, and what may not cost anything."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.services.process.json_schemas import MOST_DEPTH, BadSchema, JsonSchema, Misfit

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_what_fits_and_where_something_does_not() -> None:
    schema = JsonSchema({"properties": {"a": {"items": {"type": "integer"}}}, "required": ["a"]})
    assert schema.misfit({"a": [1]}) is None
    assert schema.misfit({"a": [1, "x"]}) == Misfit("a.1", '"x" is not of type "integer"')
    found = schema.misfit({})
    assert found is not None and found.field == "" and "required" in found.message


@pytest.mark.parametrize(
    "schema",
    [{"type": "objekt"}, {"pattern": "("}, {"properties": 3}, {"required": "a"}, 7, "object"],
)
def test_what_is_no_schema(schema: Any) -> None:
    with pytest.raises(BadSchema):
        JsonSchema(schema)


@pytest.mark.parametrize("reference", ["http://127.0.0.1:1/x", "file:///etc/passwd", "other.json"])
def test_nothing_is_fetched(reference: str) -> None:
    with pytest.raises(BadSchema):
        JsonSchema({"$ref": reference})


def test_a_reference_within_the_schema_is_followed() -> None:
    schema = JsonSchema({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}})
    assert schema.misfit(1) is None and schema.misfit("x") is not None


def test_a_pattern_that_would_take_for_ever_does_not_fit() -> None:
    schema = JsonSchema({"type": "string", "pattern": "^(a|aa)+(?!b)$"})
    assert schema.misfit("a" * 200 + "!") is not None


def test_a_schema_that_is_nested_without_end_is_refused() -> None:
    inner: Any = {}
    for _ in range(MOST_DEPTH + 2):
        inner = {"not": inner}
    with pytest.raises(BadSchema, match="deeper"):
        JsonSchema(inner)


@given(VALUES, VALUES)
def test_whatever_is_sent_is_checked_or_refused(schema: Any, value: Any) -> None:
    try:
        made = JsonSchema(schema)
    except BadSchema:
        return
    found = made.misfit(value)
    assert found is None or found.message
    assert made.misfit(value) == found
