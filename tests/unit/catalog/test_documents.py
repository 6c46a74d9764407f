"""YAML with places: whatever a file holds, it is read or refused with file, line, field and remedy."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.services.catalog.documents import (
    MAX_FILE_BYTES,
    SHOWN_CHARS,
    ConfigurationError,
    Document,
    Place,
    check_keys,
    convert,
    read,
    shown,
)

PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text("abc xyz:-[]{}#'\"", max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text("abcxyz", min_size=1, max_size=5), inner, max_size=3),
    ),
    max_leaves=8,
)
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def document(folder: Path, text: str) -> Document:
    path = folder / "x.yaml"
    path.write_text(text)
    [found] = read(path)
    return found


@SAME_FOLDER
@given(content=st.dictionaries(st.text("abcxyz", min_size=1, max_size=5), PLAIN, min_size=1, max_size=4))
def test_what_was_written_is_read_again(tmp_path: Path, content: dict[str, Any]) -> None:
    assert document(tmp_path, yaml.safe_dump(content)).content == content


@SAME_FOLDER
@given(
    content=st.one_of(
        st.binary(max_size=80), st.text("ab: -[]{}&*!|>?%@`'\"\n\t#,0123456789", max_size=60).map(str.encode)
    )
)
def test_whatever_is_in_a_file_it_is_read_or_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    try:
        found = read(path)
    except ConfigurationError as error:
        assert str(error).startswith(str(path))
    else:
        assert found
        assert all(one.content is not None for one in found)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]\n"
    for n in range(1, 12)
)
"""A kilobyte that stands for 8^12 values."""


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: !secret x\n", 2, "could not determine a constructor for the tag '!secret'"),
        ("a: 1\nb: !!python/object:os.system x\n", 2, "could not determine a constructor"),
        ("a: 1\nb: !!int many\n", 2, "not valid YAML"),
        ("a: 1\nb: !!float many\n", 2, "not valid YAML"),
        ("a: 2024-99-99\n", 1, "not valid YAML"),
        ("a:\n- &loop\n  - *loop\n", 2, "that has no end"),
        ("a: " + "[" * 5000 + "]" * 5000 + "\n", 1, "nested more than 64 deep"),
        (BOMB, 6, "more than 100000 values, aliases written out"),
    ],
)
def test_a_value_that_cannot_be_made_is_an_error_with_its_line(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        document(tmp_path, text)
    assert str(refused.value).startswith(f"{tmp_path}/x.yaml:{line}: ")
    assert says in str(refused.value)


def test_a_file_of_exactly_the_limit_is_read_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_text("a: 1\n" + "#" * (MAX_FILE_BYTES - 5))
    assert read(path)[0].content == {"a": 1}
    path.write_text("a: 1\n" + "#" * (MAX_FILE_BYTES - 4))
    with pytest.raises(
        ConfigurationError, match=f"larger than {MAX_FILE_BYTES} bytes; is this a configuration"
    ):
        read(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "# only words\n",
        "---\n---\n",
        "null\n",
        "~\n",
        "{}\n",
        "[]\n",
        "x-a: &a 1\n",
        "---\n{}\n---\n",
    ],
)
def test_a_file_with_nothing_in_it_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="there is nothing in it"):
        read(path)


def test_empty_documents_between_others_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("---\n---\na: 1\n---\n# nothing\n---\nb: 2\n")
    assert [one.content for one in read(path)] == [{"a": 1}, {"b": 2}]


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Is a directory"):
        read(tmp_path)


def test_a_key_of_another_type_is_read_as_it_is_written(tmp_path: Path) -> None:
    assert document(tmp_path, "1: a\ntrue: b\n2.50: c\n").content == {"1": "a", "true": "b", "2.50": "c"}


def test_a_key_that_stands_twice_is_named_with_the_line_of_the_second(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"x\.yaml:4: the key 'b' stands here twice"):
        document(tmp_path, "a:\n  b: 1\n  c: 2\n  b: 3\n")


def test_the_same_key_in_two_places_is_none_that_stands_twice(tmp_path: Path) -> None:
    assert document(tmp_path, "a: {b: 1}\nc: {b: 2}\n").content == {"a": {"b": 1}, "c": {"b": 2}}


def test_every_value_knows_its_line(tmp_path: Path) -> None:
    found = document(tmp_path, "a: 1\nb:\n  c:\n  - x\n  - y: 2\n")
    assert found.place("a").line == 1
    assert found.place("b", "c").line == 3
    assert found.place("b", "c", 0).line == 4
    assert found.place("b", "c", 1, "y").line == 5


def test_what_is_not_there_stands_where_its_parent_does(tmp_path: Path) -> None:
    found = document(tmp_path, "a: 1\nb:\n  c: 2\n")
    assert found.place("b", "missing").line == 2
    assert found.place("missing", "deeper", 3).line == 1
    assert found.place("b", "missing").field == "b.missing"


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ((), ""),
        (("a",), "a"),
        (("a", "b"), "a.b"),
        (("a", 0), "a[0]"),
        (("a", 0, "b", 12), "a[0].b[12]"),
    ],
)
def test_a_field_is_written_as_people_write_it(path: tuple[str | int, ...], field: str) -> None:
    assert Document(Path("x"), {}, {}).place(*path).field == field


def test_an_error_begins_with_the_place_and_has_the_field() -> None:
    error = Place(Path("f.yaml"), 7, "a.b").error("is wrong")
    assert (str(error), error.field) == ("f.yaml:7: a.b: is wrong", "a.b")
    assert (error.file, error.line) == ("f.yaml", 7)
    error = Place(Path("f.yaml")).error("is wrong")
    assert (str(error), error.file, error.line) == ("f.yaml: is wrong", "f.yaml", 0)
    error = Place(Path("f.yaml"), 7, "").error("is wrong")
    assert (str(error), error.field) == ("f.yaml:7: is wrong", None)


@given(st.text(max_size=300))
def test_a_value_is_shown_short(text: str) -> None:
    said = shown(text)
    assert len(said) <= SHOWN_CHARS + 1
    assert said == repr(text) or (said.endswith("…") and repr(text).startswith(said[:-1]))


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("engin", "did you mean 'engine'?"),
        ("urls", "did you mean 'url'?"),
        ("zzz", "known are: engine, url"),
    ],
)
def test_an_unknown_key_is_named_with_the_closest_known_one(tmp_path: Path, key: str, hint: str) -> None:
    found = document(tmp_path, f"url: 1\n{key}: 2\n")
    with pytest.raises(ConfigurationError) as refused:
        check_keys(found, (), found.content, ("url", "engine"))
    assert str(refused.value) == f"{tmp_path}/x.yaml:2: {key}: unknown key; {hint}"
    assert refused.value.field == key


@pytest.mark.parametrize("content", ["[1, 2]", "words", "3", "true"])
def test_what_is_no_mapping_is_refused_with_what_may_stand_there(tmp_path: Path, content: str) -> None:
    found = document(tmp_path, f"a: {content}\n")
    with pytest.raises(ConfigurationError, match=r":1: a: must be a mapping of engine, url, not "):
        check_keys(found, ("a",), found.content["a"], ("url", "engine"))


class Entry(msgspec.Struct, rename="camel"):
    count: int = 0
    some_names: tuple[str, ...] = ()
    env: dict[str, str] = {}


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("a:\n  count: x\n", 2, "a.count"),
        ("a:\n  count: 1\n  someNames: 3\n", 3, "a.someNames"),
        ("a:\n  count: 1\n  someNames: [x, 2]\n", 3, "a.someNames"),
        ("a:\n  env:\n    A: 1\n", 2, "a.env"),
        ("a:\n  env: [x]\n", 2, "a.env"),
    ],
)
def test_a_wrong_value_is_named_with_its_field_and_line(
    tmp_path: Path, text: str, line: int, field: str
) -> None:
    found = document(tmp_path, text)
    with pytest.raises(ConfigurationError) as refused:
        convert(found, ("a",), found.content["a"], Entry)
    assert str(refused.value).startswith(f"{tmp_path}/x.yaml:{line}: {field}: ")
    assert refused.value.field == field


def test_an_entry_becomes_its_struct_with_defaults(tmp_path: Path) -> None:
    found = document(tmp_path, "a: {someNames: [x, y]}\n")
    assert convert(found, ("a",), found.content["a"], Entry) == Entry(0, ("x", "y"), {})
