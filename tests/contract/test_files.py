"""Clients' files on a real NATS server: what is there, what is gone, and pages of them over HTTP."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from stoker.schemas.batches import BatchRecord, Segment
from stoker.schemas.keys import ApiKey, Role
from stoker.schemas.subjects import FILES_BUCKET, FILES_STREAM
from stoker.services.bus.connection import Bus
from stoker.services.bus.streams import FILE_PARTS_TTL_S, FILES_TTL_S, declare
from stoker.services.gateway import gateway as gateway_module
from stoker.services.gateway.edge.access import current_key
from stoker.services.gateway.edge.upload_forms import FORM_MARGIN_BYTES
from stoker.services.gateway.gateway import UPLOADS_AT_ONCE
from stoker.services.gateway.routes import files as routes
from stoker.services.records import files
from stoker.services.records.batches import create_batch
from stoker.services.records.files import FileGone
from stoker.services.records.parts import AT_ONCE, PART_BYTES
from tests.contract.conftest import Connect
from tests.fixtures.gateway_app import Answered, Served, served

MANY = PART_BYTES * (AT_ONCE + 1) + 7
"""Bytes that are more parts than are under way at a time."""


def key(name: str, role: Role = "use") -> ApiKey:
    return ApiKey(name, name, "", 0.0, role=role)


async def content_of(bus: Bus, *segments: Segment) -> bytes:
    return b"".join([part async for part in files.read(bus, segments)])


async def test_what_is_kept_comes_back_in_parts_of_bounded_size(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        content = bytes(range(256)) * (MANY // 256)
        segment = await files.append(bus, Segment("t", 0, 0), content)
        assert segment == Segment("t", AT_ONCE + 1, len(content))
        assert await content_of(bus, segment) == content
        parts = [len(part) async for part in files.read(bus, (segment,))]
        assert len(parts) == AT_ONCE + 1 and max(parts) == PART_BYTES


async def test_what_comes_behind_is_behind_and_nothing_named_it_before(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        first = await files.append(bus, Segment("t", 0, 0), b"one\n")
        await files.append(bus, first, b"never named\n")  # its writer died
        second = await files.append(bus, first, b"two\n")
        other = await files.append(bus, Segment("u", 0, 0), b"three\n")
        assert await content_of(bus, first) == b"one\n"
        assert await content_of(bus, second, other) == b"one\ntwo\nthree\n"
        assert await files.append(bus, second, b"") == second


async def test_a_file_is_there_or_certainly_gone(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        segment = await files.append(bus, Segment("t", 0, 0), b"x" * MANY)
        record = files.record_of("file-1", "in.jsonl", "batch", 1000.5, "ada", [segment])
        assert (record.size, record.created_at, record.expires_at) == (MANY, 1000, int(1000.5 + FILES_TTL_S))
        assert await files.kept_file(bus, "file-1") is None
        await files.keep_file(bus, record)
        assert await files.kept_file(bus, "file-1") == record
        assert await files.list_files(bus) == [record]
        await files.forget_file(bus, record)
        assert await files.kept_file(bus, "file-1") is None
        assert await files.list_files(bus) == []
        with pytest.raises(FileGone, match="deleted"):
            await content_of(bus, segment)
        with pytest.raises(FileGone, match="no longer kept"):
            await content_of(bus, Segment("never", 1, 1))


async def test_an_id_that_is_too_long_for_the_wire_names_no_file(connected: Connect) -> None:
    async with gateway(connected) as stand:
        for method, rest in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            answer = await stand.ask(method, f"/v1/files/file-{'a' * 5000}{rest}")
            assert (answer.status, answer.json()["error"]["code"]) == (404, "file_not_found")


async def test_deleting_gives_the_room_back(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        segment = await files.append(bus, Segment("t", 0, 0), b"x" * MANY)
        record = files.record_of("file-1", "f", "batch", 0, "", [segment])
        await files.keep_file(bus, record)
        before = (await bus.jetstream.stream_info(FILES_STREAM)).state.bytes
        await files.forget_file(bus, record)
        after = (await bus.jetstream.stream_info(FILES_STREAM)).state.bytes
        assert before > MANY and after < 10_000


async def test_parts_outlive_the_file_that_names_them(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        parts = (await bus.jetstream.stream_info(FILES_STREAM)).config
        named = (await bus.jetstream.stream_info(f"KV_{FILES_BUCKET}")).config
        assert (parts.max_age, named.max_age) == (FILE_PARTS_TTL_S, FILES_TTL_S)
        assert parts.max_age > named.max_age + 24 * 3600


# Over HTTP ----------------------------------------------------------------------------------------


@asynccontextmanager
async def gateway(connected: Connect) -> AsyncIterator[Served]:
    async with connected("gateway") as bus, connected("backend") as other, served(bus, other) as stand:
        yield stand


def form(content: bytes = b"line\n", name: str = "in.jsonl", **fields: str) -> dict[str, Any]:
    """Body and header of an upload."""
    given = {"purpose": "batch"} | fields
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in given.items()
    ]
    head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    body = b"".join([*parts, head, content, b"\r\n--b--\r\n"])
    return {"body": body, "content_type": "multipart/form-data; boundary=b"}


async def send(stand: Served, *given: bytes, **fields: str) -> Answered:
    return await stand.ask("POST", "/v1/files", **form(*given, **fields))


async def test_a_file_is_sent_shown_read_and_deleted(connected: Connect) -> None:
    async with gateway(connected) as stand:
        sent = (await send(stand, b"\x00\r\n--c\r\nx", name="ünï.jsonl")).json()
        assert sent["id"].startswith("file-") and sent["expires_at"] - sent["created_at"] == FILES_TTL_S
        expected = {
            "bytes": 9, "filename": "ünï.jsonl", "purpose": "batch", "object": "file", "status": "processed"
        }  # fmt: skip
        assert {name: sent[name] for name in expected} == expected
        path = f"/v1/files/{sent['id']}"
        for prefix in ("", "/openai"):
            assert (await stand.ask("GET", prefix + path)).json() == sent
        content = await stand.ask("GET", path + "/content")
        assert (content.status, content.body) == (200, b"\x00\r\n--c\r\nx")
        assert content.headers["content-length"] == "9"
        assert content.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%BCn%C3%AF.jsonl"
        assert "sandbox" in content.headers["content-security-policy"]
        gone = (await stand.ask("DELETE", path)).json()
        assert gone == {"id": sent["id"], "deleted": True, "object": "file"}
        for method, rest in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            answer = await stand.ask(method, path + rest)
            assert (answer.status, answer.json()["error"]["code"]) == (404, "file_not_found")


async def test_a_file_of_many_parts_comes_back_whole(connected: Connect) -> None:
    async with gateway(connected) as stand:
        content = bytes(range(256)) * (MANY // 256)
        sent = (await send(stand, content)).json()
        assert sent["bytes"] == len(content)
        assert (await stand.ask("GET", f"/v1/files/{sent['id']}/content")).body == content


@pytest.mark.parametrize(
    ("given", "fields", "field", "said"),
    [
        (b"x", {"purpose": "fine-tune"}, "purpose", "batch, user_data, assistants"),
        (b"x", {"purpose": "batch_output"}, "purpose", "not kept"),
        (b"", {}, "file", "missing or empty"),
        (b"x", {"expires_after[seconds]": "59"}, "expires_after", "3600"),
        (b"x", {"expires_after[seconds]": "soon"}, "expires_after[seconds]", "int"),
    ],
)
async def test_a_wrong_upload_is_refused_with_the_field(
    connected: Connect, given: bytes, fields: dict[str, str], field: str, said: str
) -> None:
    async with gateway(connected) as stand:
        answer = await send(stand, given, **fields)
        error = answer.json()["error"]
        assert (answer.status, error["param"]) == (400, field), error
        assert said in error["message"]
        assert (await stand.ask("GET", "/v1/files")).json()["data"] == []


async def test_no_form_and_no_purpose_are_refused(connected: Connect) -> None:
    async with gateway(connected) as stand:
        assert (await stand.ask("POST", "/v1/files", {"purpose": "batch"})).status == 400
        body = form()["body"].replace(b'name="purpose"', b'name="other"')
        answer = await stand.ask("POST", "/v1/files", body, content_type="multipart/form-data; boundary=b")
        assert (answer.status, answer.json()["error"]["param"]) == (400, "purpose")


async def test_a_file_that_is_too_large_is_refused_and_the_next_one_taken(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "MAX_FILE_BYTES", 1000)
    async with gateway(connected) as stand:
        answer = await send(stand, b"x" * 1001)
        assert (answer.status, answer.json()["error"]["code"]) == (413, "file_too_large")
        answer = await send(stand, b"x" * (1001 + FORM_MARGIN_BYTES))
        assert (answer.status, answer.json()["error"]["code"]) == (413, "file_too_large")
        assert (await send(stand, b"x" * 1000)).status == 200
        assert not stand.gateway.uploads.senders


async def test_uploads_wait_for_each_other(connected: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "UPLOAD_TURN_S", 0.05)
    async with gateway(connected) as stand, AsyncExitStack() as stack:
        turns = [stand.gateway.uploads.turn("") for _ in range(UPLOADS_AT_ONCE)]
        for turn in turns:
            await stack.enter_async_context(turn)
        answer = await send(stand)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        await stack.aclose()
        assert (await send(stand)).status == 200


async def test_files_are_listed_in_pages_by_purpose_and_age(connected: Connect) -> None:
    async with gateway(connected) as stand:
        ids = [(await send(stand, purpose="batch")).json()["id"] for _ in range(3)]
        other = (await send(stand, purpose="user_data")).json()["id"]
        listed = (await stand.ask("GET", "/v1/files?purpose=batch")).json()
        assert {one["id"] for one in listed["data"]} == set(ids)
        assert (listed["object"], listed["has_more"]) == ("list", False)
        forward = [one["id"] for one in (await stand.ask("GET", "/v1/files?order=asc")).json()["data"]]
        backward = [one["id"] for one in (await stand.ask("GET", "/v1/files")).json()["data"]]
        assert forward == backward[::-1] and set(forward) == {*ids, other}
        page = (await stand.ask("GET", f"/v1/files?limit=2&after={backward[0]}")).json()
        assert [one["id"] for one in page["data"]] == backward[1:3]
        assert (page["first_id"], page["last_id"], page["has_more"]) == (backward[1], backward[2], True)
        assert (await stand.ask("GET", "/v1/files?order=up")).status == 400
        assert (await stand.ask("GET", "/v1/files?after=none")).status == 400


async def test_a_file_that_expires_is_gone(connected: Connect) -> None:
    async with gateway(connected) as stand:
        fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
        sent = (await send(stand, b"x", **fields)).json()
        assert sent["expires_at"] - sent["created_at"] == 3600
        record = files.record_of("file-old", "f", "batch", 0.0, "", [])
        await files.keep_file(stand.gateway.bus, record)
        assert (await stand.ask("GET", "/v1/files/file-old")).status == 404
        assert [one["id"] for one in (await stand.ask("GET", "/v1/files")).json()["data"]] == [sent["id"]]


async def test_a_key_sees_its_own_files_only(connected: Connect) -> None:
    async with gateway(connected) as stand:
        token = current_key.set(key("ada"))
        try:
            sent = (await send(stand)).json()["id"]
            current_key.set(key("bob"))
            assert (await stand.ask("GET", f"/v1/files/{sent}")).status == 404
            assert (await stand.ask("GET", f"/v1/files/{sent}/content")).status == 404
            assert (await stand.ask("DELETE", f"/v1/files/{sent}")).status == 404
            assert (await stand.ask("GET", "/v1/files")).json()["data"] == []
            current_key.set(key("eve", "operate"))
            assert [one["id"] for one in (await stand.ask("GET", "/v1/files")).json()["data"]] == [sent]
        finally:
            current_key.reset(token)


async def test_a_file_that_a_batch_reads_is_kept(connected: Connect) -> None:
    async with gateway(connected) as stand:
        sent = (await send(stand)).json()["id"]
        record = BatchRecord(
            id="batch_1", endpoint="/v1/completions", input_file_id=sent, status="in_progress",
            created_at=0, expires_at=1,
        )  # fmt: skip
        await create_batch(stand.gateway.bus, record)
        answer = await stand.ask("DELETE", f"/v1/files/{sent}")
        assert (answer.status, answer.json()["error"]["code"]) == (409, "file_in_use")
        assert "batch_1" in answer.json()["error"]["message"]
