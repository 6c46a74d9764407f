"""Payloads against the description of their type: as the type itself takes them, with the field of what is wrong."""

import dataclasses
import datetime
import decimal
import enum
import uuid
from typing import Annotated, Any, Literal, NamedTuple, Required, TypedDict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.functions.payload_check import Misfit, PayloadCheck, too_large
from stoker.functions.payload_types import CannotDescribe, PayloadType, describe_type, is_made_of
from stoker.schemas.catalog import Function, Model
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs import function_calls


class Colour(enum.Enum):
    RED = "red"


class Any_(enum.Enum):
    ONE = 1

    @classmethod
    def _missing_(cls, value: object) -> "Any_":
        return cls.ONE


class Circle(msgspec.Struct, tag=True):
    r: float


class Square(msgspec.Struct, tag=True):
    a: float


class Tree(msgspec.Struct):
    value: int
    children: list["Tree"] = []
    next: "Tree | None" = None


class Point(NamedTuple):
    x: int
    y: int = 0


class Row(msgspec.Struct, array_like=True):
    name: str
    tree: Tree | None = None


class Shelf(msgspec.Struct, array_like=True):
    name: str
    colours: dict[str, dict[str, Colour]]


class Typed(TypedDict, total=False):
    a: Required[int]
    b: str


@dataclasses.dataclass
class Plain:
    a: int
    b: list[str] = dataclasses.field(default_factory=list)


class Payload(msgspec.Struct, kw_only=True, rename="camel"):
    n: int = 1
    when: datetime.datetime | None = None
    day: datetime.date | None = None
    zoned: Annotated[datetime.datetime, msgspec.Meta(tz=True)] | None = None
    u: uuid.UUID | None = None
    d: decimal.Decimal | None = None
    raw_bytes: bytes = b""
    tree: Tree | None = None
    by: dict[int, str] = {}
    trees: dict[str, Tree] = {}
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.0
    shape: Circle | Square | None = None
    colour: Colour = Colour.RED
    any: Any_ = Any_.ONE
    rowed: list[Shelf] = []
    colours: list[dict[str, list[Colour | None]]] = []
    how: Literal["a", "b"] = "a"
    point: Point | None = None
    row: Row | None = None
    typed: Typed | None = None
    plain: Plain | None = None
    pair: tuple[int, Circle] | None = None
    many: Annotated[set[int], msgspec.Meta(max_length=3)] = set()
    frozen: frozenset[str] = frozenset()
    rest: tuple[int, ...] = ()
    mix: int | str | list[int] | None = None
    code: Annotated[str, msgspec.Meta(pattern="^a+$", max_length=5)] = "a"
    free: Any = None


DESCRIBED = describe_type(Payload)
CHECK = PayloadCheck(msgspec.json.decode(msgspec.json.encode(DESCRIBED), type=PayloadType))


