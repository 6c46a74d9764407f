"""The events of one attempt: numbered without a gap, kept within bounds, and replayed exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.job_events import Delta, Progress, SmallEvent, Started
from stoker.schemas.workers import SentText
from stoker.services.gateway.watching.resume import Cursor, Gap
from stoker.services.worker.jobs import event_log
from stoker.services.worker.jobs.event_log import EventLog


def note_step(log: EventLog, step: int) -> Progress:
    event = Progress(term=log.term, attempt=log.attempt, seq=log.next_seq(), step=step, steps=9)
    log.note(event)
    return event


def test_events_and_text_are_numbered_together() -> None:
    log = EventLog(7, 3)
    first = note_step(log, 1)
    assert log.delta("héllo", 2) == Delta(
        term=7, attempt=3, seq=2, at=0, text="héllo", tokens=2, tokens_so_far=2
    )
    assert log.delta(" world", 1) == Delta(
        term=7, attempt=3, seq=3, at=5, text=" world", tokens=1, tokens_so_far=3
    )
    assert (first.seq, note_step(log, 2).seq, log.chars, log.text()) == (1, 4, 11, "héllo world")
    assert log.delta("!", 1).at == 11, "looking at the text changes nothing"
    assert log.text() == "héllo world!"


def test_text_of_an_earlier_attempt_belongs_to_the_log_and_is_not_sent_again() -> None:
    log = EventLog(1, 2)
    log.start_after(SentText("abc", 2))
    assert (log.chars, log.text()) == (3, "abc")
    assert log.delta("def", 1).at == 3
    assert log.text() == "abcdef"


def test_a_replay_brings_the_small_events_after_a_place_and_the_text_as_one_delta() -> None:
    log = EventLog(7, 1)
    one, two = note_step(log, 1), note_step(log, 2)
    log.delta("abc", 1)
    log.delta("def", 1)
    rest = Delta(term=7, attempt=1, seq=4, at=2, text="cdef", tokens=0, tokens_so_far=2)
    assert log.replay(7, 1, 1, 2) == [two, rest]
    assert log.replay(0, 0, 0, 6) == [one, two]
    assert log.replay(6, 9, 9, 2) == [one, two, rest], "a place in an earlier term"
    assert log.replay(7, 1, 4, 6) == []
    assert log.replay(7, 2, 0, 9) == []


def test_a_long_run_keeps_its_first_steps_and_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MAX_HISTORY", 3)
    log = EventLog(1, 1)
    for step in range(1, 7):
        note_step(log, step)
    assert [event.step for event in log.history() if isinstance(event, Progress)] == [1, 2, 6]


def test_what_is_no_step_is_kept_however_long_the_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MAX_HISTORY", 2)
    log = EventLog(1, 1)
    for step in range(1, 5):
        note_step(log, step)
    started = Started(term=1, attempt=1, seq=log.next_seq(), worker="w")
    log.note(started)
    assert log.history()[-1] == started
    assert [type(event) for event in log.history()] == [Progress, Progress, Started]


def test_much_text_is_replayed_piece_by_piece_as_the_watcher_finds_it_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_log, "REPLAYED_CHARS", 4)
    log, cursor = EventLog(1, 1), Cursor()
    for number in range(5):
        log.delta(f"ab{number}", 1)
    given = ""
    while cursor.chars < log.chars:
        for event in log.replay(cursor.term, cursor.attempt, cursor.seq, cursor.chars):
            taken = cursor.take(event, is_replayed=True)
            given += taken.text if isinstance(taken, Delta) else ""
        live = log.delta("c", 1) if log.chars < 18 else None
        if live is not None:
            with pytest.raises(Gap):
                cursor.take(live)
    assert (given, cursor.text()) == (log.text(), "ab0ab1ab2ab3ab4ccc")


@given(st.lists(st.one_of(st.text("abc", min_size=1, max_size=4), st.none()), max_size=20), st.data())
def test_a_replay_from_any_place_completes_what_was_had(steps: list[str | None], data: st.DataObject) -> None:
    """None: a step; else text."""
    log, sent = EventLog(2, 1), list[SmallEvent | Delta]()
    for number, step in enumerate(steps):
        sent.append(note_step(log, number) if step is None else log.delta(step, 1))
    had = sent[: data.draw(st.integers(0, len(sent)))]
    text = "".join(event.text for event in had if isinstance(event, Delta))
    missed = log.replay(2, 1, len(had), len(text))
    whole = text + "".join(event.text for event in missed if isinstance(event, Delta))
    assert whole == log.text()
    small = [event for event in [*had, *missed] if isinstance(event, Progress)]
    assert small == [event for event in sent if isinstance(event, Progress)]
    assert all(event.seq <= log.seq for event in missed)
