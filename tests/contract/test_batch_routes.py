"""POST, GET and cancel of batches over HTTP, and batches whose owner died in one of the other states."""

import time
from typing import Any

import pytest

from stoker.schemas.batches import RequestCounts, Segment
from stoker.schemas.keys import ApiKey
from stoker.schemas.subjects import BATCHES_BUCKET, FILES_STREAM
from stoker.services.bus.buckets import open_bucket
from stoker.services.bus.streams import declare
from stoker.services.gateway.batches import owning
from stoker.services.gateway.edge.access import current_key
from stoker.services.gateway.routes import batches as routes
from stoker.services.records import files
from stoker.services.records.batches import list_batches
from tests.contract.conftest import Connect
from tests.fixtures.batches import (
    BATCH,
    CHAT,
    complete_all,
    ended,
    fail,
    gateway,
    keep_input,
    line,
    lines,
    make,
    of_the_dead,
    published,
    quick,
    results,
    running,
    until,
)
from tests.fixtures.ends import end
from tests.fixtures.gateway_app import Answered, Served, completed, soon

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")


async def create(stand: Served, **fields: Any) -> Answered:
    body = {"input_file_id": "file-in", "endpoint": CHAT, "completion_window": "24h"} | fields
    return await stand.ask("POST", "/v1/batches", body)


async def test_a_batch_is_made_and_shown_as_openai_shows_it(connected: Connect) -> None:
    async with gateway(connected) as stand:
        await keep_input(stand, lines(1))
        made = (await create(stand, metadata={"a": "b"})).json()
        assert made["id"].startswith("batch_") and made["expires_at"] - made["created_at"] == 24 * 3600
        expected = {
            "object": "batch", "endpoint": CHAT, "input_file_id": "file-in", "completion_window": "24h",
            "status": "validating", "metadata": {"a": "b"}, "errors": None, "output_file_id": None,
            "error_file_id": None, "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "in_progress_at": None, "finalizing_at": None, "completed_at": None, "failed_at": None,
            "expired_at": None, "cancelling_at": None, "cancelled_at": None,
        }  # fmt: skip
        assert {name: made[name] for name in expected} == expected
        for prefix in ("", "/openai"):
            assert (await stand.ask("GET", f"{prefix}/v1/batches/{made['id']}")).json() == made
        listed = (await stand.ask("GET", "/v1/batches")).json()
        assert listed == {
            "data": [made], "first_id": made["id"], "last_id": made["id"], "has_more": False, "object": "list"
        }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"input_file_id": "file-none"}, "input_file_id", "there is no file"),
        ({"input_file_id": "file-notes"}, "input_file_id", "purpose 'batch'"),
        ({"input_file_id": "file-old"}, "input_file_id", "send it again"),
        ({"endpoint": "/v1/audio/speech"}, "endpoint", "/v1/embeddings"),
        ({"completion_window": "7d"}, "completion_window", "'24h'"),
        ({"input_file_id": None}, "input_file_id", "missing"),
        ({"metadata": "x"}, "metadata", "object"),
    ],
)
async def test_a_batch_that_cannot_be_is_refused_with_the_field(
    connected: Connect, fields: dict[str, Any], param: str, said: str
) -> None:
    async with gateway(connected) as stand:
        await keep_input(stand, lines(1))
        await keep_input(stand, lines(1), "file-notes", purpose="user_data")
        await keep_input(stand, lines(1), "file-old", now=time.time() - 6.5 * 24 * 3600)
        body = {"input_file_id": "file-in", "endpoint": CHAT, "completion_window": "24h"} | fields
        answer = await stand.ask("POST", "/v1/batches", {k: v for k, v in body.items() if v is not None})
        error = answer.json()["error"]
        assert (answer.status, error["param"]) == (400, param), error
        assert said in error["message"]
        assert await list_batches(stand.gateway.bus) == []


