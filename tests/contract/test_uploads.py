"""Uploads over HTTP on a real NATS server: streamed, raw or in a form, in parts, refused early, given up cleanly."""

import asyncio
import gzip
import hashlib
import time
from typing import Any

import pytest

from stoker.schemas.subjects import FILES_STREAM, UPLOADS_BUCKET
from stoker.services.bus.buckets import open_bucket
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import Conflict
from stoker.services.gateway.edge import exchange
from stoker.services.gateway.edge.access import current_key
from stoker.services.gateway.routes import files as routes
from stoker.services.gateway.routes import uploads as upload_routes
from stoker.services.records import files, uploads
from stoker.services.records.parts import PART_BYTES
from stoker.services.records.uploads import IllegalMove, file_of, find_upload, give_up_old
from tests.contract.conftest import Connect
from tests.contract.test_files import form, gateway, key
from tests.fixtures.gateway_app import Answered, Client, Served, soon

RAW = {"content_type": "application/octet-stream"}
SIZE = 2 * PART_BYTES + 5


class Slow(Client):
    """A client whose body comes in pieces that the test gives it; None ends the connection."""

    def __init__(self, stand: Served, path: str, **headers: str) -> None:
        made = stand.client("POST", path, None, **headers)
        self.__dict__.update(made.__dict__)
        self.pieces: asyncio.Queue[tuple[bytes, bool] | None] = asyncio.Queue()
        self.asked = 0

    async def _receive(self) -> dict[str, Any]:
        self.asked += 1
        if (piece := await self.pieces.get()) is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece[0], "more_body": piece[1]}


async def notes(bus: Bus) -> list[str]:
    """What the bucket of uploads has."""
    return await (await open_bucket(bus, UPLOADS_BUCKET)).keys()


async def stored_bytes(bus: Bus) -> int:
    found: int = (await bus.jetstream.stream_info(FILES_STREAM)).state.bytes
    return found


async def begin(stand: Served, size: int, **fields: Any) -> dict[str, Any]:
    asked = {"bytes": size, "filename": "f.bin", "purpose": "user_data", "mime_type": "text/plain"} | fields
    answer = await stand.ask("POST", "/v1/uploads", asked)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


async def add(stand: Served, upload: str, content: bytes) -> str:
    answer = await stand.ask("POST", f"/v1/uploads/{upload}/parts", content, **RAW)
    assert answer.status == 200, answer.body
    found = answer.json()
    assert (found["object"], found["upload_id"]) == ("upload.part", upload)
    return str(found["id"])


def refused(answer: Answered) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status, error["param"], error["code"]


# In one request -----------------------------------------------------------------------------------


async def test_the_body_itself_may_be_the_file(connected: Connect) -> None:
    async with gateway(connected) as stand:
        path = "/v1/files?filename=a%20b.bin&expires_after[seconds]=3600"
        sent = (await stand.ask("POST", path, b"\x00content", **RAW)).json()
        assert (sent["filename"], sent["purpose"], sent["bytes"]) == ("a b.bin", "user_data", 8)
        assert sent["expires_at"] - sent["created_at"] == 3600
        assert (await stand.ask("GET", f"/v1/files/{sent['id']}/content")).body == b"\x00content"
        packed = await stand.ask(
            "POST", "/v1/files", gzip.compress(b"x" * SIZE), content_encoding="gzip", **RAW
        )
        assert (packed.json()["bytes"], packed.json()["filename"]) == (SIZE, "file")
        assert refused(await stand.ask("POST", "/v1/files?purpose=x", b"y", **RAW))[:2] == (400, "purpose")
        assert refused(await stand.ask("POST", "/v1/files", b"", **RAW))[:2] == (400, "file")
        other = await stand.ask("POST", "/v1/files", b"y", content_type="text/plain")
        assert refused(other) == (400, "Content-Type", "invalid_form")
        assert await notes(stand.gateway.bus) == []


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_form_is_read_in_whatever_pieces_it_comes(connected: Connect, size: int) -> None:
    content = bytes(range(256)) * 8 + b"\r\n--b\r\n-\r\n--"
    given = form(content, name="n")
    async with gateway(connected) as stand:
        client = Slow(stand, "/v1/files", content_type="multipart/form-data; boundary=bb")
        body = given["body"].replace(b"--b\r\nContent", b"--bb\r\nContent").replace(b"--b--", b"--bb--")
        for at in range(0, len(body), size):
            client.pieces.put_nowait((body[at : at + size], at + size < len(body)))
        sent = (await client.run()).json()
        assert (sent["bytes"], sent["filename"]) == (len(content), "n")
        assert (await stand.ask("GET", f"/v1/files/{sent['id']}/content")).body == content