@pytest.mark.parametrize(
    ("payload", "field", "says"),
    [
        ({"n": 3.0}, "n", "Expected `int`, got `float`"),
        ({"when": "tomorrow"}, "when", "Invalid RFC3339 encoded datetime"),
        ({"day": "2020-13-01"}, "day", "Invalid RFC3339 encoded date"),
        ({"zoned": "2020-01-01T00:00:00"}, "zoned", "Expected `datetime` with a timezone component"),
        ({"u": "x"}, "u", "Invalid UUID"),
        ({"u": 12}, "u", "Expected `uuid | null`, got `int`"),
        ({"d": "x"}, "d", "Invalid decimal string"),
        ({"rawBytes": "*"}, "rawBytes", "Invalid base64 encoded string"),
        ({"raw_bytes": ""}, "raw_bytes", "there is no field 'raw_bytes'; did you mean 'rawBytes'?"),
        ({"temprature": 1}, "temprature", "there is no field 'temprature'; did you mean 'temperature'?"),
        ({"temperature": 3}, "temperature", "Expected `float` <= 2.0"),
        ({"tree": {}}, "tree.value", "it is required"),
        ({"tree": {"value": 1, "children": [{"value": "x"}]}}, "tree.children.0.value", "Expected `int`, got `str`"),
        ({"tree": {"value": 1, "next": {"value": 2, "nxt": 1}}}, "tree.next.nxt", "did you mean 'next'?"),
        ({"tree": {"value": 1, "children": [{"zzz": 1}]}}, "tree.children.0.zzz", "there are: value, children, next"),
        ({"trees": {"a": {"value": 1}, "b": {"valu": 1}}}, "trees.b.valu", "did you mean 'value'?"),
        ({"by": {"a": "x"}}, "by", "a key: Expected `int`, got `str`"),
        ({"by": {"1": "x", "2": 3}}, "by.2", "Expected `str`, got `int`"),
        ({"trees": {"a": {"value": 1}, "b": {"value": 1, "children": [{"value": 1}, {"value": ""}]}}}, "trees.b.children.1.value", "got `str`"),
        ({"shape": {}}, "shape.type", "it is required"),
        ({"shape": {"type": "Oval"}}, "shape.type", "Invalid value 'Oval'"),
        ({"shape": {"type": "Circle", "r": 1, "a": 2}}, "shape.a", "there is no field 'a'"),
        ({"colour": "blue"}, "colour", "Invalid enum value 'blue'; there are: 'red'"),
        ({"colours": [{"x": ["red", "green"]}]}, "colours.0.x.1", "Invalid enum value 'green'; there are: 'red'"),
        ({"pair": ["x", {"type": "Circle", "r": 1}]}, "pair.0", "Expected `int`, got `str`"),
        ({"how": "c"}, "how", "Invalid enum value 'c'; there are: 'a', 'b'"),
        ({"point": ["x"]}, "point.0", "Expected `int`, got `str`"),
        ({"row": ["x", {"value": 1, "childen": []}]}, "row.1.childen", "did you mean 'children'?"),
        ({"rowed": [["a", {"x": {"y": "z"}}]]}, "rowed.0.1.x.y", "Invalid enum value 'z'; there are: 'red'"),
        ({"typed": {"b": "x"}}, "typed.a", "it is required"),
        ({"typed": {"a": 1, "c": 2}}, "typed.c", "there are: a, b"),
        ({"plain": {"a": 1, "b": [1]}}, "plain.b.0", "Expected `str`, got `int`"),
        ({"pair": [1]}, "pair", "Expected `array` of length 2, got 1"),
        ({"pair": [1, {"type": "Circle", "r": 1, "q": 1}]}, "pair.1.q", "there are: r"),
        ({"many": [1, 2, 3, 4]}, "many", "Expected `array` of length <= 3"),
        ({"mix": {}}, "mix", "Expected `int | str | array | null`, got `object`"),
        ({"mix": [1, "x"]}, "mix.1", "Expected `int`, got `str`"),
        ([], "", "Expected `object`, got `array`"),
    ],
)  # fmt: skip
def test_what_is_wrong_has_its_field_and_a_reason(payload: Any, field: str, says: str) -> None:
    found = CHECK.misfit(payload)
    assert found is not None
    assert (found.field, says in found.reason) == (field, True), found


@pytest.mark.parametrize(
    "payload",
    [
        {}, {"when": "2020-01-01T00:00:00Z", "u": str(uuid.UUID(int=1)), "d": 1.5, "rawBytes": "YQ=="},
        {"tree": {"value": 1, "children": [{"value": 2}], "next": None}}, {"by": {"1": "x"}}, {"any": 77},
        {"shape": {"type": "Square", "a": 1}}, {"point": [1, 2], "row": ["x"], "pair": [1, {"type": "Circle", "r": 1}]},
        {"typed": {"a": 1}, "plain": {"a": 1}, "many": [1, 1], "frozen": ["x"], "rest": [1], "mix": [1], "free": {"x": 1}},
    ],
)  # fmt: skip
def test_what_fits_is_taken(payload: Any) -> None:
    assert CHECK.misfit(payload) is None
    msgspec.convert(payload, Payload, str_keys=True)


