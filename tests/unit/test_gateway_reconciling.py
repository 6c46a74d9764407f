"""Everything that is waited for is looked for until it has an end, with bounded lookups and back-off."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from stoker.schemas.job_events import Cancelled, Delta
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.watching import reconciling
from stoker.services.gateway.watching.reconciling import LOOKUPS_AT_ONCE, Reconciler
from stoker.services.gateway.watching.resume import Cursor, Gap
from stoker.services.gateway.watching.waiting import Waiting
from stoker.services.gateway.watching.watcher import QUEUE_LIMIT_EVENTS, Watcher
from stoker.services.process.tasks import TaskOwner
from stoker.services.records.results import Lookup, NotStored, Result, Stored, Unknown, Unreadable
from tests.fixtures.gateway_app import soon


def result(job: str) -> Result:
    return Result(Cancelled(job=job, model="m", created_at=1.0, finished_at=2.0), b"")


class Store:
    """What is stored, told or not told as a test wants."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Lookup]] = {}
        self.asked: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.can_be_asked = True

    async def __call__(self, job: str) -> Lookup:
        self.asked.append(job)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.001)
        self.at_once -= 1
        answers = self.answers.get(job, [NotStored()])
        return answers.pop(0) if len(answers) > 1 else answers[0]


@asynccontextmanager
async def reconciled(store: Store) -> AsyncIterator[tuple[Waiting, Reconciler]]:
    waiting = Waiting(lambda job: lambda: None)
    reconciler = Reconciler(waiting, store, lambda: store.can_be_asked)
    async with TaskOwner("test") as tasks:
        tasks.start(reconciler.run)
        tasks.start(reconciler.expire)
        yield waiting, reconciler


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciling, "SWEEP_S", 0.005)
    monkeypatch.setattr(reconciling, "FIRST_LOOK_S", 0.02)
    monkeypatch.setattr(reconciling, "FIRST_RETRY_S", 0.01)


async def test_a_lookup_that_fails_is_made_again_and_stops_no_other() -> None:
    store = Store()
    store.answers["a"] = [Unknown("away")] * 5 + [Stored(result("a"))]
    store.answers["b"] = [Stored(result("b"))]
    async with reconciled(store) as (waiting, reconciler):
        with waiting.expecting("a", 60) as a, waiting.expecting("b", 60) as b:
            reconciler.look_at_all()
            assert (await asyncio.wait_for(b, 5)).event.job == "b"
            assert (await asyncio.wait_for(a, 5)).event.job == "a"
    assert store.asked.count("a") == 6


async def test_the_pauses_after_failed_lookups_grow() -> None:
    store = Store()
    store.answers["a"] = [Unknown("away")]
    async with reconciled(store) as (waiting, reconciler):
        with waiting.expecting("a", 60):
            reconciler.look_at_all()
            await asyncio.sleep(0.4)
            assert len(store.asked) <= 8
            await soon(lambda: len(store.asked) >= 3)


async def test_an_end_that_cannot_be_read_is_told_as_an_error_to_all() -> None:
    store = Store()
    store.answers["a"] = [Unreadable("of a newer version")]
    async with reconciled(store) as (waiting, _):
        watcher = Watcher("a", Cursor())
        with waiting.expecting("a", 60) as ended, waiting.attached(watcher):
            with pytest.raises(RequestError, match="of a newer version"):
                await asyncio.wait_for(ended, 5)
            with pytest.raises(RequestError, match="of a newer version"):
                await watcher.next(5.0)
            assert watcher.has_ended


async def test_only_what_is_waited_for_is_looked_for_and_nothing_is_kept() -> None:
    store = Store()
    async with reconciled(store) as (waiting, reconciler):
        with waiting.expecting("a", 60):
            await soon(lambda: store.asked)
        await soon(lambda: not reconciler._looks)
        before = len(store.asked)
        await asyncio.sleep(0.1)
        assert len(store.asked) == before
        assert len(waiting) == 0


async def test_lookups_are_bounded_and_all_jobs_have_their_turn() -> None:
    store = Store()
    jobs = [f"j{number}" for number in range(200)]
    async with reconciled(store) as (waiting, reconciler):
        watchers = [Watcher(job, Cursor()) for job in jobs]
        blocks = [waiting.attached(watcher) for watcher in watchers]
        for block in blocks:
            block.__enter__()
        reconciler.look_at_all()
        await soon(lambda: set(store.asked) == set(jobs))
        for block in blocks:
            block.__exit__(None, None, None)
    assert 1 < store.most_at_once <= LOOKUPS_AT_ONCE


async def test_while_the_connection_is_away_nothing_is_asked_and_limits_still_hold() -> None:
    store = Store()
    store.can_be_asked = False
    async with reconciled(store) as (waiting, reconciler):
        with waiting.expecting("a", 0.05) as ended:
            reconciler.look_at_all()
            with pytest.raises(RequestError, match="not ended in time"):
                await asyncio.wait_for(ended, 5)
    assert store.asked == []


async def test_a_store_that_does_not_answer_delays_no_limit() -> None:
    class Hanging(Store):
        async def __call__(self, job: str) -> Lookup:
            self.asked.append(job)
            await asyncio.Event().wait()
            return NotStored()

    store = Hanging()
    async with reconciled(store) as (waiting, reconciler):
        with waiting.expecting("a", 60), waiting.expecting("b", 0.2) as late:
            reconciler.look_at_all()
            await soon(lambda: len(store.asked) == 2)
            with pytest.raises(RequestError, match="not ended in time"):
                await asyncio.wait_for(late, 5)


# Watchers -----------------------------------------------------------------------------------------


def delta(seq: int, text: str = "x") -> Delta:
    return Delta(term=1, attempt=1, seq=seq, at=(seq - 1) * len(text), text=text)


async def test_a_watcher_over_its_events_or_bytes_drops_what_waits_and_says_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_count = Watcher("a", Cursor())
    for seq in range(1, QUEUE_LIMIT_EVENTS + 3):
        by_count.put(delta(seq), b"", 0)
    by_size = Watcher("a", Cursor())
    for seq in range(1, 7):
        by_size.put(delta(seq), bytes(10), 1_000_000)
    for watcher in (by_count, by_size):
        with pytest.raises(Gap):
            await watcher.next(1.0)
        assert watcher.waiting_bytes == 0
        assert await watcher.next(0.01) is None


async def test_the_end_is_kept_whatever_waits_and_comes_once() -> None:
    watcher = Watcher("a", Cursor())
    for seq in range(1, 10):
        watcher.put(delta(seq), b"", 1_000_000)
    end = result("a").event
    watcher.put(end, b"raw", 50_000_000)
    watcher.put(end, b"raw", 50_000_000)
    watcher.put(delta(99), b"", 1)
    assert await watcher.next(1.0) == (end, b"raw")
    assert await watcher.next(0.01) is None
    assert watcher.waiting_bytes == 0


async def test_leaving_one_wait_leaves_the_others_of_the_job() -> None:
    waiting = Waiting(lambda job: lambda: None)
    first = waiting.expecting("a", 60)
    ended = first.__enter__()
    with pytest.raises(KeyError), waiting.expecting("a", 60), waiting.attached(Watcher("a", Cursor())):
        assert len(waiting) == 1
        raise KeyError("x")
    waiting.end("a", result("a"), 10)
    assert (await ended).event.job == "a"
    first.__exit__(None, None, None)
    assert len(waiting) == 0
