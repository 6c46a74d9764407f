"""Files on a running system: through the official client, into functions and out of them, whatever their size."""

import asyncio
import base64
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from stoker.schemas.subjects import BLOBS_STREAM
from stoker.services.bus.connection import open_bus
from stoker.services.process.embedded import URL_FILE
from stoker.services.process.settings import BusSettings
from stoker.services.worker.jobs.scratch import LOCK, PREFIX
from tests.conftest import ROOT, System, wait_for
from tests.fixtures.projects.files.making import CHUNK, digest
from tests.system.test_batches import Tenant, tenant

PROJECT = ROOT / "tests/fixtures/projects/files"
MB = 2**20
CONTENT = os.urandom(3 * MB + 17)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, scratch: Path) -> Iterator[System]:
    config = "workers: [{count: 1, engines: [function]}]\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(scratch))
        found = System(tmp_path_factory.mktemp("files"), config, "--functions", str(PROJECT), "--require-keys")
    try:
        found.wait_for_gateway()
        yield found
    finally:
        found.stop()


class Caller:
    """A tenant who calls functions."""

    def __init__(self, system: System, name: str) -> None:
        self.tenant: Tenant = tenant(system, name)
        header = {"Authorization": f"Bearer {self.tenant.api.api_key}"}
        self.http = httpx.Client(base_url=system.url, headers=header, timeout=60)

    def send(self, content: bytes) -> str:
        answer = self.http.post(
            "/v1/files?filename=sent.bin", content=content, headers={"content-type": "application/octet-stream"}
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def call(self, function: str, **payload: Any) -> httpx.Response:
        return self.http.post(f"/v1/functions/{function}", json=payload)

    def result(self, function: str, **payload: Any) -> Any:
        answer = self.call(function, **payload)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def ada(system: System) -> Caller:
    found = Caller(system, "ada")
    wait_for(lambda: found.call("make", megabytes=0).status_code == 200, 30, "the function")
    return found


def test_the_official_client_sends_a_file_in_parts(ada: Caller) -> None:
    api = ada.tenant.api
    done = api.uploads.upload_file_chunked(
        file=CONTENT, filename="f.bin", bytes=len(CONTENT), mime_type="application/octet-stream",
        purpose="user_data", part_size=MB, md5=hashlib.md5(CONTENT).hexdigest(),
    )  # fmt: skip
    assert done.status == "completed" and done.file is not None
    assert api.files.content(done.file.id).read() == CONTENT
    assert ada.result("read", asset=done.file.id, reference=done.file.id)["sha256"] == [digest(CONTENT)] * 3
    begun = api.uploads.create(bytes=8, filename="g", mime_type="text/plain", purpose="user_data")
    part = api.uploads.parts.create(begun.id, data=io.BytesIO(b"12345678"))
    assert api.uploads.cancel(begun.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="is cancelled"):
        api.uploads.complete(begun.id, part_ids=[part.id])


def test_a_function_takes_a_file_by_each_of_its_names(ada: Caller) -> None:
    file = ada.send(CONTENT)
    inline = "data:;base64," + base64.b64encode(CONTENT).decode()
    made = ada.result("make", megabytes=2)
    for asset, reference in (
        (file, {"file_id": file}),
        ({"file_id": file, "name": "a.txt"}, {"url": file}),
        ({"ref": file}, inline),
        (inline, {"url": inline}),
    ):
        assert ada.result("read", asset=asset, reference=reference)["sha256"] == [digest(CONTENT)] * 3
    large, small = made["path"]["url"], made["content"]["ref"]
    found = ada.result("read", asset={"ref": large}, reference=small, more=[file, {"file_id": file}, small])
    theirs = [digest(CHUNK)] * 2 + [made["sha256"]] + [digest(CONTENT)] * 2 + [digest(CHUNK)]
    assert found["sha256"] == theirs


def test_a_file_of_another_tenant_is_refused_at_the_door(system: System, ada: Caller) -> None:
    bob = Caller(system, "bob")
    file = ada.send(b"secret")
    for named in (file, {"file_id": file}, {"ref": file}):
        answer = bob.call("read", asset="data:;base64,QQ==", reference="data:;base64,QQ==", more=[named])
        assert (answer.status_code, answer.json()["field"]) == (404, "more.0")
    answer = bob.http.post("/v1/jobs", json={"model": "read", "input": {"asset": file, "reference": file}})
    assert (answer.status_code, answer.json()["field"]) == (404, "asset")
    missing = ada.call("read", asset="file-" + "0" * 24, reference=file)
    assert (missing.status_code, missing.json()["field"]) == (404, "asset")
    for odd in ("file-nope", "https://example.com/x.png", "/etc/passwd"):
        refused = ada.call("read", asset=odd, reference=file)
        assert (refused.status_code, refused.json()["field"]) == (400, "asset"), "before anything is queued"
    assert bob.http.get(ada.result("make", megabytes=1)["path"]["url"]).status_code == 404


def test_a_large_result_arrives_whole_and_by_ranges(ada: Caller, scratch: Path) -> None:
    made = ada.result("make", megabytes=80)
    url = made["path"]["url"]
    sha256 = hashlib.sha256()
    with ada.http.stream("GET", url) as answer:
        assert (answer.headers["content-length"], answer.headers["accept-ranges"]) == (str(80 * MB), "bytes")
        for chunk in answer.iter_bytes():
            sha256.update(chunk)
        etag = answer.headers["etag"]
    assert sha256.hexdigest() == made["sha256"]
    part = ada.http.get(url, headers={"range": f"bytes={70 * MB - 2}-{70 * MB + 1}", "if-range": etag})
    assert (part.status_code, part.content) == (206, bytes([254, 255, 0, 1]))
    assert ada.http.get(url, headers={"range": f"bytes={80 * MB}-"}).status_code == 416
    small = ada.http.get(made["content"]["ref"], headers={"range": "bytes=-3"})
    assert (small.status_code, small.content) == (206, bytes([253, 254, 255]))
    wait_for(lambda: all(one.name == LOCK for one in scratch.glob(f"{PREFIX}*/*")), 10, "the folders to go")


def test_a_large_value_arrives_too(ada: Caller) -> None:
    assert len(ada.result("say", megabytes=40)["text"]) == 40 * MB


def test_a_file_that_is_too_large_is_refused_at_once(ada: Caller, system: System) -> None:
    """The answer comes though nothing of the file was sent."""
    host, port = system.url.removeprefix("http://").split(":")
    key = ada.tenant.api.api_key

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = ["POST /v1/files HTTP/1.1", f"host: {host}:{port}", f"authorization: Bearer {key}",
                 "content-type: application/octet-stream", f"content-length: {3 * 2**30}", "", ""]  # fmt: skip
        writer.write("\r\n".join(lines).encode())
        try:
            return await reader.readuntil(b"}")
        finally:
            writer.close()

    answer = asyncio.run(asyncio.wait_for(ask(), 20))
    assert answer.startswith(b"HTTP/1.1 413") and b"2147483648" in answer


def test_a_result_that_cannot_be_stored_fails_its_job_with_the_reason(system: System, ada: Caller) -> None:
    """The last one here: the stream of blobs is gone after it."""

    async def remove() -> None:
        url = (system.data / URL_FILE).read_text().strip()
        async with open_bus(BusSettings(nats=url), "test") as bus:
            await bus.jetstream.delete_stream(BLOBS_STREAM)

    asyncio.run(remove())
    answer = ada.call("make", megabytes=20)
    assert answer.status_code == 500 and "the result was not stored" in answer.text
    accepted = ada.http.post("/v1/jobs", json={"model": "make", "input": {"megabytes": 20}}).json()

    def ended() -> Any:
        found = ada.http.get(accepted["urls"]["self"]).json()
        return found if found["status"] in ("failed", "completed") else None

    found = wait_for(ended, 30, "the job's end")
    assert found["status"] == "failed" and "the result was not stored" in str(found["error"])
