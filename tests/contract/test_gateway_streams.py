"""Waiting for jobs at a gateway: nothing is missed, nothing is left behind, whoever goes away and when."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any

import pytest

from stoker.schemas.job_events import Assigned, Completed, Delta, Preview, Terminal
from stoker.schemas.jobs import CompletionInput, Job
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.watching import watcher as watcher_module
from stoker.services.gateway.watching.resume import Cursor
from tests.contract.conftest import Connect
from tests.fixtures.cancelling import cancel_at_each_await
from tests.fixtures.ends import end
from tests.fixtures.gateway_app import ECHO, Served, completed, served, soon, view

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
JOB = {"model": "m", "input": {"prompt": "hi"}}


Start = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def start(connected: Connect) -> Start:
    @asynccontextmanager
    async def starting(*, sees_jobs: bool = True) -> AsyncIterator[Served]:
        async with (
            connected("gateway") as bus,
            connected("backend") as other,
            served(bus, other, sees_jobs=sees_jobs) as found,
        ):
            yield found

    return starting


def job_of(served: Served, job_id: str = "") -> Job:
    return served.gateway.submission.make_job(ECHO, "", CompletionInput("hi"), job_id=job_id)


async def test_an_end_that_no_subscription_told_is_found_all_the_same(start: Start) -> None:
    """It is stored under another gateway's subject, so nothing comes to this one."""
    async with start() as stand:
        with stand.gateway.streams.expecting("j", 60.0) as ended:
            elsewhere = Job(id="j", model="m", input=CompletionInput("hi"), gateway="other", created_at=1.0)
            await end(stand.backend.bus, completed(elsewhere))
            result = await asyncio.wait_for(ended, 15)
        assert isinstance(result.event, Completed)


async def test_after_a_reconnection_every_end_is_looked_for_at_once(start: Start) -> None:
    async with start() as stand:
        loop = asyncio.get_running_loop()
        with stand.gateway.streams.expecting("j", 60.0) as ended:
            elsewhere = Job(id="j", model="m", input=CompletionInput("hi"), gateway="other", created_at=1.0)
            await end(stand.backend.bus, completed(elsewhere))
            began = loop.time()
            for callback in stand.gateway.bus.on_reconnect:
                callback()
            await asyncio.wait_for(ended, 15)
        assert loop.time() - began < 2.0


async def test_all_who_wait_under_one_id_get_the_result(start: Start) -> None:
    async with start() as stand:
        streams = stand.gateway.streams
        with streams.expecting("j", 60.0) as first:
            with streams.expecting("j", 60.0) as second, streams.expecting("j", 60.0):
                pass
            with streams.expecting("j", 60.0) as third:
                job = job_of(stand, "j")
                await end(stand.backend.bus, completed(job))
                results = await asyncio.wait_for(asyncio.gather(first, third), 10)
        assert [type(result.event) for result in results] == [Completed, Completed]
        assert not second.done() and streams.waiting == 0


async def test_a_request_that_waits_too_long_is_told_so(start: Start) -> None:
    async with start() as stand:
        late = pytest.raises(RequestError, match="not ended in time")
        with stand.gateway.streams.expecting("j", 0.1) as ended, late as refused:
            await asyncio.wait_for(ended, 10)
        assert refused.value.status == 504


async def test_a_result_that_cannot_be_read_is_an_error_and_no_endless_wait(start: Start) -> None:
    async with start() as stand:
        bus = stand.backend.bus
        with (
            stand.gateway.streams.expecting("j", 60.0) as told,
            stand.gateway.streams.expecting("k", 60.0) as found,
        ):
            await bus.publish_stored(bus.subjects.result("j"), b"not a result")
            await bus.publish_stored(bus.subjects.result("k"), b"not a result")
            for ended in (told, found):
                with pytest.raises(RequestError, match="cannot be read") as refused:
                    await asyncio.wait_for(ended, 15)
                assert refused.value.status == 500


async def at_rest(stand: Served) -> dict[str, int]:
    """What a stand has when it has read its buckets: looked at until it stays as it is."""
    looks = [stand.left()]

    def stays() -> bool:
        looks.append(stand.left())
        return looks[-5:] == [looks[-1]] * 5

    await soon(stays, "the stand at rest")
    return looks[-1]


async def test_two_hundred_readers_leave_no_handler(start: Start) -> None:
    async with start() as stand:
        before = await at_rest(stand)
        stand.backend.views["j"] = view("j")
        clients = [stand.client("GET", "/v1/jobs/j/events") for _ in range(200)]
        async with asyncio.TaskGroup() as readers:
            for client in clients:
                readers.create_task(client.run())
            await soon(lambda: all(client.answer.status == 200 for client in clients))
            assert stand.left()["streams"] == 200
            for client in clients[:100]:
                client.leave()
            job = job_of(stand, "j")
            await end(stand.backend.bus, completed(job))
        assert not stand.grown(before)
        assert all(b"event: completed" in client.answer.body for client in clients[100:])


