"""Weights within prompts: what A1111 makes of its brackets, and that any text has a meaning."""

import itertools
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stoker.services.worker.engines.images.weights import (
    MAX_NESTED,
    Run,
    has_weights,
    parsed,
    plain,
    unknown_syntax,
)

SYNTAX = st.text(st.sampled_from("ab (){}[]:\\1.5-+|\n") | st.characters(), max_size=60)
WORDS = st.text(st.sampled_from("abcxyz ,.:1é"), max_size=40)


def told(prompt: str) -> list[list[tuple[str, float]]]:
    return [[(run.text, round(run.weight, 4)) for run in section] for section in parsed(prompt)]


@pytest.mark.parametrize(
    ("prompt", "runs"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("a (b:1.3)", [("a ", 1.0), ("b", 1.3)]),
        ("(b: -0.5 )", [("b", -0.5)]),
        ("(b:.5)", [("b", 0.5)]),
        ("((x))", [("x", 1.21)]),
        ("[x]", [("x", 0.9091)]),
        ("([x])", [("x", 1.0)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1.0), (" c", 0.9091)]),
        ("a :) b]", [("a :) b]", 1.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("a \\\\ b\\", [("a \\ b", 1.0)]),
        ("", []),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky)))",
            [
                ("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.55), (", sun, ", 1.1),
                ("sky", 1.4641),
            ],
        ),
    ],
)  # fmt: skip
def test_brackets_are_what_they_are_in_a1111(prompt: str, runs: list[tuple[str, float]]) -> None:
    assert told(prompt) == [runs]


def test_a_break_begins_another_section() -> None:
    assert told("a BREAK b") == [[("a ", 1.0)], [(" b", 1.0)]]
    assert told("BREAK BREAKFAST") == [[], [(" BREAKFAST", 1.0)]]
    assert told("(a BREAK b:2) c") == [[("a ", 2.0)], [(" b", 2.0), (" c", 1.0)]]


@given(SYNTAX)
@example("0BREAK")
def test_any_text_has_a_meaning_and_none_of_it_is_lost_but_brackets(prompt: str) -> None:
    sections = parsed(prompt)
    assert sections and all(run.text for section in sections for run in section)
    for section in sections:
        assert all(one.weight != other.weight for one, other in itertools.pairwise(section))
    kept = plain(prompt).replace(" ", "")
    # "0BREAK" is a word like any other
    rest = iter(re.sub(r"\bBREAK\b", "", prompt))
    assert all(letter in rest for letter in kept)  # in the same order


@given(WORDS)
def test_a_text_without_brackets_is_untouched(prompt: str) -> None:
    assert parsed(prompt) == ((Run(prompt),) if prompt else (),)
    assert plain(prompt) == prompt and not has_weights(prompt)


@given(
    st.text("abc ", min_size=1, max_size=20), st.lists(st.floats(0.1, 3).map(lambda x: round(x, 3)), max_size=6)
)
def test_nested_weights_multiply(text: str, weights: list[float]) -> None:
    prompt, product = text, 1.0
    for weight in weights:
        prompt, product = f"({prompt}:{weight})", product * weight
    ((run,),) = parsed(prompt)
    assert run.text == text and run.weight == pytest.approx(product)


@given(WORDS, SYNTAX)
def test_escaped_text_is_text(before: str, prompt: str) -> None:
    escaped = "".join("\\" + letter if letter in "()[]\\" else letter for letter in prompt)
    if "BREAK" not in prompt:
        assert plain(before + escaped) == before + prompt and not has_weights(before + escaped)


def test_brackets_too_far_in_are_text_and_long_prompts_take_no_time() -> None:
    deep = parsed("(" * (MAX_NESTED + 2) + "x")
    assert deep[0][0].text == "((x"
    began = time.monotonic()
    for hostile in (
        "(a" * 30_000,
        "([a:1.1" * 20_000,
        ":" + " " * 100_000,
        " " * 100_000 + "BREAK",
        "(a:1" * 20_000,
    ):
        parsed(hostile)
        unknown_syntax(hostile)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a [cat:dog:0.5] x", "[from:to:when] and [a|b]"),
        ("[a|b]", "[from:to:when] and [a|b]"),
        ("a cat AND a dog", "AND"),
        ("a (cat:1.2) and [dog], sand", ""),
    ],
)
def test_what_is_drawn_as_text_though_a1111_knows_it_is_named(prompt: str, named: str) -> None:
    assert unknown_syntax(prompt) == named
