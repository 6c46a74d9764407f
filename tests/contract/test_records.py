"""What is stored, on a real server: yes, no, and "could not find out" are three answers."""

import os

import pytest

from stoker.schemas import wire
from stoker.schemas.fleet import PlatformEvent
from stoker.schemas.job_events import (
    Cancelled,
    Completed,
    ImageOutput,
    Picture,
    SavedFile,
    TextOutput,
    ValueOutput,
)
from stoker.schemas.keys import ApiKey
from stoker.schemas.openai import Usage
from stoker.schemas.subjects import BLOBS_STREAM, KEYS_BUCKET, RESULTS_STREAM
from stoker.services.bus.buckets import open_bucket
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, Conflict, ConnectionEnded, Missing
from stoker.services.bus.streams import declare, stream_configs
from stoker.services.records import keys
from stoker.services.records.blobs import (
    MAX_INLINE_INPUT_BYTES,
    STORE_OF_BEFORE,
    BlobGone,
    attach,
    get_pictures,
    put_large,
    read_blob,
    store_value,
    with_value,
    write_blob,
)
from stoker.services.records.installation import install
from stoker.services.records.parts import AT_ONCE, PART_BYTES
from stoker.services.records.platform_events import newest_number, read_events
from stoker.services.records.results import (
    NotStored,
    Stored,
    Unknown,
    Unreadable,
    find_result,
    last_endings,
)
from stoker.services.records.seal_key import knowing_seals
from tests.contract.conftest import Connect
from tests.fixtures.ends import end


def cancelled(job: str) -> Cancelled:
    return Cancelled(job=job, model="m", created_at=1.0, finished_at=2.0)


