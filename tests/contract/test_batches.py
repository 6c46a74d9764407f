"""Batches on a real NATS server; the test is the scheduler and the worker, and sees every job that is stored."""

import asyncio
import time
from contextlib import AsyncExitStack

import msgspec
import pytest

from stoker.schemas.batches import BatchRecord, RequestCounts, Segment
from stoker.schemas.fleet import QueueDepth
from stoker.schemas.jobs import Job
from stoker.schemas.keys import ApiKey
from stoker.services.bus.connection import Bus
from stoker.services.gateway.batches import owning
from stoker.services.gateway.batches.claim import Claim, Lost, take
from stoker.services.gateway.batches.line_runs import JOBS_AT_ONCE, RESERVE
from stoker.services.gateway.batches.requests import ENDPOINTS, LOWEST_PRIORITY, Maker
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.batch_states import move
from stoker.services.records import files
from stoker.services.records.batches import change_batch, list_batches, read_batch, write_batch
from stoker.services.records.keys import put_key
from tests.contract.conftest import Connect
from tests.fixtures.batches import (
    BATCH,
    CHAT,
    complete_all,
    ended,
    expire,
    fail,
    gateway,
    line,
    lines,
    make,
    of_the_dead,
    published,
    quick,
    results,
    running,
    stop_jobs,
    stored,
    until,
)
from tests.fixtures.ends import end
from tests.fixtures.gateway_app import Served, completed, soon, view

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")


# Cycle --------------------------------------------------------------------------------------------


async def test_every_line_is_a_job_of_the_lowest_priority_under_a_name_of_its_own(connected: Connect) -> None:
    async with gateway(connected) as stand:
        complete_all(stand)
        async with running(stand.gateway):
            await make(stand, lines(3))
            record = await ended(stand)
        assert (record.status, record.counts) == ("completed", RequestCounts(3, 3, 0))
        assert list(record.times) == ["in_progress", "finalizing", "completed"]
        assert published(stand) == {f"{BATCH}-{number}-0": 1 for number in range(3)}
        for job in stand.backend.jobs:
            assert (job.priority, job.is_client_named, job.has_one_result) == (LOWEST_PRIORITY, True, True)
            assert job.admission_timeout_s > 3500
        done = await results(stand, record)
        assert sorted(done) == ["c0", "c1", "c2"]
        answer = done["c1"]["response"]
        assert (answer["status_code"], answer["request_id"]) == (200, f"{BATCH}-1-0")
        assert answer["body"]["choices"][0]["message"]["content"] == "hello"
        assert record.error_file_id is None


async def test_no_more_than_so_many_jobs_are_under_way(connected: Connect) -> None:
    async with gateway(connected) as stand, running(stand.gateway):
        await make(stand, lines(JOBS_AT_ONCE + 3))
        await soon(lambda: len(stand.backend.jobs) == JOBS_AT_ONCE)
        for number in range(3):
            await stand.backend.complete(stand.backend.jobs[number])
            await soon(lambda wanted=number: len(stand.backend.jobs) == JOBS_AT_ONCE + wanted + 1)
        assert (await stored(stand)).reserved == RESERVE


async def test_several_answers_are_several_jobs_and_one_line(connected: Connect) -> None:
    async with gateway(connected) as stand, running(stand.gateway):
        complete_all(stand)
        content = line(0, "/v1/completions", prompt=["a", "b"], n=2, seed=5)
        await make(stand, content, endpoint="/v1/completions")
        record = await ended(stand)
        assert sorted(published(stand)) == [f"{BATCH}-0-{number}" for number in range(4)]
        assert sorted(job.seed for job in stand.backend.jobs) == [5, 6, 7, 8]
        body = (await results(stand, record))["c0"]["response"]["body"]
        assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
        assert body["usage"]["completion_tokens"] == 4


async def test_a_response_of_a_batch_is_kept_and_another_goes_on_from_it(connected: Connect) -> None:
    url = "/v1/responses"
    async with gateway(connected) as stand, running(stand.gateway):
        complete_all(stand)
        await make(stand, line(0, url, input="one"), endpoint=url)
        record = await ended(stand)
        first = (await results(stand, record))["c0"]["response"]["body"]
        assert (first["status"], first["output"][0]["content"][0]["text"]) == ("completed", "hello")
        assert (await stand.ask("GET", f"{url}/{first['id']}")).json()["output"] == first["output"]
        second = line(0, url, input="two", previous_response_id=first["id"])
        await make(stand, second, endpoint=url, id="batch_2", input_file_id="file-2")
        assert (await ended(stand, "batch_2")).counts == RequestCounts(1, 1, 0)
        asked = stand.backend.jobs[-1].input
        assert [message.text() for message in asked.messages] == ["one", "hello", "two"]  # type: ignore[union-attr]


