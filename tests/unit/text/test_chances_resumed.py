"""Chances of tokens and parts of calls, where a watcher comes late and where a job is run again."""

from stoker.schemas.job_events import Alternative, CallPart, Completed, Delta, TextOutput, TokenChance
from stoker.schemas.openai import Usage
from stoker.schemas.workers import SentText
from stoker.services.gateway.watching.resume import Cursor
from stoker.services.worker.jobs.event_log import EventLog

TEXT = "one two three"


def chances(text: str = TEXT) -> tuple[TokenChance, ...]:
    found, at = [], 0
    for word in text.split(" "):
        token = word if at == 0 else " " + word
        found.append(TokenChance(token, -1.0, tuple(token.encode()), (Alternative("x", -2.0, (120,)),), at))
        at += len(token)
    return tuple(found)


def run(term: int, attempt: int = 1) -> tuple[EventLog, list[Delta]]:
    log = EventLog(term, attempt)
    return log, [log.delta(one.token, 1, logprobs=(one,)) for one in chances()]


def ended(term: int) -> Completed:
    output = TextOutput(TEXT, "stop", Usage(1, 3, 4), logprobs=chances())
    return Completed(
        job="j", model="m", created_at=1.0, finished_at=2.0, output=output, term=term, attempt=1, seq=9
    )


def tokens(events: list[object]) -> list[str]:
    return [one.token for event in events if isinstance(event, Delta) for one in event.logprobs]


def test_a_late_watcher_is_told_all_of_them() -> None:
    log, _ = run(7)
    [missed] = log.replay(0, 0, 0, 0)
    assert tokens([missed]) == ["one", " two", " three"]
    [missed] = log.replay(7, 1, 1, len("one"))
    assert tokens([missed]) == [" two", " three"]


def test_a_job_that_is_run_again_tells_each_once() -> None:
    cursor = Cursor()
    _, first = run(7)
    given: list[object] = [cursor.take(first[0]), cursor.take(first[1])]
    _, second = run(8)
    given += [cursor.take(one) for one in second]
    assert tokens(given) == ["one", " two", " three"]
    assert "".join(one.text for one in given if isinstance(one, Delta)) == TEXT


def test_what_is_missing_at_the_end_comes_with_the_end() -> None:
    cursor = Cursor()
    _, first = run(7)
    given: list[object] = [cursor.take(first[0])]
    given += list(cursor.finish(ended(7)))
    assert tokens(given) == ["one", " two", " three"]


def test_a_client_that_comes_back_is_told_what_it_has_not_had() -> None:
    cursor = Cursor.parse(f"7.1.1.{len('one')}")
    given: list[object] = list(cursor.finish(ended(7)))
    assert tokens(given) == [" two", " three"]


def test_parts_of_calls_are_passed_on_and_are_no_text() -> None:
    log = EventLog(7, 1)
    part = CallPart(0, "c", "add", '{"n"', 0)
    event = log.delta("", 2, calls=(part,))
    cursor = Cursor()
    taken = cursor.take(event)
    assert isinstance(taken, Delta) and taken.calls == (part,) and cursor.chars == 0
    more = log.delta("text", 1)
    assert cursor.take(more) == more


def test_a_text_that_goes_on_after_another_attempt_has_none() -> None:
    log = EventLog(8, 2)
    log.start_after(SentText("one", 1))
    [missed] = log.replay(0, 0, 0, 0)
    assert isinstance(missed, Delta) and missed.logprobs == () and missed.text == "one"
