"""However a stream is cut, moved and repeated: no gap, no repeat."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.job_events import Completed, Delta, JobEvent, LiveEvent, Progress, Started, TextOutput
from stoker.schemas.openai import Usage
from stoker.schemas.workers import SentText
from stoker.services.gateway.watching.resume import BadEventId, Cursor, Gap
from stoker.services.worker.jobs.event_log import EventLog


def completed(log: EventLog) -> Completed:
    return Completed(
        job="j",
        model="m",
        created_at=0,
        finished_at=1,
        term=log.term,
        attempt=log.attempt,
        seq=log.next_seq(),
        history=log.history(),
        output=TextOutput(log.text(), "stop", Usage(1, 1, 2)),
    )


def text_of(events: list[JobEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def test_an_id_names_a_place_and_nothing_else_is_accepted() -> None:
    assert Cursor.parse("7.1.12.340") == Cursor(7, 1, 12, had_chars=340)
    assert Cursor.parse("7.1.12.340").id() == "7.1.12.340"
    assert Cursor(7, 1, 12, 340).id() == "7.1.12.340"
    for bad in ("", "1.2.3", "1.2.3.x", "1.2.3.-4", "1.2.3.4.5", "\u0661.1.1.1"):
        with pytest.raises(BadEventId):
            Cursor.parse(bad)


def test_a_missing_event_is_a_gap_and_an_old_one_is_ignored() -> None:
    cursor = Cursor(1, 1, 3, 10)
    with pytest.raises(Gap):
        cursor.take(Delta(term=1, attempt=1, seq=5, at=10, text="x"))
    assert cursor.take(Delta(term=1, attempt=1, seq=3, at=8, text="zz")) is None
    assert cursor.take(Started(term=0, attempt=9, seq=1, worker="w")) is None
    assert cursor.take(Delta(term=1, attempt=1, seq=4, at=10, text="x")) is not None


def test_an_attempt_that_starts_over_repeats_nothing() -> None:
    cursor = Cursor(1, 1, 4, 6)
    assert cursor.take(Started(term=1, attempt=2, seq=1, worker="w")) is not None
    assert cursor.take(Delta(term=1, attempt=2, seq=2, at=0, text="hello")) is None
    new = cursor.take(Delta(term=1, attempt=2, seq=3, at=5, text=" world"))
    assert isinstance(new, Delta)
    assert (new.text, new.at, cursor.chars) == ("world", 6, 11)


@given(
    pieces=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=12),
    losses=st.lists(st.booleans(), min_size=40, max_size=40),
    cut_at=st.integers(0, 30),
    resume_from_text=st.booleans(),
    dies_after=st.integers(0, 12),
)
def test_text_arrives_exactly_once_whatever_is_lost(
    pieces: list[str], losses: list[bool], cut_at: int, resume_from_text: bool, dies_after: int
) -> None:
    """A worker dies after some deltas, another goes on; messages are lost; the watcher reconnects once."""
    whole = "".join(pieces)
    cursor, given_events = Cursor(), list[JobEvent]()

    def deliver(event: LiveEvent, log: EventLog, lost: bool) -> None:
        nonlocal cursor
        if lost:
            return
        if len(given_events) == cut_at:
            cursor = Cursor.parse(cursor.id())
        try:
            taken = cursor.take(event)
        except Gap:
            for missed in log.replay(cursor.term, cursor.attempt, cursor.seq, cursor.chars):
                if (replayed := cursor.take(missed, is_replayed=True)) is not None:
                    given_events.append(replayed)
            return
        if taken is not None:
            given_events.append(taken)

    first, position = EventLog(1, 1), 0
    lost = iter(losses)
    for piece in pieces[:dies_after]:
        deliver(first.delta(piece, 1), first, next(lost))
    second = EventLog(1, 2)
    if resume_from_text:
        second.start_after(SentText(text_of(given_events), 1))
        position = second.chars
    while position < len(whole):
        deliver(second.delta(whole[position : position + 2], 1), second, next(lost, False))
        position += 2
    for event in cursor.finish(completed(second)):
        given_events.append(event)
    assert text_of(given_events) == whole
    assert isinstance(given_events[-1], Completed)


def test_a_finished_job_tells_a_late_watcher_its_small_events_too() -> None:
    log = EventLog(3, 1)
    for step in range(1, 5):
        log.note(Progress(term=3, attempt=1, seq=log.next_seq(), step=step, steps=4))
    late = list(Cursor(3, 1, 2, 0).finish(completed(log)))
    assert [event.step for event in late if isinstance(event, Progress)] == [3, 4]
