"""What a model writes before its answer: told apart from it, however the stream is cut, repeated and taken up."""

from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.job_events import Completed, Delta, JobEvent, TextOutput
from stoker.schemas.openai import Usage
from stoker.services.gateway.watching.resume import Cursor, Gap
from stoker.services.worker.jobs.event_log import EventLog


def logged(reasoning: list[str], answer: list[str], attempt: int = 1) -> tuple[EventLog, list[Delta]]:
    log = EventLog(1, attempt)
    deltas = [log.delta(piece, 1, is_reasoning=True) for piece in reasoning]
    return log, deltas + [log.delta(piece, 1) for piece in answer]


def ended(log: EventLog, reasoning: str, answer: str) -> Completed:
    return Completed(
        job="j", model="m", created_at=0, finished_at=1, term=1, attempt=log.attempt, seq=log.next_seq(),
        output=TextOutput(answer, "stop", Usage(1, 1, 2), reasoning=reasoning),
    )  # fmt: skip


def both(events: list[JobEvent]) -> tuple[str, str]:
    """The reasoning and the answer in what a watcher was given."""
    deltas = [event for event in events if isinstance(event, Delta)]
    return (
        "".join(event.text[: event.reasoning] for event in deltas),
        "".join(event.text[event.reasoning :] for event in deltas),
    )


def test_deltas_say_how_much_of_them_is_reasoning() -> None:
    _, deltas = logged(["let ", "me"], ["yes"])
    assert [(one.text, one.at, one.reasoning) for one in deltas] == [
        ("let ", 0, 4),
        ("me", 4, 2),
        ("yes", 6, 0),
    ]


def test_a_replay_of_all_says_where_the_answer_begins() -> None:
    log, _ = logged(["let me "], ["yes"])
    [whole] = [one for one in log.replay(0, 0, 0, 0) if isinstance(one, Delta)]
    assert (whole.text, whole.reasoning) == ("let me yes", 7)
    [rest] = [one for one in log.replay(0, 0, 0, 5) if isinstance(one, Delta)]
    assert (rest.text, rest.reasoning) == ("e yes", 2)


PIECES = st.lists(st.text("abc", min_size=1, max_size=4), max_size=6)


@given(PIECES, PIECES, st.lists(st.booleans(), min_size=12, max_size=12), st.integers(0, 20))
def test_nothing_is_lost_or_mixed_whatever_is_lost_on_the_way_and_wherever_a_client_comes_back(
    reasoning: list[str], answer: list[str], losses: list[bool], had: int
) -> None:
    log, deltas = logged(reasoning, answer)
    whole = ("".join(reasoning), "".join(answer))
    had = min(had, len(whole[0] + whole[1]))
    cursor, seen = Cursor(had_chars=had), list[JobEvent]()
    for delta, is_lost in zip(deltas, losses, strict=False):
        if is_lost:
            continue
        try:
            taken = cursor.take(delta)
        except Gap:
            for missed in log.replay(cursor.term, cursor.attempt, cursor.seq, cursor.chars):
                if (replayed := cursor.take(missed, is_replayed=True)) is not None:
                    seen.append(replayed)
            continue
        if taken is not None:
            seen.append(taken)
    seen += cursor.finish(ended(log, *whole))
    assert both(seen) == (whole[0][had:], whole[1][max(had - len(whole[0]), 0) :])


def test_an_attempt_that_starts_over_repeats_neither() -> None:
    _, first = logged(["think", "ing "], [])
    second, again = logged(["thinking ", "more "], ["done"], attempt=2)
    cursor, seen = Cursor(), list[JobEvent]()
    for delta in (*first, *again):
        if (taken := cursor.take(delta)) is not None:
            seen.append(taken)
    seen += cursor.finish(ended(second, "thinking more ", "done"))
    assert both(seen) == ("thinking more ", "done")
