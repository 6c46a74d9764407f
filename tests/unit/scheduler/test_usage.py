"""What keys have used: each job once, by the day on which it ended, and nothing is lost that could not be written."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.usage import DayUse, ModelUse
from stoker.schemas.workers import Finished, Outcome
from stoker.services.scheduler.protocol import events
from stoker.services.scheduler.usage import UsageBook
from tests.unit.scheduler.single import Core

NOON = 1_796_040_000.0  # 2026-11-30, 12:00 UTC
LATER = NOON + 86_400.0


def job(tenant: str = "k", model: str = "m") -> Job:
    return Job("j", model, CompletionInput("x"), "gw", NOON, tenant=tenant)


def end(outcome: Outcome = "completed", **fields: Any) -> Finished:
    return Finished("j", "m", 1, outcome, **fields)


def test_uses_are_kept_by_day_key_and_model() -> None:
    book = UsageBook()
    book.note(job(), end(run_s=2.0, prompt_tokens=10, answer_tokens=5), NOON)
    book.note(job(), end("failed", run_s=1.0, batch=2), NOON)
    book.note(job(model="n"), end(run_s=1.0), NOON)
    book.note(job(tenant=""), end(), LATER)
    assert book.take() == [
        DayUse("2026-11-30", "k", {"m": ModelUse(2, 1, 10, 5, 2.5), "n": ModelUse(1, 0, 0, 0, 1.0)}),
        DayUse("2026-12-01", "", {"m": ModelUse(1)}),
    ]
    assert book.take() == []


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 100), st.booleans()), max_size=30))
def test_what_could_not_be_written_is_written_later(steps: list[tuple[str, int, bool]]) -> None:
    book, written = UsageBook(), ModelUse()
    for key, tokens, is_written in steps:
        book.note(job(key), end(answer_tokens=tokens), NOON)
        for use in book.take():
            if is_written:
                written += use.models["m"]
            else:
                book.give_back(use)
    for use in book.take():
        written += use.models["m"]
    assert (written.jobs, written.answer_tokens) == (len(steps), sum(tokens for _, tokens, _ in steps))


def test_a_job_counts_once_however_often_its_end_is_told() -> None:
    core = Core("w")
    core.running()
    finished = events.JobFinished("w", Finished("j", "a", 1, "completed", run_s=0.5, answer_tokens=7))
    core.feed(finished)
    core.feed(finished)
    [use] = core.scheduler.usage.take()
    assert use.models == {"a": ModelUse(1, 0, 0, 7, 0.5)}


def test_an_attempt_that_was_lost_does_not_count() -> None:
    core = Core("w")
    core.running()
    core.feed(events.JobFinished("w", Finished("j", "a", 1, "lost", run_s=0.5)))
    assert core.scheduler.usage.take() == []