names = st.sampled_from(
    ["n", "when", "tree", "value", "children", "next", "shape", "type", "r", "by", "mix", "pair"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["Circle", "Square", "x", "2020-01-01T00:00:00Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(names, values, max_size=4))
def test_the_description_takes_what_the_type_takes_and_refuses_what_it_refuses(payload: dict[str, Any]) -> None:
    found = CHECK.misfit(payload)
    if found is not None and found.reason.startswith("there is no field"):
        return  # the type itself takes no notice of what it does not know
    try:
        msgspec.convert(payload, Payload, str_keys=True)
        is_taken = True
    except msgspec.ValidationError:
        is_taken = False
    assert is_taken == (found is None)


def test_what_a_type_is_made_of_is_found_however_deep() -> None:
    assert is_made_of(Payload, Tree)
    assert is_made_of(Payload, Plain)
    assert not is_made_of(Tree, Payload)
    assert not is_made_of(msgspec.defstruct("Odd", [("thing", object)]), Tree)


def test_two_types_of_one_name_are_kept_apart() -> None:
    inner = msgspec.defstruct("Same", [("a", int)])
    outer = msgspec.defstruct("Same", [("inner", inner), ("again", inner | None)])
    described = describe_type(outer)
    assert sorted(described.objects) == ["Same", "Same2"]
    found = PayloadCheck(described).misfit({"inner": {"b": 1}})
    assert found is not None
    assert found.field == "inner.b"


def test_a_type_that_is_none_of_json_is_named_with_its_field() -> None:
    class Thing:
        pass

    with pytest.raises(CannotDescribe, match=r"Odd\.thing is of Thing, which cannot be read from JSON"):
        describe_type(msgspec.defstruct("Odd", [("thing", Thing)]))


def model(kind: type[msgspec.Struct], *, described: bool = True) -> Model:
    schema = msgspec.json.schema(kind)
    schema = schema["$defs"][kind.__name__] | {"$defs": schema["$defs"]}
    found = msgspec.to_builtins(describe_type(kind)) if described else {}
    return Model("f", ("Function",), (), function=Function(schema, {}, input_type=found))


def refused(payload: Any, found: Model) -> RequestError:
    with pytest.raises(RequestError) as error:
        function_calls.function_input(payload, found)
    return error.value


def test_the_gateway_refuses_by_the_type_and_patterns_by_the_schema() -> None:
    found = model(Payload)
    error = refused({"temprature": 1}, found)
    assert (error.status, error.field, error.code) == (400, "temprature", "validation")
    assert "did you mean 'temperature'?" in str(error)
    assert refused({"n": 3.0}, found).field == "n"
    assert refused({"code": "bbb"}, found).field == "code"
    assert refused([], found).code == "invalid_value"
    assert function_calls.function_input({"code": "aaa"}, found).payload == {"code": "aaa"}


def test_a_catalog_of_an_older_version_is_checked_by_its_schema_alone() -> None:
    found = model(Circle, described=False)
    assert refused({"type": "Circle", "r": "x"}, found).field == "r"
    assert function_calls.function_input({"type": "Circle", "r": 1}, found).function == "f"


def test_as_many_checks_are_kept_as_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function_calls, "MAX_CHECKS", 2)
    monkeypatch.setattr(function_calls, "_checks", {})
    kept = [model(Circle) for _ in range(3)]
    for one in (*kept, kept[1]):
        assert refused({"type": "Circle", "r": "x"}, one).field == "r"
    assert list(function_calls._checks) == [id(kept[2].function), id(kept[1].function)]


def test_an_integer_that_no_message_can_hold_is_refused_with_its_place() -> None:
    """It would fail on the worker, where the call has its slot already."""
    found = model(Payload)
    for number in (2**64, -(2**63) - 1, 10**40):
        error = refused({"n": number}, found)
        assert (error.status, error.field, error.code) == (400, "n", "validation")
    assert function_calls.function_input({"n": 2**64 - 1}, found).payload == {"n": 2**64 - 1}
    assert too_large({"a": [1, {"b": 2**64}]}) == Misfit("a.1.b", "an integer has 64 bits at most")
    assert too_large({"a": [True, None, -(2**63)]}) is None
