"""YAML within bounds: what aliases stand for is counted before it is made; anchors and merges are understood."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.services.catalog import yaml_nodes
from stoker.services.catalog.documents import ConfigurationError, Document, read
from stoker.services.catalog.load import load
from stoker.services.catalog.yaml_nodes import MAX_DEPTH, MAX_TEXT_CHARS, MAX_VALUES, WrongAt, composed, plain


def made(text: str) -> object:
    [node] = composed(text)
    return plain(node, {})


def refused(text: str) -> WrongAt:
    with pytest.raises(WrongAt) as error:
        list(composed(text))
    return error.value


def document(folder: Path, text: str) -> Document:
    path = folder / "x.yaml"
    path.write_text(text)
    [found] = read(path)
    return found


def wide(levels: int, times: int = 9) -> str:
    """Each line names the one before it `times` times."""
    lines = ["a0: &a0 [x]\n"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * times)}]\n" for n in range(1, levels)]
    return "".join(lines)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (wide(60), 6),
        ("x-all:\n  b: &b [1]\n" + wide(60), 8),
        (wide(60).replace("a9: &a9 [", "a9: &a9 !!seq ["), 6),
        ("- &a0 {k: v}\n" + "".join(f"- &a{n} {{<<: [{f'*a{n - 1},' * 20}]}}\n" for n in range(1, 40)), 5),
    ],
    ids=["lists", "below x-", "tagged", "merges"],
)
def test_aliases_that_stand_for_too_much_are_refused_where_it_becomes_so(text: str, line: int) -> None:
    error = refused(text)
    assert str(error) == f"more than {MAX_VALUES} values, aliases written out"
    assert error.line == line


def test_an_alias_bomb_that_is_used_as_a_key_is_refused_as_such() -> None:
    assert "more than" in str(refused(wide(20) + "? *a19\n: 1\n"))
    [node] = composed("a: &a [1]\n? *a\n: 1\n")
    with pytest.raises(WrongAt, match="a key must be a word"):
        plain(node, {})


def test_text_that_aliases_repeat_is_counted() -> None:
    many = MAX_TEXT_CHARS // 1000
    text = f"a: &a {'x' * 1000}\nb:\n"
    assert "characters" in str(refused(text + "- *a\n" * many))
    assert made(text + "- *a\n" * (many - 2))


def test_values_are_counted_and_keys_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_nodes, "MAX_VALUES", 1000)
    line = "- {a: 1, b: 2, c: 3}\n"
    assert made(line * 249)
    assert str(refused(line * 250)) == "more than 1000 values, aliases written out"


@pytest.mark.parametrize("shape", ["[{}]", "{{a: {}}}"])
def test_depth_has_a_bound_also_by_way_of_aliases(shape: str) -> None:
    def nested(depth: int) -> str:
        text = "x"
        for _ in range(depth):
            text = shape.format(text)
        return text

    assert made(nested(MAX_DEPTH - 1))
    assert str(refused(nested(MAX_DEPTH))).startswith(f"nested more than {MAX_DEPTH} deep")
    chain = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 500))
    error = refused(chain)
    assert str(error).startswith(f"nested more than {MAX_DEPTH} deep")
    assert error.line == MAX_DEPTH - 1


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "a: &a\n  b: [1, {c: *a}]", "&r\na: *r"])
def test_what_has_itself_in_it_is_refused(text: str) -> None:
    assert "that has no end" in str(refused(text))


def test_the_documents_of_a_file_are_counted_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_nodes, "MAX_VALUES", 1000)
    one = "- [" + "1, " * 400 + "1]\n"
    assert len(list(composed(f"---\n{one}---\n{one}---\n{one}"))) == 3


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from(["a", "b c", "~x"]))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=9,
)


@given(tree=TREES, times=st.integers(1, 4))
def test_an_alias_is_what_it_names(tree: object, times: int) -> None:
    """JSON is YAML, so a tree can be written without knowing its rules."""
    written = json.dumps(tree)
    assert made(f"a: &a {written}\nb: [{', '.join(['*a'] * times)}]\n") == {"a": tree, "b": [tree] * times}


def test_anchors_below_x_keys_serve_the_rest_and_mean_nothing_themselves(tmp_path: Path) -> None:
    path = tmp_path / "stoker.yaml"
    path.write_text(
        "x-common: &common {engine: synthetic, slots: 2}\n"
        "x-options: &options\n  tokens: 8\n"
        "models:\n"
        "  one: *common\n"
        "  two:\n    <<: *common\n    slots: 3\n    options: *options\n"
    )
    one, two = load([path], {}).models
    assert (one.specs[0].slots, one.specs[0].options) == (2, {})
    assert (two.specs[0].slots, two.specs[0].options) == (3, {"tokens": 8})


def test_x_keys_are_of_the_top_alone(tmp_path: Path) -> None:
    path = tmp_path / "stoker.yaml"
    path.write_text("models:\n  a: {engine: synthetic, x-note: 1}\n")
    with pytest.raises(ConfigurationError, match=r":2: models\.a\.x-note: unknown key"):
        load([path], {})


def test_merged_mappings_give_what_is_not_there_and_the_first_wins(tmp_path: Path) -> None:
    found = document(
        tmp_path,
        "x-a: &a\n  k: a\n  l: a\nx-b: &b {l: b, m: b}\nc:\n  m: own\n  <<: [*a, *b]\nd: {<<: *b}\n",
    )
    assert found.content == {"c": {"k": "a", "l": "a", "m": "own"}, "d": {"l": "b", "m": "b"}}
    assert found.place("c", "k").line == 2, "where it is written"
    assert found.place("c", "m").line == 6


@pytest.mark.parametrize("wrong", ["<<: 1", "<<: [1]", "<<: [[]]", "<<: words"])
def test_only_mappings_can_be_merged(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=r"x\.yaml:2: << takes a mapping"):
        document(tmp_path, f"a:\n  {wrong}\n")


def test_a_key_that_is_written_as_text_is_no_merge(tmp_path: Path) -> None:
    assert document(tmp_path, 'a: {"<<": 1}\n').content == {"a": {"<<": 1}}


def test_a_control_character_has_its_line_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"x\.yaml:3: not valid YAML: a control character"):
        document(tmp_path, "a: 1\nb: 2\nc: \x01\n")