async def test_what_is_said_to_be_too_large_is_refused_before_any_of_it_is_read(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "MAX_FILE_BYTES", SIZE)
    async with gateway(connected) as stand:
        for headers in (RAW, {"content_type": "multipart/form-data; boundary=b"}):
            client = Slow(stand, "/v1/files", content_length=str(SIZE + 10**6), **headers)
            answer = await client.run()
            assert refused(answer) == (413, "file", "file_too_large")
            assert str(SIZE) in answer.json()["error"]["message"] and client.asked == 0
        client = Slow(stand, "/v1/files", **RAW)  # one that does not say it
        client.pieces.put_nowait((b"x" * SIZE, True))
        client.pieces.put_nowait((b"x", True))
        assert refused(await client.run()) == (413, "file", "file_too_large")
        assert await notes(stand.gateway.bus) == []
        assert await stored_bytes(stand.gateway.bus) < PART_BYTES


async def test_a_wrong_purpose_is_refused_before_the_file_has_come(connected: Connect) -> None:
    async with gateway(connected) as stand:
        client = Slow(stand, "/v1/files", content_type="multipart/form-data; boundary=b")
        client.pieces.put_nowait((form(b"x" * 100, purpose="fine-tune")["body"][:250], True))
        assert refused(await client.run()) == (400, "purpose", "invalid_value")


async def test_a_client_that_goes_away_leaves_nothing(connected: Connect) -> None:
    async with gateway(connected) as stand:
        client = Slow(stand, "/v1/files", **RAW)
        client.pieces.put_nowait((b"x" * SIZE, True))
        running = asyncio.create_task(client.run())
        await soon(lambda: client.asked == 2)
        assert len(await notes(stand.gateway.bus)) == 1
        client.pieces.put_nowait(None)
        await running
        assert client.answer.status == 0
        assert await notes(stand.gateway.bus) == [] and not stand.gateway.uploads.senders
        assert await stored_bytes(stand.gateway.bus) < PART_BYTES
        assert (await stand.ask("GET", "/v1/files")).json()["data"] == []


async def test_a_client_that_sends_nothing_is_not_waited_for(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "BODY_STALLED_S", 0.05)
    async with gateway(connected) as stand:
        client = Slow(stand, "/v1/files", **RAW)
        client.pieces.put_nowait((b"x", True))
        assert (await client.run()).status == 408
        assert client.answer.json()["error"]["code"] == "upload_stalled"
        assert await notes(stand.gateway.bus) == []


async def test_a_request_that_takes_too_long_is_given_up(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "SENDING_TTL_S", -1)  # rounded up: at once
    async with gateway(connected) as stand:
        client = Slow(stand, "/v1/files", **RAW)
        client.pieces.put_nowait((b"x" * SIZE, True))
        answer = await client.run()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "sending a file" in answer.json()["error"]["message"]
        assert await notes(stand.gateway.bus) == [] and not stand.gateway.uploads.senders


async def test_what_a_gateway_has_left_in_the_middle_is_given_up(connected: Connect) -> None:
    async with gateway(connected) as stand:
        bus = stand.gateway.bus
        client = Slow(stand, "/v1/files", content_length=str(SIZE), **RAW)
        client.pieces.put_nowait((b"x" * SIZE, True))
        running = asyncio.create_task(client.run())
        await soon(lambda: client.asked == 2)
        await give_up_old(bus, time.time())
        assert len(await notes(bus)) == 1, "it is being sent"
        await give_up_old(bus, time.time() + uploads.SENDING_TTL_S + 1)
        assert await notes(bus) == [] and await stored_bytes(bus) < PART_BYTES
        running.cancel()
        await asyncio.wait([running])


# Content ------------------------------------------------------------------------------------------


async def test_the_content_is_given_by_ranges(connected: Connect) -> None:
    content = bytes(range(256)) * 8192  # four parts
    async with gateway(connected) as stand:
        file = (await stand.ask("POST", "/v1/files", content, **RAW)).json()["id"]
        path = f"/v1/files/{file}/content"
        whole = await stand.ask("GET", path)
        etag = whole.headers["etag"]
        assert (whole.headers["accept-ranges"], etag) == ("bytes", f'"{file}"')
        part = await stand.ask("GET", path, range=f"bytes={PART_BYTES - 2}-{PART_BYTES + 1}")
        assert (part.status, part.body) == (206, content[PART_BYTES - 2 : PART_BYTES + 2])
        assert part.headers["content-range"] == f"bytes {PART_BYTES - 2}-{PART_BYTES + 1}/{len(content)}"
        assert part.headers["content-length"] == "4"
        assert (await stand.ask("GET", path, range="bytes=-5")).body == content[-5:]
        behind = await stand.ask("GET", path, range=f"bytes={len(content)}-")
        assert refused(behind) == (416, "Range", "invalid_range")
        assert behind.headers["content-range"] == f"bytes */{len(content)}"
        same = await stand.ask("GET", path, range="bytes=0-1", if_range=etag)
        other = await stand.ask("GET", path, range="bytes=0-1", if_range='"other"')
        assert (same.status, other.status, len(other.body)) == (206, 200, len(content))
        known = await stand.ask("GET", path, if_none_match=etag)
        assert (known.status, known.body) == (304, b"")