# Lines that fail ----------------------------------------------------------------------------------


async def test_a_line_that_fails_is_told_with_its_reason_and_the_others_go_on(connected: Connect) -> None:
    async with gateway(connected) as stand, running(stand.gateway):

        async def work(job: Job) -> None:
            if job.id == f"{BATCH}-1-0":
                await fail(stand, job)
            else:
                await stand.backend.complete(job)

        stand.backend.on_job = work
        bad = [
            line(2, stream=True),
            line(3, model="none"),
            line(4, n=1000),
            line(5, temperature=99),
            line(6, messages=[]),
            line(8, grammar="root ::= x"),
        ]
        await make(stand, b"\n".join([line(0), line(1), *bad, line(7)]))
        record = await ended(stand)
        assert (record.status, record.counts) == ("completed", RequestCounts(9, 2, 7))
        assert sorted(await results(stand, record)) == ["c0", "c7"]
        failures = await results(stand, record, "error")
        told = {
            name: (one["response"]["status_code"], one["response"]["body"]["error"]["param"])
            for name, one in failures.items()
        }
        assert told == {
            "c1": (503, None), "c2": (400, "stream"), "c3": (404, "model"), "c4": (400, "n"),
            "c5": (400, "temperature"), "c6": (400, "messages"), "c8": (400, "grammar"),
        }  # fmt: skip
        assert failures["c1"]["response"]["body"]["error"]["message"] == "no memory"
        assert all(one["error"] is None for one in failures.values())


async def test_a_background_response_is_refused(connected: Connect) -> None:
    url = "/v1/responses"
    async with gateway(connected) as stand, running(stand.gateway):
        await make(stand, line(0, url, input="x", background=True), endpoint=url)
        record = await ended(stand)
        failure = (await results(stand, record, "error"))["c0"]["response"]["body"]["error"]
        assert (failure["param"], failure["code"]) == ("background", "unsupported_value")


async def test_a_file_with_mistakes_fails_the_batch_before_any_job(connected: Connect) -> None:
    async with gateway(connected) as stand, running(stand.gateway):
        await make(stand, b"\n".join([line(0), b"{", line(0), line(1, "/v1/embeddings")]))
        record = await ended(stand)
        told = [(error.code, error.line) for error in record.errors]
        assert told == [("invalid_json_line", 2), ("duplicate_custom_id", 3), ("mismatched_url", 4)]
        assert (record.status, record.counts, stand.backend.jobs) == ("failed", RequestCounts(), [])
        shown = (await stand.ask("GET", f"/v1/batches/{BATCH}")).json()
        assert shown["errors"]["data"][0]["line"] == 2 and shown["failed_at"] is not None


async def test_a_batch_whose_input_is_gone_fails(connected: Connect) -> None:
    async with gateway(connected) as stand:
        await make(stand, lines(2))
        record = await files.kept_file(stand.gateway.bus, "file-in")
        assert record is not None
        await files.forget_file(stand.gateway.bus, record)
        async with running(stand.gateway):
            found = await ended(stand)
        assert (found.status, found.errors[0].code) == ("failed", "input_file_gone")


async def test_a_full_queue_is_waited_for(connected: Connect) -> None:
    async with gateway(connected) as stand, running(stand.gateway):
        complete_all(stand)
        stand.gateway.fleet.depths["m"] = QueueDepth(model="m", queued=9, running=0, limit=9)
        await make(stand, lines(2))
        await until(stand, lambda record: record.status == "in_progress" and record.beat > 5)
        assert stand.backend.jobs == []
        del stand.gateway.fleet.depths["m"]
        assert (await ended(stand)).counts == RequestCounts(2, 2, 0)


