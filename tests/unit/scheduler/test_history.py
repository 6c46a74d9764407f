"""What has ended is kept for who asks, and told once for the time axis; both are bounded."""

from typing import Any

from stoker.schemas.fleet import JobView
from stoker.schemas.jobs import CompletionInput, Job
from stoker.services.scheduler.jobs import history
from stoker.services.scheduler.jobs.history import History

NOW = 1000.0


def view(name: str) -> JobView:
    return JobView(id=name, status="completed", model="a", created_at=NOW, finished_at=NOW + 5, attempt=1)


def job(name: str) -> Job:
    return Job(name, "a", CompletionInput("x"), "gw", NOW)


def taken(kept: History) -> tuple[list[str], int]:
    found, more = kept.take_new()
    return [one.id for one, _ in found], more


def test_endings_are_told_once() -> None:
    kept = History()
    kept.ended(view("a"), job("a"))
    kept.ended(view("unnoted"))
    assert taken(kept) == (["a"], 0)
    kept.ended(view("b"), job("b"))
    assert taken(kept) == (["b"], 0)
    assert taken(kept) == ([], 0)
    assert list(kept.endings) == ["a", "unnoted", "b"]


def test_endings_that_nobody_takes_are_bounded_and_counted(monkeypatch: Any) -> None:
    monkeypatch.setattr(history, "MAX_NEW", 3)
    kept = History()
    for number in range(5):
        kept.ended(view(f"j{number}"), job(f"j{number}"))
    assert taken(kept) == (["j2", "j3", "j4"], 2)
    assert taken(kept) == ([], 0)


def test_of_endings_the_last_can_be_asked_for(monkeypatch: Any) -> None:
    monkeypatch.setattr(history, "KEPT_ENDINGS", 2)
    kept = History()
    for name in "abc":
        kept.ended(view(name))
    assert list(kept.endings) == ["b", "c"]
    kept.note_ending(view("c"))
    assert kept.endings["c"].finished_at == NOW + 5