# In parts -----------------------------------------------------------------------------------------


async def test_parts_become_a_file_in_the_order_that_is_asked_for(connected: Connect) -> None:
    async with gateway(connected) as stand:
        bus = stand.gateway.bus
        begun = await begin(stand, 2 * SIZE, expires_after={"anchor": "created_at", "seconds": 3600})
        upload = begun["id"]
        assert begun["status"] == "pending" and begun["file"] is None
        assert begun["expires_at"] - begun["created_at"] == uploads.UPLOAD_TTL_S
        last = await add(stand, upload, b"b" * SIZE)
        form_of = form(b"a" * SIZE)
        form_of["body"] = form_of["body"].replace(b'name="file"', b'name="data"')
        first = (await stand.ask("POST", f"/v1/uploads/{upload}/parts", **form_of)).json()["id"]
        await add(stand, upload, b"c" * SIZE)  # sent once more than it was needed
        path = f"/v1/uploads/{upload}/complete"
        digest = hashlib.md5(b"a" * SIZE + b"b" * SIZE).hexdigest()
        wrong = await stand.ask("POST", path, {"part_ids": [last, first], "md5": digest})
        assert refused(wrong) == (400, "md5", "wrong_digest")
        done = (await stand.ask("POST", path, {"part_ids": [first, last], "md5": digest})).json()
        assert (done["status"], done["file"]["bytes"], done["file"]["id"]) == (
            "completed",
            2 * SIZE,
            file_of(upload),
        )
        assert done["file"]["expires_at"] - done["file"]["created_at"] == 3600
        content = (await stand.ask("GET", f"/v1/files/{done['file']['id']}/content")).body
        assert content == b"a" * SIZE + b"b" * SIZE
        assert await notes(bus) == [upload] and await stored_bytes(bus) < 2.2 * SIZE
        assert (await stand.ask("POST", path, {"part_ids": [first, last]})).json() == done
        for again in (("complete", {"part_ids": [last]}), ("cancel", None), ("parts", b"x")):
            answer = await stand.ask("POST", f"/v1/uploads/{upload}/{again[0]}", again[1], **RAW | {
                "content_type": "application/octet-stream" if again[0] == "parts" else "application/json"
            })  # fmt: skip
            assert refused(answer) == (400, "upload_id", "upload_completed")
        await give_up_old(bus, time.time() + 10 * uploads.SENDING_TTL_S)
        assert len((await stand.ask("GET", f"/v1/files/{done['file']['id']}/content")).body) == 2 * SIZE