async def test_what_no_worker_can_do_is_not_waited_for(connected: Connect) -> None:
    async with gateway(connected) as stand, running(stand.gateway):
        stand.gateway.fleet.depths["m"] = QueueDepth(
            model="m", queued=0, running=0, impossible="it needs 80 GB"
        )
        await make(stand, lines(1))
        record = await ended(stand)
        failure = (await results(stand, record, "error"))["c0"]["response"]
        assert (failure["status_code"], failure["body"]["error"]["code"]) == (503, "impossible")


async def test_a_key_with_many_batches_holds_up_no_other(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight that take a day were all that a gateway ran."""
    monkeypatch.setattr(owning, "BATCHES_AT_ONCE_EACH", 2)
    async with gateway(connected) as stand, running(stand.gateway):
        for key in ("ada", "bob"):
            await put_key(stand.gateway.bus, ApiKey(key, key, "0" * 64, 1.0))
        for number in range(4):
            given = {"id": f"ada_{number}", "input_file_id": f"file-{number}", "created_at": 1000 + number}
            await make(stand, lines(1), tenant="ada", **given)
        await soon(lambda: {job.id for job in stand.backend.jobs} == {"ada_0-0-0", "ada_1-0-0"})
        await make(stand, lines(1), tenant="bob", id="bob_0", input_file_id="file-bob")
        await soon(lambda: "bob_0-0-0" in {job.id for job in stand.backend.jobs})
        await stand.backend.complete(stand.backend.jobs[0])
        await soon(lambda: "ada_2-0-0" in {job.id for job in stand.backend.jobs})
        assert "ada_3-0-0" not in {job.id for job in stand.backend.jobs}


async def test_lines_are_their_keys_and_fail_once_it_is_revoked(connected: Connect) -> None:
    async with gateway(connected) as stand, running(stand.gateway):
        complete_all(stand)
        ada = ApiKey("ada", "ada", "0" * 64, 1.0, models=("m",), weight=2.0)
        await put_key(stand.gateway.bus, ada)
        stand.gateway.model_changed("o", msgspec.structs.replace(stand.gateway.models["m"], name="o"))
        await make(stand, b"\n".join([line(0), line(1, model="o")]), tenant="ada")
        record = await ended(stand)
        assert [(job.tenant, job.weight) for job in stand.backend.jobs] == [("ada", 2.0)]
        assert (await results(stand, record, "error"))["c1"]["response"]["status_code"] == 403
        await put_key(stand.gateway.bus, msgspec.structs.replace(ada, revoked_at=2.0))
        await make(stand, lines(1), tenant="ada", id="batch_2", input_file_id="file-2")
        record = await ended(stand, "batch_2")
        failure = (await results(stand, record, "error"))["c0"]["response"]
        assert (failure["status_code"], failure["body"]["error"]["code"]) == (401, "invalid_api_key")


# Stopping -----------------------------------------------------------------------------------------


async def test_cancelling_keeps_what_is_done_and_cancels_what_is_under_way(connected: Connect) -> None:
    async with gateway(connected) as stand, running(stand.gateway):
        await make(stand, lines(JOBS_AT_ONCE + 5))
        await soon(lambda: len(stand.backend.jobs) == JOBS_AT_ONCE)
        first, second, *others = stand.backend.jobs
        await stand.backend.complete(first)
        await until(stand, lambda record: record.counts.completed == 1)
        answer = await stand.ask("POST", f"/v1/batches/{BATCH}/cancel")
        assert (answer.status, answer.json()["status"]) == (200, "cancelling")
        assert answer.json()["cancelling_at"] is not None
        await soon(lambda: second.id in stand.backend.cancelled)
        await stand.backend.complete(second)  # it was too late for this one
        await stop_jobs(stand, *others, *stand.backend.jobs[JOBS_AT_ONCE:])
        record = await ended(stand)
        assert record.status == "cancelled"
        assert sorted(await results(stand, record)) == sorted(
            f"c{job.id.split('-')[1]}" for job in (first, second)
        )
        failures = await results(stand, record, "error")
        assert len(failures) == JOBS_AT_ONCE + 3
        assert {(one["response"], one["error"]["code"]) for one in failures.values()} == {
            (None, "batch_cancelled")
        }
        again = await stand.ask("POST", f"/v1/batches/{BATCH}/cancel")
        assert (again.status, again.json()["error"]["code"]) == (409, "conflict")


async def test_a_batch_that_is_cancelled_before_it_began_runs_nothing(connected: Connect) -> None:
    async with gateway(connected) as stand:
        await make(stand, lines(4))
        assert (await stand.ask("POST", f"/v1/batches/{BATCH}/cancel")).json()["status"] == "cancelling"
        assert (await stand.ask("POST", f"/v1/batches/{BATCH}/cancel")).status == 200
        async with running(stand.gateway):
            record = await ended(stand)
        assert (record.status, record.counts, stand.backend.jobs) == ("cancelled", RequestCounts(4, 0, 4), [])


async def test_a_batch_whose_window_is_over_expires_with_what_is_done(connected: Connect) -> None:
    async with gateway(connected) as stand, running(stand.gateway):
        await make(stand, lines(3), expires_at=int(time.time()) + 3)
        first, second, third = (
            await stand.backend.job(0),
            await stand.backend.job(1),
            await stand.backend.job(2),
        )
        assert first.admission_timeout_s <= 3
        await stand.backend.complete(first)
        await stop_jobs(stand, second)
        await expire(stand, third)
        record = await ended(stand)
        assert (record.status, record.counts) == ("expired", RequestCounts(3, 1, 2))
        failures = await results(stand, record, "error")
        assert {one["error"]["code"] for one in failures.values()} == {"batch_expired"}
        assert len(await results(stand, record)) == 1


# Owners -------------------------------------------------------------------------------------------


async def test_a_batch_of_a_gateway_that_was_killed_goes_on_and_no_job_is_stored_twice(
    connected: Connect,
) -> None:
    """Line 0 is written, 1 has ended, 2 is under way, 3 was never stored, 4 was never reserved."""
    async with gateway(connected) as stand:
        bus = stand.gateway.bus
        written = b'{"id":"batch_req_0","custom_id":"c0","response":{"status_code":200},"error":null}\n'
        outputs = (await files.append(bus, Segment(f"{BATCH}-1-0-output", 0, 0), written),)
        counts = RequestCounts(5, 1, 0)
        await make(stand, lines(5), **of_the_dead(done=b"\x01", reserved=4, outputs=outputs, counts=counts))
        await files.append(bus, outputs[0], b"never named\n")
        complete_all(stand)
        ends = {number: await asked_as(stand, number) for number in (1, 2)}
        await end(stand.backend.bus, completed(ends[1], "before"))
        stand.backend.views[ends[2].id] = view(ends[2].id, "running")
        async with running(stand.gateway):
            await soon(lambda: len(stand.backend.jobs) == 2)
            await end(stand.backend.bus, completed(ends[2], "meanwhile"))
            found = await ended(stand)
        assert published(stand) == {f"{BATCH}-3-0": 1, f"{BATCH}-4-0": 1}
        assert f"{BATCH}-4-0" not in stand.backend.asked_to_be_sure
        assert (found.status, found.counts, found.claim) == ("completed", RequestCounts(5, 5, 0), 2)
        done = await results(stand, found)
        assert sorted(done) == ["c0", "c1", "c2", "c3", "c4"]
        said = [done[f"c{n}"]["response"]["body"]["choices"][0]["message"]["content"] for n in (1, 2, 3, 4)]
        assert said == ["before", "meanwhile", "hello", "hello"]


async def asked_as(stand: Served, number: int) -> Job:
    """The job of a line, as whoever runs the batch makes it."""
    body = msgspec.json.decode(line(number), type=dict[str, msgspec.Raw])["body"]
    work = await ENDPOINTS[CHAT](Maker(stand.gateway, BATCH, number, bytes(body), 60.0))
    return work.jobs[0]


async def test_where_nobody_can_say_where_a_job_is_it_is_not_stored_again(connected: Connect) -> None:
    async with gateway(connected) as stand:
        stand.backend.leads = False
        complete_all(stand)
        await make(stand, lines(1), **of_the_dead(reserved=1, counts=RequestCounts(1)))
        async with running(stand.gateway):
            await until(stand, lambda record: record.claim == 2 and record.beat > 25)
            assert stand.backend.jobs == []
            stand.backend.leads = True
            assert (await ended(stand)).counts == RequestCounts(1, 1, 0)
        assert published(stand) == {f"{BATCH}-0-0": 1}


async def test_a_job_of_that_name_with_another_body_is_not_taken_for_the_lines(connected: Connect) -> None:
    async with gateway(connected) as stand:
        other = msgspec.structs.replace(await asked_as(stand, 0), fingerprint="another")
        await end(stand.backend.bus, completed(other))
        await make(stand, lines(1), **of_the_dead(reserved=1, counts=RequestCounts(1)))
        async with running(stand.gateway):
            record = await ended(stand)
        assert (await results(stand, record, "error"))["c0"]["response"]["status_code"] == 409


async def test_a_gateway_that_stops_gives_its_batches_to_another_at_once(connected: Connect) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(gateway(connected))
        async with running(first.gateway):
            await make(first, lines(3))
            await soon(lambda: len(first.backend.jobs) == 3)
        record = await stored(first)
        assert (record.owner, record.claim, record.status) == ("", 1, "in_progress")
        assert first.backend.cancelled == []  # its jobs go on
        for job in first.backend.jobs:
            first.backend.views[job.id] = view(job.id, "queued")
        second = await stack.enter_async_context(connected("second"))
        successor = Gateway(second, "gw2", 10, 64)
        successor.model_changed("m", first.gateway.models["m"])
        successor.fleet.catalog_read.set()
        await stack.enter_async_context(successor.running())
        await stack.enter_async_context(running(successor))
        await until(first, lambda record: record.claim == 2)
        for job in first.backend.jobs:
            await first.backend.complete(job)
        assert (await ended(first)).counts == RequestCounts(3, 3, 0)
        assert set(published(first).values()) == {1}


async def test_of_two_that_take_a_batch_one_has_it(connected: Connect) -> None:
    async with gateway(connected) as stand:
        record = await make(stand, lines(1))
        bus = stand.gateway.bus
        taken = await asyncio.gather(*(take(bus, record, f"gw{number}") for number in range(5)))
        [claim] = [one for one in taken if one is not None]
        assert (await stored(stand)).owner == claim.record.owner
        assert await take(bus, record, "late") is None  # it is not as it was seen


async def test_who_was_replaced_writes_nothing_more(connected: Connect) -> None:
    async with gateway(connected) as stand:
        bus = stand.gateway.bus
        first = await taken(bus, await make(stand, lines(1)), "a")
        second = await taken(bus, first.record, "b")
        with pytest.raises(Lost):
            await first.update(lambda record: msgspec.structs.replace(record, reserved=99))
        with pytest.raises(Lost):
            await first.beat()
        await first.release()
        assert (await stored(stand)) == second.record
        await second.release()
        assert (await stored(stand)).owner == ""


async def taken(bus: Bus, record: BatchRecord, owner: str) -> Claim:
    claim = await take(bus, record, owner)
    assert claim is not None
    return claim


async def test_a_cancel_that_comes_between_is_kept(connected: Connect) -> None:
    async with gateway(connected) as stand:
        bus = stand.gateway.bus
        claim = await taken(bus, await make(stand, lines(1)), "a")
        await change_batch(bus, BATCH, lambda record: move(record, "cancelling", 9.0))
        after = await claim.update(lambda record: msgspec.structs.replace(record, reserved=5))
        assert (after.status, after.reserved, after.times) == ("cancelling", 5, {"cancelling": 9})
        assert await stored(stand) == after


async def test_a_batch_that_is_no_longer_there_is_lost(connected: Connect) -> None:
    async with gateway(connected) as stand:
        bus = stand.gateway.bus
        claim = await taken(bus, await make(stand, lines(1)), "a")
        await (await bus.jetstream.key_value("stoker_batches")).delete(BATCH)
        with pytest.raises(Lost):
            await claim.beat()
        assert await read_batch(bus, BATCH) is None
        assert await list_batches(bus) == []
        assert await change_batch(bus, BATCH, lambda record: record) is None
        assert await take(bus, claim.record, "b") is None


async def test_whoever_changes_a_record_sees_what_others_wrote(connected: Connect) -> None:
    async with gateway(connected) as stand:
        bus = stand.gateway.bus
        await make(stand, lines(1))

        def count(record: BatchRecord) -> BatchRecord:
            return msgspec.structs.replace(record, reserved=record.reserved + 1)

        await asyncio.gather(*(change_batch(bus, BATCH, count) for _ in range(5)))
        found = await read_batch(bus, BATCH)
        assert found is not None and found[0].reserved == 5
        await write_batch(bus, count(found[0]), found[1])
        assert await change_batch(bus, BATCH, lambda _: None) == count(found[0])
