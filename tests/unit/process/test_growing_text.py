"""Text that grows is what was added, whatever that is."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from stoker.services.process.growing_text import GrowingText

PIECES = st.lists(st.text(st.characters(), max_size=5), max_size=30)


@given(st.text(max_size=5), PIECES)
def test_it_is_all_that_was_added_half_characters_too(first: str, pieces: list[str]) -> None:
    text = GrowingText(first)
    for piece in [*pieces, "\ud83d"]:
        text.add(piece)
    assert text.whole() == "".join([first, *pieces, "\ud83d"])


def test_it_takes_little_more_than_its_bytes() -> None:
    text = GrowingText()
    for number in range(10_000):
        text.add(f"t{number} ")
    assert sys.getsizeof(text._bytes) < 1.2 * len(text.whole())