async def test_what_does_not_fit_together_is_refused_with_the_field(connected: Connect) -> None:
    async with gateway(connected) as stand:
        upload = (await begin(stand, 10))["id"]
        other = await add(stand, (await begin(stand, 3))["id"], b"123")
        part = await add(stand, upload, b"12345")
        path = f"/v1/uploads/{upload}/complete"
        for ids, field, code in (
            ([part, part], "part_ids.1", "invalid_part"),
            ([other], "part_ids.0", "invalid_part"),
            ([part, "part_x"], "part_ids.1", "invalid_part"),
            ([part], "part_ids", "wrong_size"),
            ([], "part_ids", "wrong_size"),
        ):
            assert refused(await stand.ask("POST", path, {"part_ids": ids})) == (400, field, code)
        empty = await stand.ask("POST", f"/v1/uploads/{upload}/parts", b"", **RAW)
        assert refused(empty)[:2] == (400, "data")
        for asked, field, status in (
            ({"bytes": 0}, "bytes", 400),
            ({"bytes": routes.MAX_FILE_BYTES + 1}, "bytes", 413),
            ({"purpose": "fine-tune"}, "purpose", 400),
            ({"expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after", 400),
        ):
            body = {"bytes": 1, "filename": "f", "purpose": "batch", "mime_type": ""} | asked
            assert refused(await stand.ask("POST", "/v1/uploads", body))[:2] == (status, field)
        second = await add(stand, upload, b"67890")
        assert (await stand.ask("POST", path, {"part_ids": [part, second]})).json()["file"]["bytes"] == 10


async def test_parts_have_limits_that_are_told_at_once(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_routes, "MAX_PARTS", 1)
    async with gateway(connected) as stand:
        upload = (await begin(stand, 10))["id"]
        large = str(upload_routes.MAX_PART_BYTES + 1)
        client = Slow(stand, f"/v1/uploads/{upload}/parts", content_length=large, **RAW)
        assert refused(await client.run())[::2] == (413, "file_too_large") and client.asked == 0
        await add(stand, upload, b"x")
        more = await stand.ask("POST", f"/v1/uploads/{upload}/parts", b"x", **RAW)
        assert refused(more) == (400, "data", "too_many_parts")


async def test_an_upload_that_is_cancelled_or_abandoned_takes_no_room(connected: Connect) -> None:
    async with gateway(connected) as stand:
        bus = stand.gateway.bus
        cancelled, abandoned = [(await begin(stand, SIZE))["id"] for _ in range(2)]
        for upload in (cancelled, abandoned):
            await add(stand, upload, b"x" * SIZE)
        answer = await stand.ask("POST", f"/v1/uploads/{cancelled}/cancel")
        assert answer.json()["status"] == "cancelled"
        assert await stored_bytes(bus) < 1.2 * SIZE
        await give_up_old(bus, time.time() + uploads.UPLOAD_TTL_S - 60)
        assert await stored_bytes(bus) > SIZE
        await give_up_old(bus, time.time() + uploads.UPLOAD_TTL_S + 1)
        assert await stored_bytes(bus) < PART_BYTES
        for upload, status in ((cancelled, "cancelled"), (abandoned, "expired")):
            answer = await stand.ask("POST", f"/v1/uploads/{upload}/parts", b"x", **RAW)
            assert refused(answer) == (400, "upload_id", f"upload_{status}")
        found = await find_upload(bus, abandoned)
        assert found is not None
        with pytest.raises(IllegalMove, match="expired -> completed"):
            await uploads.move(bus, *found, "completed")


async def test_an_upload_that_died_between_its_file_and_its_note_is_completed(connected: Connect) -> None:
    async with gateway(connected) as stand:
        bus = stand.gateway.bus
        upload = (await begin(stand, SIZE))["id"]
        part = await add(stand, upload, b"x" * SIZE)
        found = await find_upload(bus, upload)
        assert found is not None
        revision = await uploads.choose(bus, *found, (part,))
        with pytest.raises(Conflict):
            await uploads.choose(bus, *found, ("other",))
        segment = (await uploads.parts_of(bus, upload))[part].segment
        record = files.record_of(file_of(upload), "f", "user_data", time.time(), "", [segment])
        await files.keep_file(bus, record)
        assert revision > found[1]
        for action, body in (("cancel", None), ("complete", {"part_ids": ["other"]})):
            answer = await stand.ask("POST", f"/v1/uploads/{upload}/{action}", body)
            assert answer.status in (400, 409)
        await give_up_old(bus, time.time() + uploads.UPLOAD_TTL_S + 1)
        now = await find_upload(bus, upload)
        assert now is not None and now[0].status == "completed"
        assert (await stand.ask("GET", f"/v1/files/{record.id}/content")).body == b"x" * SIZE


async def test_an_upload_is_its_keys_alone(connected: Connect) -> None:
    async with gateway(connected) as stand:
        token = current_key.set(key("ada"))
        try:
            upload = (await begin(stand, 1))["id"]
            part = await add(stand, upload, b"x")
            current_key.set(key("bob"))
            for path, body in (("parts", b"y"), ("cancel", None), ("complete", {"part_ids": [part]})):
                kind = "application/octet-stream" if path == "parts" else "application/json"
                answer = await stand.ask("POST", f"/v1/uploads/{upload}/{path}", body, content_type=kind)
                assert refused(answer) == (404, "upload_id", "upload_not_found")
            current_key.set(key("ada"))
            done = (await stand.ask("POST", f"/v1/uploads/{upload}/complete", {"part_ids": [part]})).json()
            current_key.set(key("bob"))
            assert (await stand.ask("GET", f"/v1/files/{done['file']['id']}")).status == 404
        finally:
            current_key.reset(token)


async def test_a_note_that_cannot_be_read_is_in_nobodys_way(connected: Connect) -> None:
    async with gateway(connected) as stand:
        bus = stand.gateway.bus
        bucket = await open_bucket(bus, UPLOADS_BUCKET)
        await bucket.put("strange", b"{}")
        upload = (await begin(stand, 1))["id"]
        part = await add(stand, upload, b"x")
        await give_up_old(bus, time.time() + uploads.UPLOAD_TTL_S + 1)
        assert set(await notes(bus)) == {"strange", upload} and part