async def test_a_key_has_so_many_batches_under_way(connected: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MAX_UNFINISHED", 2)
    async with gateway(connected) as stand:
        await keep_input(stand, lines(1))
        made = [(await create(stand)).json()["id"] for _ in range(2)]
        answer = await create(stand)
        assert (answer.status, answer.json()["error"]["code"]) == (429, "too_many_batches")
        assert answer.headers["retry-after"] == "1"
        complete_all(stand)
        async with running(stand.gateway):
            await ended(stand, made[0])
        assert (await create(stand)).status == 200


async def test_a_key_sees_and_cancels_its_own_batches_only(connected: Connect) -> None:
    async with gateway(connected) as stand:
        token = current_key.set(ApiKey("ada", "ada", "", 0.0))
        try:
            await keep_input(stand, lines(1), tenant="ada")
            made = (await create(stand)).json()["id"]
            current_key.set(ApiKey("bob", "bob", "", 0.0))
            assert (await create(stand)).json()["error"]["param"] == "input_file_id"
            for method, path in (("GET", made), ("POST", f"{made}/cancel")):
                answer = await stand.ask(method, f"/v1/batches/{path}")
                assert (answer.status, answer.json()["error"]["code"]) == (404, "batch_not_found")
            assert (await stand.ask("GET", "/v1/batches")).json()["data"] == []
            current_key.set(ApiKey("eve", "eve", "", 0.0, role="operate"))
            assert [one["id"] for one in (await stand.ask("GET", "/v1/batches")).json()["data"]] == [made]
            assert (await stand.ask("POST", f"/v1/batches/{made}/cancel")).json()["status"] == "cancelling"
        finally:
            current_key.reset(token)


async def test_there_is_no_such_batch(connected: Connect) -> None:
    async with gateway(connected) as stand:
        for method, path in (("GET", "x"), ("GET", "a b*>."), ("POST", "x/cancel")):
            answer = await stand.ask(method, f"/v1/batches/{path}")
            assert (answer.status, answer.json()["error"]["code"]) == (404, "batch_not_found")


# Owners that died in other states -----------------------------------------------------------------


async def test_results_become_the_same_file_whoever_makes_it(connected: Connect) -> None:
    async with gateway(connected) as stand:
        segment = await files.append(stand.gateway.bus, Segment("t", 0, 0), b'{"custom_id":"c0"}\n')
        fields = of_the_dead(status="finalizing", outputs=(segment,), counts=RequestCounts(1, 1, 0))
        await make(stand, lines(1), **fields)
        await make(stand, lines(1), **(fields | {"id": "batch_2", "input_file_id": "file-2"}))
        async with running(stand.gateway):
            first, second = await ended(stand), await ended(stand, "batch_2")
        assert first.status == second.status == "completed"
        assert first.output_file_id != second.output_file_id and first.error_file_id is None
        assert list(await results(stand, first)) == ["c0"]
        assert len(await files.list_files(stand.gateway.bus)) == 4


async def test_a_batch_that_was_being_cancelled_is_cancelled_and_keeps_what_was_done(
    connected: Connect,
) -> None:
    """Line 0 has ended, 1 was never stored though it was reserved, 2 was not reserved."""
    async with gateway(connected) as stand:
        complete_all(stand)
        async with running(stand.gateway):
            await make(stand, lines(1))
            await ended(stand)
        [job] = stand.backend.jobs
        ran = completed(job)
        fields = of_the_dead(status="cancelling", reserved=2, id="batch_2", input_file_id="file-2")
        await make(stand, lines(3), **fields)
        renamed = type(ran)(
            **{name: getattr(ran, name) for name in ran.__struct_fields__} | {"job": "batch_2-0-0"}
        )
        await end(stand.backend.bus, renamed)
        async with running(stand.gateway):
            record = await ended(stand, "batch_2")
        assert (record.status, record.counts) == ("cancelled", RequestCounts(3, 1, 2))
        assert list(await results(stand, record)) == ["c0"]
        assert len(stand.backend.jobs) == 1  # nothing was begun


async def test_a_batch_that_was_being_looked_at_is_looked_at_again(connected: Connect) -> None:
    async with gateway(connected) as stand:
        complete_all(stand)
        await make(stand, lines(2), **of_the_dead(status="validating", times={}))
        async with running(stand.gateway):
            record = await ended(stand)
        assert (record.counts, record.claim) == (RequestCounts(2, 2, 0), 2)


# What goes wrong ----------------------------------------------------------------------------------


async def test_where_an_answer_fails_the_others_of_its_line_are_cancelled(connected: Connect) -> None:
    async with gateway(connected) as stand, running(stand.gateway):
        await make(stand, line(0, n=3))
        await soon(lambda: len(stand.backend.jobs) == 3)
        first, second, third = sorted(stand.backend.jobs, key=lambda job: job.id)
        await fail(stand, first)
        for job in (second, third):
            await stand.backend.complete(job)
        record = await ended(stand)
        assert record.counts == RequestCounts(1, 0, 1)
        failure = (await results(stand, record, "error"))["c0"]["response"]
        assert (failure["status_code"], failure["body"]["error"]["message"]) == (503, "no memory")


async def test_results_that_cannot_be_written_wait_until_they_can(connected: Connect) -> None:
    async with gateway(connected) as stand, running(stand.gateway):
        await make(stand, lines(3))
        await soon(lambda: len(stand.backend.jobs) == 3)
        await stand.gateway.bus.jetstream.delete_stream(FILES_STREAM)
        for job in stand.backend.jobs:
            await stand.backend.complete(job)
        before = (await until(stand, lambda record: record.beat)).beat
        found = await until(stand, lambda record: record.beat > before + 10)  # its owner lives
        assert (found.status, found.counts) == ("in_progress", RequestCounts(3))
        await declare(stand.gateway.bus)
        record = await ended(stand)
        assert (record.status, record.counts) == ("completed", RequestCounts(3, 3, 0))
        assert sorted(await results(stand, record)) == ["c0", "c1", "c2"]
        assert set(published(stand).values()) == {1}


async def test_a_record_that_nobody_can_read_holds_up_no_other(connected: Connect) -> None:
    async with gateway(connected) as stand:
        complete_all(stand)
        bucket = await open_bucket(stand.gateway.bus, BATCHES_BUCKET)
        await bucket.put("batch_0", b'{"id": 7}')
        async with running(stand.gateway):
            await make(stand, lines(1))
            assert (await ended(stand)).status == "completed"


async def test_an_error_of_ours_fails_its_line_and_no_more(connected: Connect) -> None:
    """An endpoint that a later version knows."""
    async with gateway(connected) as stand, running(stand.gateway):
        await make(stand, line(0, "/v1/later"), endpoint="/v1/later")
        record = await ended(stand)
        failure = (await results(stand, record, "error"))["c0"]["response"]
        assert (record.status, failure["status_code"]) == ("completed", 500)
        assert "internal error" in failure["body"]["error"]["message"]


async def test_a_gateway_runs_so_many_at_a_time_the_oldest_first(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owning, "BATCHES_AT_ONCE", 1)
    async with gateway(connected) as stand:
        await make(stand, lines(1), created_at=200, id="batch_2", input_file_id="file-2")
        await make(stand, lines(1), created_at=100)
        async with running(stand.gateway):
            first = await stand.backend.job()
            assert first.id.startswith(f"{BATCH}-")
            await until(stand, lambda record: record.beat > 2)
            assert len(stand.backend.jobs) == 1
            complete_all(stand)
            await stand.backend.complete(first)
            assert (await ended(stand, "batch_2")).status == "completed"


async def test_where_there_is_no_bucket_yet_it_is_waited_for(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams of the version before, until `stoker install-streams` was run."""
    monkeypatch.setattr(owning, "ASK_AGAIN_S", 0.05)
    async with gateway(connected) as stand:
        complete_all(stand)
        await stand.gateway.bus.jetstream.delete_stream(f"KV_{BATCHES_BUCKET}")
        async with running(stand.gateway):
            answer = await stand.ask("GET", "/v1/batches")
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            await declare(stand.gateway.bus)
            await make(stand, lines(1))
            assert (await ended(stand)).status == "completed"