async def test_a_reader_of_a_job_of_another_gateway_gets_its_events(start: Start) -> None:
    async with start() as stand:
        stand.backend.views["j"] = view("j")
        job = Job(id="j", model="m", input=CompletionInput("hi"), gateway="other", created_at=1.0)
        client = stand.client("GET", "/v1/jobs/j/events")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(client.run())
            await soon(lambda: client.answer.status == 200)
            await stand.gateway.bus.client.flush()
            await stand.backend.complete(job, "from elsewhere")
        body = client.answer.body.decode()
        assert body.count("event: completed") == 1
        assert body.count("event: delta") == 1 and "from elsewhere" in body


async def watch_text(stand: Served, job: str, cursor: Cursor) -> str:
    text, ends = "", 0
    async with aclosing(stand.gateway.streams.watch(job, cursor)) as items:
        async for item in items:
            if item is not None and isinstance(item[0], Delta):
                text += item[0].text
            ends += item is not None and isinstance(item[0], Terminal)
    assert ends == 1
    return text


async def test_a_watcher_that_is_too_slow_loses_what_waits_and_is_told_all_in_the_end(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as stand:
        monkeypatch.setattr(watcher_module, "QUEUE_LIMIT_BYTES", 50_000)
        job = job_of(stand)
        pieces = [f"{number:04d}" * 25 for number in range(2000)]
        with stand.gateway.submission.watched(job) as watcher:
            await stand.backend.job()
            at = 0
            for number, piece in enumerate(pieces):
                stand.backend.tell(job, Delta(term=1, attempt=1, seq=number + 1, at=at, text=piece))
                at += len(piece)
            await stand.backend.bus.client.flush()
            await end(stand.backend.bus, completed(job, "".join(pieces)))
            await soon(lambda: watcher.waiting_bytes)
            await asyncio.sleep(0)
            assert watcher.waiting_bytes <= 50_000 + 300_000  # the end itself is kept, however large
            text = ""
            async with aclosing(stand.gateway.streams.follow(watcher)) as items:
                async for item in items:
                    text += item[0].text if item is not None and isinstance(item[0], Delta) else ""
        assert text == "".join(pieces)
        assert not stand.backend.cancelled


async def test_previews_that_nobody_reads_are_bounded_in_bytes(start: Start) -> None:
    async with start() as stand:
        job = job_of(stand)
        with stand.gateway.submission.watched(job) as watcher:
            for number in range(100):
                picture = Preview(
                    term=1,
                    attempt=1,
                    seq=number + 1,
                    index=0,
                    step=number,
                    width=8,
                    height=8,
                    image_bytes=1_000_000,
                )
                watcher.put(picture, bytes(1_000_000), 1_000_100)
                assert watcher.waiting_bytes <= watcher_module.QUEUE_LIMIT_BYTES
        assert await stand.backend.job()


# A client that goes away, at any moment ----------------------------------------------------------


async def left_nothing(stand: Served, before: dict[str, int]) -> None:
    await soon(lambda: not stand.grown(before), "nothing left behind")
    assert stand.gateway.submission.pausing == 0


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    [
        ("POST", "/v1/chat/completions", CHAT, {}),
        ("POST", "/v1/chat/completions", CHAT | {"stream": True}, {}),
        ("POST", "/v1/jobs", JOB, {}),
        ("POST", "/v1/jobs", JOB, {"prefer": "wait=20"}),
        ("GET", "/v1/jobs/known/events", None, {}),
        ("GET", "/v1/events", None, {}),
        ("GET", "/v1/jobs/known", None, {}),
    ],
)
async def test_cancelled_at_each_await_a_request_leaves_nothing(
    start: Start, method: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    async with start() as stand:
        stand.backend.on_job = stand.backend.complete
        stand.backend.views["known"] = view("known")

        def work() -> Any:
            if path.startswith("/v1/jobs/known"):
                tasks.create_task(end_known())
            return stand.client(method, path, body, **headers).run()

        async def end_known() -> None:
            job = Job(id="known", model="m", input=CompletionInput("hi"), gateway="gw", created_at=1.0)
            await end(stand.backend.bus, completed(job))

        async with asyncio.TaskGroup() as tasks:
            before = stand.left()
            awaits = await cancel_at_each_await(work, lambda _: left_nothing(stand, before))
        assert awaits >= 2
        assert not stand.grown(before)


async def leave(stand: Any, body: dict[str, Any]) -> None:
    """A client that goes away while its job waits, until its job is cancelled."""
    number = len(stand.backend.jobs)
    client = stand.client("POST", "/v1/chat/completions", body)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(client.run())
        job = await stand.backend.job(number)
        client.leave()
    await soon(lambda: job.id in stand.backend.cancelled)
    assert client.answer.status == 0


async def test_a_client_that_goes_away_cancels_its_job(start: Start) -> None:
    async with start() as stand:
        for body in (CHAT, CHAT | {"stream": True}):
            await leave(stand, body)
        await soon(lambda: stand.left()["waiting"] == 0)
        once = stand.left()  # what a first request opens for good is open now
        for body in (CHAT, CHAT | {"stream": True}):
            await leave(stand, body)
        await soon(lambda: not stand.grown(once), "nothing left behind")


async def test_a_stream_whose_client_goes_away_cancels_at_the_worker_too(start: Start) -> None:
    async with start() as stand:
        told: list[str] = []
        await stand.backend.bus.listen(
            stand.backend.bus.subjects.worker("w", "cancel"), lambda message: told.append(message.subject)
        )
        await stand.backend.bus.client.flush()
        client = stand.client("POST", "/v1/chat/completions", CHAT | {"stream": True})
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(client.run())
            job = await stand.backend.job()
            stand.backend.tell(job, Assigned(term=1, attempt=1, seq=1, worker="w", spec="default", tier="hot"))
            stand.backend.tell(job, Delta(term=1, attempt=1, seq=2, at=0, text="a"))
            await soon(lambda: client.answer.body)
            client.leave()
        await soon(lambda: told and stand.backend.cancelled)
        assert stand.backend.cancelled == [job.id]


async def test_more_streams_than_allowed_are_refused_and_counted_right(connected: Connect) -> None:
    async with connected() as bus, connected() as other, served(bus, other, max_streams=1) as stand:
        stand.backend.views["j"] = view("j")
        first = stand.client("GET", "/v1/jobs/j/events")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(first.run())
            await soon(lambda: first.answer.status == 200)
            refused = await stand.ask("GET", "/v1/fleet/stream")
            assert (refused.status, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["type"] == "urn:stoker:too_many_streams"
            first.leave()
        assert stand.gateway.streams_open.open == 0


# The same id twice --------------------------------------------------------------------------------


async def test_a_job_put_twice_with_a_wait_is_answered_twice(start: Start) -> None:
    async with start() as stand:
        clients = [stand.client("PUT", "/v1/jobs/mine", JOB, prefer="wait=20") for _ in range(2)]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(clients[0].run())
            job = await stand.backend.job()
            stand.backend.views["mine"] = view("mine", fingerprint=job.fingerprint)
            tasks.create_task(clients[1].run())
            await soon(lambda: stand.gateway.streams._waiting._ends and clients[1]._has_sent)
            await asyncio.sleep(0.1)
            del stand.backend.views["mine"]
            await stand.backend.complete(job)
        for client in clients:
            assert client.answer.status == 200, client.answer.body
            assert client.answer.json()["status"] == "completed"


async def test_another_body_under_the_same_id_is_a_conflict(start: Start) -> None:
    async with start() as stand:
        stand.backend.views["mine"] = view("mine", fingerprint="of another body")
        answer = await stand.ask("PUT", "/v1/jobs/mine", JOB)
        assert (answer.status, answer.json()["field"]) == (409, "id")


async def test_a_job_that_ended_is_answered_with_its_end(start: Start) -> None:
    async with start() as stand:
        first = await stand.ask("PUT", "/v1/jobs/mine", JOB)
        assert first.status == 202
        job = await stand.backend.job()
        await end(stand.backend.bus, completed(job))
        again = await stand.ask("PUT", "/v1/jobs/mine", JOB, prefer="wait=5")
        assert (again.status, again.json()["status"]) == (200, "completed")
        assert len(stand.backend.jobs) == 1


# Storing a job ------------------------------------------------------------------------------------


async def test_a_job_that_cannot_be_stored_is_tried_again_until_it_is(start: Start) -> None:
    async with start(sees_jobs=False) as stand:
        jetstream = stand.backend.bus.jetstream
        config = (await jetstream.stream_info("STOKER_JOBS")).config
        await jetstream.delete_stream("STOKER_JOBS")
        stored = stand.gateway.submission.store(job_of(stand))
        await soon(lambda: stand.gateway.submission.pausing)
        await jetstream.add_stream(config)
        assert await asyncio.wait_for(stored, 10) is True
        assert stand.gateway.submission.pausing == 0


async def test_no_repeat_outlives_the_gateway_or_who_waits(start: Start) -> None:
    async with start(sees_jobs=False) as stand:
        await stand.backend.bus.jetstream.delete_stream("STOKER_JOBS")
        submission = stand.gateway.submission
        given_up = submission.store(job_of(stand))
        kept = submission.store(job_of(stand))
        await soon(lambda: submission.pausing == 2)
        given_up.cancel()
        await soon(lambda: submission.pausing == 1)
        submission.close()
        with pytest.raises(RequestError, match="the gateway is stopping") as refused:
            await kept
        assert refused.value.status == 503
        assert submission.pausing == 0
        late = submission.store(job_of(stand))
        with pytest.raises(RequestError, match="could not be stored"):
            await asyncio.wait_for(late, 10)


async def test_a_full_stream_refuses_unary_and_streamed_requests_alike(start: Start) -> None:
    async with start() as stand:
        jetstream = stand.backend.bus.jetstream
        config = (await jetstream.stream_info("STOKER_JOBS")).config
        await jetstream.update_stream(config.evolve(max_msgs=1))
        assert (await stand.ask("POST", "/v1/jobs", JOB)).status == 202
        for body in (CHAT, CHAT | {"stream": True}):
            answer = await stand.ask("POST", "/v1/chat/completions", body)
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert answer.json()["error"]["code"] == "queue_full"
        assert stand.backend.cancelled == []
        assert stand.gateway.streams.waiting == 0