async def test_whether_a_job_has_ended_has_four_answers(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        await end(bus, cancelled("there"))
        await bus.publish_stored(bus.subjects.result("torn"), b"{")
        assert isinstance(await find_result(bus, "there"), Stored)
        assert await find_result(bus, "not there") == NotStored()
        assert isinstance(await find_result(bus, "torn"), Unreadable)
        await bus.jetstream.delete_stream(RESULTS_STREAM)
        assert isinstance(await find_result(bus, "there"), Unknown), "no stream: nobody can say"


async def test_a_listing_leaves_out_what_says_nothing_of_itself(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        await end(bus, cancelled("a"))
        await bus.publish_stored(bus.subjects.result("bare"), b"{}")
        assert [view.id for view in await last_endings(bus, 10)] == ["a"]
        assert [view.status for view in await last_endings(bus, 10)] == ["cancelled"]


async def test_a_blob_is_gone_only_when_that_is_certain(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        for content in (b"", b"content", os.urandom(PART_BYTES), os.urandom(AT_ONCE * PART_BYTES + 1)):
            name = await write_blob(bus, "x", content, is_sealed=True)
            assert await read_blob(bus, name) == content
        await bus.jetstream.purge_stream(BLOBS_STREAM, subject=bus.subjects.blob("*", 3))
        with pytest.raises(BlobGone, match="is no longer kept"):
            await read_blob(bus, name)
        for other in ("blob:", "blob:!!", "blob:AAAA"):
            with pytest.raises(BlobGone, match="is not the name of a blob"):
                await read_blob(bus, other)


async def test_nobody_reads_a_blob_without_its_name_nor_changes_it(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        name = await write_blob(bus, "x", b"a prompt of somebody", is_sealed=True)
        [stored] = [await bus.jetstream.get_msg(BLOBS_STREAM, 1)]
        assert b"prompt" not in stored.data
        token = stored.subject.split(".")[2]
        with pytest.raises(BusError):
            await bus.publish_stored(bus.subjects.blob(token, 0), b"another")
        await bus.jetstream.purge_stream(BLOBS_STREAM)
        await bus.publish_stored(bus.subjects.blob(token, 0), b"another content of some length")
        with pytest.raises(BlobGone, match="not what was stored"):
            await read_blob(bus, name)


async def test_a_blob_of_the_version_before_is_read(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        await bus.jetstream.create_object_store(STORE_OF_BEFORE)
        assert await write_blob(bus, "j/1", b"content", is_sealed=False) == "j/1"
        assert await read_blob(bus, "j/1") == b"content"
        with pytest.raises(BlobGone, match="y is no longer kept"):
            await read_blob(bus, "y")


async def test_a_blob_that_could_not_be_read_is_not_gone(connected: Connect, server: str) -> None:
    with pytest.raises(ConnectionEnded):
        async with connected() as bus:
            await declare(bus)
            name = await write_blob(bus, "x", os.urandom(300_000), is_sealed=True)
            await bus.client.close()
            with pytest.raises(BusError) as raised:
                await read_blob(bus, name)
            assert not isinstance(raised.value, Missing)


async def test_large_pictures_go_to_the_store_and_come_back_in_order(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        contents = [b"small", os.urandom(bus.max_payload), b"also small"]
        names, inline = await put_large(bus, "j", contents, is_sealed=True)
        assert [bool(name) for name in names] == [False, True, False]
        assert inline == [b"small", b"also small"]
        pictures = tuple(
            Picture(seed=1, width=1, height=1, image_bytes=len(content), blob=name)
            for content, name in zip(contents, names, strict=True)
        )
        assert await get_pictures(bus, ImageOutput(pictures), b"".join(inline)) == contents
        files = tuple(
            SavedFile("f", "x/y", len(one), blob=name) for one, name in zip(contents, names, strict=True)
        )
        assert await get_pictures(bus, ValueOutput(files=files), b"".join(inline)) == contents


async def test_a_large_value_goes_to_the_store_and_a_small_one_does_not(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        small, large = ValueOutput({"a": 1}), ValueOutput("x" * bus.max_payload)
        assert await store_value(bus, "j", small, is_sealed=True) is small
        stored = await store_value(bus, "j", large, is_sealed=True)
        assert stored.value is None and stored.blob
        event = Completed(job="j", model="m", created_at=1.0, finished_at=2.0, output=stored)
        found = await with_value(bus, event)
        assert isinstance(found, Completed) and isinstance(found.output, ValueOutput)
        assert found.output.value == large.value
        text = TextOutput(text="", finish_reason="stop", usage=Usage(0, 0, 0))
        plain = Completed(job="j", model="m", created_at=1.0, finished_at=2.0, output=text)
        assert await with_value(bus, plain) is plain


async def test_an_input_file_travels_with_its_job_while_it_is_small(connected: Connect) -> None:
    async with connected() as bus:
        await install(bus)
        async with knowing_seals(bus):
            await check_attaching(bus)


async def check_attaching(bus: Bus) -> None:
    small, large = b"s" * MAX_INLINE_INPUT_BYTES, b"l" * (MAX_INLINE_INPUT_BYTES + 1)
    assert (await attach(bus, "j/a", small)).content == small
    attached = await attach(bus, "j/b", large)
    assert attached.content == b""
    assert await read_blob(bus, attached.blob) == large


async def test_a_bucket_tells_absence_conflict_and_failure_apart(connected: Connect) -> None:
    with pytest.raises(ConnectionEnded):
        async with connected() as bus:
            with pytest.raises(Missing):
                await open_bucket(bus, KEYS_BUCKET)
            await declare(bus)
            bucket = await open_bucket(bus, KEYS_BUCKET)
            assert await bucket.keys() == []
            assert await bucket.get("a") is None
            first = await bucket.create("a", b"1")
            with pytest.raises(Conflict):
                await bucket.create("a", b"2")
            second = await bucket.update("a", b"2", first)
            with pytest.raises(Conflict):
                await bucket.update("a", b"3", first)
            with pytest.raises(Conflict):
                await bucket.delete("a", first)
            found = await bucket.get("a")
            assert found is not None
            assert (found.value, found.revision) == (b"2", second)
            await bucket.delete("a", second)
            assert await bucket.get("a") is None
            assert await bucket.create("a", b"again") > second
            await bus.client.close()
            with pytest.raises(BusError) as raised:
                await bucket.get("a")
            assert not isinstance(raised.value, Missing | Conflict)


async def test_a_key_is_made_listed_and_revoked(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        assert await keys.list_keys(bus) == []
        key_id, secret = keys.new_secret()
        key = ApiKey(id=key_id, name="ada", sha256=keys.digest(secret), created_at=1.0)
        await keys.put_key(bus, key)
        assert await keys.list_keys(bus) == [key]
        assert await keys.revoke_key(bus, "nobody's", 2.0) is None
        revoked = await keys.revoke_key(bus, key_id, 2.0)
        assert revoked is not None and revoked.revoked_at == 2.0
        assert secret not in repr(await keys.list_keys(bus))


async def test_platform_events_are_read_from_a_number_on(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        assert await newest_number(bus) == 0
        assert [one async for one in read_events(bus, 0, follow=False)] == []
        for number in range(3):
            event = PlatformEvent(kind="joined", subject=f"w{number}", at=float(number), reason="r")
            await bus.publish_stored(bus.subjects.event("joined", f"w{number}"), wire.encode(event))
        await bus.publish_stored(bus.subjects.event("joined", "torn"), b"{")
        read = [one async for one in read_events(bus, 1, follow=False)]
        assert [one[1].subject for one in read if one is not None] == ["w1", "w2"]


async def test_declaring_again_upgrades_a_stream_and_a_bucket(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        for config in stream_configs(bus.subjects):
            await bus.jetstream.update_stream(config.evolve(max_msgs=5))
        leases = (await bus.jetstream.stream_info("KV_stoker_leases")).config
        await bus.jetstream.update_stream(leases.evolve(max_age=100.0))
        await declare(bus)
        for config in stream_configs(bus.subjects):
            assert (await bus.jetstream.stream_info(config.name)).config.max_msgs == (config.max_msgs or -1)
        assert (await bus.jetstream.stream_info("KV_stoker_leases")).config.max_age != 100.0


async def test_a_publication_under_way_is_answered_when_the_connection_closes(connected: Connect) -> None:
    answers: list[object] = []
    async with connected() as bus:
        await declare(bus)
        async with bus.listening(("nobody.stores.this", lambda _: None)):
            bus.post_stored("nobody.stores.this", b"x", answers.append)
    assert len(answers) == 1
    assert isinstance(answers[0], BusError)
