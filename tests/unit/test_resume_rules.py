"""A watcher's place, one event at a time: what it has had, what is missing, and what the end still brings."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.job_events import (
    Cancelled,
    Completed,
    Delta,
    EmbeddingOutput,
    JobEvent,
    LiveEvent,
    Progress,
    Queued,
    Started,
    TextOutput,
    TokenChance,
)
from stoker.schemas.openai import Usage
from stoker.services.gateway.watching.resume import BadEventId, Cursor, Diverged, Gap, event_name


def delta(seq: int, at: int, text: str, term: int = 1, attempt: int = 1) -> Delta:
    return Delta(term=term, attempt=attempt, seq=seq, at=at, text=text)


def step(seq: int, term: int = 1, attempt: int = 1) -> Progress:
    return Progress(term=term, attempt=attempt, seq=seq, step=seq, steps=9)


def completed(output: Any, *history: Any) -> Completed:
    return Completed(
        job="j", model="m", created_at=0, finished_at=1, term=1, attempt=1, seq=99, history=history, output=output
    )  # fmt: skip


def text(whole: str) -> TextOutput:
    return TextOutput(whole, "stop", Usage(1, 1, 2))


def place(cursor: Cursor) -> tuple[int, int, int, int]:
    return cursor.term, cursor.attempt, cursor.seq, max(cursor.chars, cursor.had_chars)


@pytest.mark.parametrize(
    ("event", "is_next"),
    [
        (delta(4, 10, "x"), True),
        (delta(3, 10, "x"), False),
        (delta(5, 10, "x"), False),
        (delta(2, 10, "x"), False),
        (delta(4, 9, "x"), False),
        (delta(4, 10, ""), False),
        (delta(4, 10, "x", attempt=2), False),
        (delta(4, 10, "x", term=2), False),
    ],
)
def test_only_the_very_next_text_is_next(event: Delta, *, is_next: bool) -> None:
    assert Cursor(1, 1, 3, 10).is_next(event) == is_next
    assert not Cursor(1, 1, 3, 10, had_chars=11).is_next(event), "its client has had it"


def test_of_text_that_a_client_had_the_chances_of_the_tokens_are_not_told_again() -> None:
    cursor = Cursor(1, 1, 3, 6, had_chars=10)
    tokens = tuple(
        TokenChance(token, -1.0, tuple(token.encode()), at=at)
        for token, at in (("ab", 6), ("cd", 8), ("ef", 10), ("gh", 12))
    )
    taken = cursor.take(msgspec.structs.replace(delta(4, 6, "abcdefgh"), logprobs=tokens))
    assert isinstance(taken, Delta)
    assert (taken.at, taken.text, [one.token for one in taken.logprobs]) == (10, "efgh", ["ef", "gh"])


@given(st.tuples(*[st.integers(0, 10**9)] * 4))
def test_an_id_is_read_as_it_was_written(numbers: tuple[int, int, int, int]) -> None:
    assert place(Cursor.parse(Cursor(*numbers).id())) == numbers


@given(st.text("0123456789.-+ x\u0663", max_size=12))
def test_an_id_is_accepted_only_where_it_is_four_plain_numbers(event_id: str) -> None:
    parts = event_id.split(".")
    is_good = len(parts) == 4 and all(part and set(part) <= set("0123456789") for part in parts)
    if is_good:
        assert place(Cursor.parse(event_id)) == tuple(int(part) for part in parts)
    else:
        with pytest.raises(BadEventId, match="is not an event id; it looks like"):
            Cursor.parse(event_id)


def test_who_goes_on_elsewhere_learns_the_text_from_its_beginning_and_is_given_the_rest() -> None:
    cursor = Cursor.parse("1.1.5.4")
    with pytest.raises(Gap):
        cursor.take(delta(6, 4, "ef"))
    assert cursor.take(delta(6, 0, "abcdef"), is_replayed=True) == delta(6, 4, "ef")
    assert cursor.text() == "abcdef"
    assert cursor.id() == "1.1.6.6"
    assert list(cursor.finish(completed(text("abcdefgh"))))[:-1] == [
        Delta(term=1, attempt=1, seq=6, at=6, text="gh", tokens=0)
    ]


def test_what_its_client_had_is_not_given_again_however_little_of_it_is_known() -> None:
    cursor = Cursor.parse("1.1.5.6")
    assert cursor.take(delta(6, 0, "abc"), is_replayed=True) is None
    assert (cursor.chars, cursor.id(), cursor.text()) == (3, "1.1.6.6", "abc")
    assert cursor.take(delta(7, 3, "defgh")) == delta(7, 6, "gh")


def test_another_text_of_a_further_attempt_is_no_part_of_the_same_answer() -> None:
    cursor = Cursor()
    assert cursor.take(delta(1, 0, "abc")) is not None
    assert cursor.take(delta(1, 0, "ab", attempt=2)) is None, "so far it is the same"
    with pytest.raises(Diverged):
        cursor.take(delta(2, 2, "xyz", attempt=2))
    with pytest.raises(Diverged):
        list(cursor.finish(completed(text("abd"))))
    assert list(cursor.finish(completed(text("abc"))))


@pytest.mark.parametrize(
    ("cursor", "is_fresh"),
    [
        (Cursor(), True),
        (Cursor(5), True),
        (Cursor(0, 1), False),
        (Cursor(0, 0, 1), False),
        (Cursor(0, 0, 0, 1), False),
        (Cursor.parse("0.0.0.1"), False),
    ],
)
def test_a_watcher_is_fresh_until_it_had_something(cursor: Cursor, is_fresh: bool) -> None:
    assert cursor.is_fresh is is_fresh


def test_what_only_informs_passes_and_moves_nothing() -> None:
    cursor = Cursor(1, 1, 5, 7)
    event = Queued(position=2)
    assert cursor.take(event) is event
    assert place(cursor) == (1, 1, 5, 7)


def test_the_next_event_is_taken_and_moves_the_place() -> None:
    cursor = Cursor(1, 1, 5, 7)
    event = step(6)
    assert cursor.take(event) is event
    assert place(cursor) == (1, 1, 6, 7)


@pytest.mark.parametrize(
    "event", [step(5), step(4), step(6, term=0), step(6, attempt=0), step(1, term=0, attempt=9)]
)
def test_what_it_had_or_what_is_older_is_ignored(event: LiveEvent) -> None:
    cursor = Cursor(1, 1, 5, 7)
    assert cursor.take(event) is None
    assert place(cursor) == (1, 1, 5, 7)


@pytest.mark.parametrize(
    "event", [step(7), step(2, attempt=2), step(2, term=2), delta(6, 8, "x"), delta(7, 7, "x")]
)
def test_a_gap_is_told_and_moves_nothing(event: LiveEvent) -> None:
    cursor = Cursor(1, 1, 5, 7)
    with pytest.raises(Gap):
        cursor.take(event)
    assert place(cursor) == (1, 1, 5, 7)


@pytest.mark.parametrize(("term", "attempt"), [(1, 2), (2, 1), (2, 0)])
def test_a_newer_attempt_begins_with_its_first_event(term: int, attempt: int) -> None:
    cursor = Cursor(1, 1, 5, 7)
    event = Started(term=term, attempt=attempt, seq=1, worker="w")
    assert cursor.take(event) is event
    assert place(cursor) == (term, attempt, 1, 7)


def test_text_that_it_had_is_cut_off() -> None:
    cursor = Cursor(1, 1, 5, 7)
    assert cursor.take(delta(6, 4, "abcdef")) == delta(6, 7, "def")
    assert place(cursor) == (1, 1, 6, 10)
    assert cursor.take(delta(7, 8, "xy")) is None
    assert place(cursor) == (1, 1, 7, 10)


def test_a_replay_may_leave_out_events_but_no_text() -> None:
    cursor = Cursor(1, 1, 5, 7)
    assert cursor.take(step(8), is_replayed=True) == step(8)
    assert cursor.take(step(8), is_replayed=True) is None
    assert cursor.take(step(7), is_replayed=True) is None
    assert cursor.take(delta(8, 7, "abc"), is_replayed=True) == delta(8, 7, "abc")
    assert place(cursor) == (1, 1, 8, 10)
    with pytest.raises(Gap):
        cursor.take(delta(9, 11, "x"), is_replayed=True)
    assert cursor.take(step(4, attempt=2), is_replayed=True) == step(4, attempt=2)


def test_text_of_the_same_number_counts_only_in_a_replay() -> None:
    cursor = Cursor(1, 1, 5, 7)
    assert cursor.take(delta(5, 7, "abc")) is None
    assert cursor.take(delta(5, 7, "abc"), is_replayed=True) == delta(5, 7, "abc")


# The end ------------------------------------------------------------------------------------------


def test_the_end_brings_the_small_events_and_the_text_that_are_lacking() -> None:
    cursor = Cursor(1, 1, 2, 3)
    end = completed(text("abcdef"), step(1), step(2), step(3), step(4))
    rest = Delta(term=1, attempt=1, seq=4, at=3, text="def", tokens=0)
    assert list(cursor.finish(end)) == [step(3), step(4), rest, end]
    assert place(cursor) == (1, 1, 4, 6)


def test_who_had_everything_gets_only_the_end() -> None:
    cursor = Cursor(1, 1, 4, 6)
    end = completed(text("abcdef"), step(4))
    assert list(cursor.finish(end)) == [end]
    assert place(cursor) == (1, 1, 4, 6)


def test_small_events_of_earlier_attempts_are_not_told_again() -> None:
    cursor = Cursor(2, 1, 3, 0)
    end = completed(text(""), step(9), step(2, term=2), step(4, term=2), step(1, term=2, attempt=2))
    assert list(cursor.finish(end)) == [step(4, term=2), step(1, term=2, attempt=2), end]


@pytest.mark.parametrize(
    "end",
    [
        completed(EmbeddingOutput(((1.0,),), 1)),
        Cancelled(job="j", model="m", created_at=0, finished_at=1, term=1, attempt=1, seq=9),
    ],
)
def test_an_end_without_text_brings_none(end: Any) -> None:
    assert list(Cursor(1, 1, 4, 6).finish(end)) == [end]


@given(st.text("abc", max_size=20), st.integers(0, 20))
def test_the_end_completes_the_text_from_any_place(whole: str, had: int) -> None:
    had = min(had, len(whole))
    events: list[JobEvent] = list(Cursor(1, 1, 1, had).finish(completed(text(whole))))
    rest = "".join(event.text for event in events if isinstance(event, Delta))
    assert whole[:had] + rest == whole
    assert all(event.text for event in events if isinstance(event, Delta))


def test_events_are_named_as_clients_see_them() -> None:
    assert [event_name(event) for event in (Queued(position=0), step(1), delta(1, 0, "x"), completed(text("")))] == [
        "queued", "progress", "delta", "completed",
    ]  # fmt: skip
