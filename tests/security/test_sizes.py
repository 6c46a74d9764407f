"""No message is larger than the server takes: it would end the connection of whoever sends it, for good."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
import yaml

from stoker.schemas import wire
from stoker.schemas.catalog import Spec
from stoker.schemas.job_events import Completed, EmbeddingOutput, Failed, TextOutput
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.subjects import MAX_NAME_BYTES
from stoker.schemas.workers import Assignment
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, ConnectionEnded, TooLarge
from stoker.services.bus.sizes import (
    MAX_EVICTIONS,
    MAX_SPEC_BYTES,
    MAX_SUBJECT_CHARS,
    WRAPPING_BYTES,
    max_job_bytes,
    message_bytes,
)
from stoker.services.bus.streams import declare
from stoker.services.records import outputs
from stoker.services.records.outputs import is_apart, whole
from stoker.services.records.parts import PART_BYTES
from stoker.services.records.results import Result, Stored, Unreadable, find_result
from stoker.services.worker.engines.synthetic import words
from tests.conftest import System
from tests.contract.conftest import Connect
from tests.contract.scheduler.test_service import ScriptedWorker, beating, leading
from tests.contract.worker.agents import spec_of, working
from tests.fixtures.gateway_app import served
from tests.waiting import eventually

QUICK = spec_of()
HEADERS = {"Nats-Msg-Id": "x", "traceparent": "é" * 20}


def sized(size: int, name: str = "large") -> Job:
    """A job of so many bytes."""
    empty = Job(id=name, model="m", input=CompletionInput(""), gateway="gw", created_at=1e9)
    return Job(
        id=name,
        model="m",
        input=CompletionInput("x" * (size - len(wire.encode(empty)))),
        gateway="gw",
        created_at=1e9,
    )


async def is_alive(bus: Bus) -> bool:
    await bus.client.flush(timeout=2)
    return bus.is_connected and bus.client.stats["reconnects"] == 0


@pytest.mark.parametrize("over", [-1, 0, 1, 50])
async def test_the_bus_refuses_what_the_server_would_punish_headers_included(
    connected: Connect, over: int
) -> None:
    async with connected() as bus:
        await declare(bus)
        payload = b"x" * (bus.max_payload - message_bytes(b"", HEADERS) + over)
        dropped = bus.dropped_messages
        bus.post("a.b", payload, headers=HEADERS)
        assert bus.dropped_messages - dropped == (over > 0)
        stored = bus.publish_stored(bus.subjects.event("lost", "x"), payload, headers=HEADERS)
        if over > 0:
            with pytest.raises(TooLarge, match="over the server's limit"):
                await stored
        else:
            await stored
        assert await is_alive(bus)


async def test_a_question_that_is_too_large_is_not_sent(connected: Connect) -> None:
    async with connected() as bus:
        with pytest.raises(TooLarge):
            await bus.ask("a.b", "x" * bus.max_payload, object, 1.0)
        assert await is_alive(bus)


@pytest.mark.parametrize("chars", [MAX_SUBJECT_CHARS, MAX_SUBJECT_CHARS + 1, 4090, 4100, 100_000])
async def test_a_subject_that_is_too_long_is_not_sent(connected: Connect, chars: int) -> None:
    """A worker's connection ended when it stored the end of a job with such a name."""
    async with connected() as bus:
        subject = "a." + "b" * (chars - 2)
        bus.post(subject, b"")
        assert bus.dropped_messages == (chars > MAX_SUBJECT_CHARS)
        bus.listen_now(subject, print)
        with pytest.raises(BusError):
            await bus.publish_stored(subject, b"")
        with pytest.raises(BusError):
            await bus.ask(subject, None, object, 0.5)
        assert await is_alive(bus)


@pytest.mark.parametrize("name", ["", "a\x00b", "x" * 300, "\ud800"])
def test_a_job_with_a_name_that_cannot_travel_is_unreadable_for_everybody(name: str) -> None:
    for field in ("id", "model", "gateway"):
        fields = {"id": "j", "model": "m", "gateway": "g"} | {field: name}
        content = fields | {"input": {"kind": "completion", "prompt": "x"}, "created_at": 1.0}
        with pytest.raises(wire.UnreadableMessage):
            wire.decode(Job, json.dumps(content).encode())


def test_whatever_an_assignment_adds_to_a_job_there_is_room_for_it() -> None:
    spec = Spec("s", "e", "", options={"o": ""})
    spec = Spec("s", "e", "", options={"o": "x" * (MAX_SPEC_BYTES - len(wire.encode(spec)))})
    evict = ("\x01" * MAX_NAME_BYTES,) * MAX_EVICTIONS  # six bytes each in JSON
    job = sized(10_000)
    given = Assignment(job, 2**60, 2**60, spec, "parked", 1 / 3, evict, 1e9 / 3, 2**60)
    added = len(wire.encode(given)) - len(wire.encode(job))
    headers = {"traceparent": "0" * 55, "tracestate": "x" * 512}
    assert added + message_bytes(b"", headers) + MAX_NAME_BYTES <= WRAPPING_BYTES


@pytest.mark.parametrize("over", [-1, 0])
async def test_the_largest_job_is_run(connected: Connect, over: int) -> None:
    async with connected() as bus, connected() as other, leading(bus), beating(ScriptedWorker(other)) as worker:
        job = sized(max_job_bytes(bus.max_payload) + over)
        await other.publish_stored(other.subjects.job("m"), wire.encode(job))
        assert await eventually(lambda: [given.job.id for given in worker.assigned] == ["large"])


@pytest.mark.parametrize("over", [1, 60, WRAPPING_BYTES])
async def test_a_larger_one_in_the_stream_ends_and_the_next_one_runs(connected: Connect, over: int) -> None:
    """The scheduler died of it, and each that came after it."""
    async with connected() as bus, connected() as other, leading(bus), beating(ScriptedWorker(other)) as worker:
        job = sized(max_job_bytes(bus.max_payload) + over)
        await other.publish_stored(other.subjects.job("m"), wire.encode(job))
        await other.publish_stored(other.subjects.job("m"), wire.encode(sized(1000, "next")))
        assert await eventually(lambda: [given.job.id for given in worker.assigned] == ["next"])

        async def has_failed() -> bool:
            found = await find_result(other, "large")
            return isinstance(found, Stored) and isinstance(found.result.event, Failed)

        assert await eventually(has_failed)
        assert await is_alive(bus)


@pytest.mark.parametrize("field", ["id", "gateway", "model"])
@pytest.mark.parametrize("name", ["", "a\x00b", "x" * 300])
async def test_a_job_whose_names_cannot_travel_holds_nobody_up(
    connected: Connect, field: str, name: str
) -> None:
    async with connected() as bus, connected() as other, leading(bus), beating(ScriptedWorker(other)) as worker:
        bad = {"id": "bad", "gateway": "gw", "model": "m"} | {field: name}
        bad |= {"input": {"kind": "completion", "prompt": "x"}, "created_at": 1e9}
        await other.publish_stored(other.subjects.job("m"), wire.encode(bad))
        await other.publish_stored(other.subjects.job("m"), wire.encode(sized(1000, "next")))
        assert await eventually(lambda: [given.job.id for given in worker.assigned] == ["next"])


@pytest.mark.parametrize("over", [1, 100, WRAPPING_BYTES - 100, WRAPPING_BYTES, WRAPPING_BYTES + 300])
async def test_the_door_says_413_with_the_limit_and_serves_the_next(connected: Connect, over: int) -> None:
    async with connected("gateway") as bus, connected("backend") as other, served(bus, other) as stand:
        size = max_job_bytes(bus.max_payload) + over
        for path, body in (
            ("/v1/jobs", {"model": "m", "input": {"prompt": "x" * size}}),
            ("/v1/completions", {"model": "m", "prompt": "x" * size}),
            ("/v1/completions", {"model": "m", "prompt": "x" * size, "stream": True}),
        ):
            answer = await stand.ask("POST", path, body)
            assert answer.status == 413, answer.body[:300]
            assert str(max_job_bytes(bus.max_payload)).encode() in answer.body
            assert "retry-after" not in answer.headers
        assert (await stand.ask("POST", "/v1/jobs", {"model": "m", "input": {"prompt": "x"}})).status == 202
        assert await is_alive(bus)


async def test_a_connection_that_the_client_has_given_up_ends_the_service(connected: Connect) -> None:
    """It stood for ever, with /health/live 200: nats-py does not come back from such an end."""
    with pytest.raises(ConnectionEnded, match="closed for good"):
        async with connected() as bus:
            bus.client._put(b"PUB a.b " + str(bus.max_payload + 1).encode() + b"\r\n", is_urgent=True)
            async with asyncio.timeout(10):
                await asyncio.Event().wait()


async def test_an_answer_that_fits_no_message_is_stored_as_a_blob(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected() as bus:
        await declare(bus)
        async with working(bus, models={"m": QUICK}) as worker:
            monkeypatch.setattr(bus.client, "_max_payload", PART_BYTES + 2000)
            worker.assign("large", QUICK, job_input=CompletionInput("x", max_tokens=80_000))
            end = await worker.ended("large")
            assert isinstance(end, Completed) and isinstance(end.output, TextOutput) and is_apart(end)
            assert (end.output.text, end.output.usage.completion_tokens) == ("", 80_000)
            assert worker.finished["large"].outcome == "completed"
            found = await whole(bus, Stored(Result(end, b"")))
            assert isinstance(found, Stored) and isinstance(found.result.event, Completed)
            assert found.result.event.output == TextOutput("".join(words(80_000)), "stop", end.output.usage)
            worker.check_nothing_is_held()


async def test_a_blob_of_an_answer_that_is_no_longer_kept_is_an_end_that_cannot_be_read(
    connected: Connect,
) -> None:
    async with connected() as bus:
        await declare(bus)
        output = EmbeddingOutput((), 1, blob="blob:gone")
        end = Completed(job="j", model="m", created_at=1.0, finished_at=2.0, output=output)
        found = await whole(bus, Stored(Result(end, b"")))
        assert isinstance(found, Unreadable) and "result of j cannot be read" in found.reason


async def test_an_answer_that_is_too_large_is_a_failure_and_frees_its_slot(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker would try to store it for ever."""
    async with connected() as bus:
        await declare(bus)
        async with working(bus, models={"m": QUICK}) as worker:
            monkeypatch.setattr(bus.client, "_max_payload", 6000)
            monkeypatch.setattr(outputs, "MAX_OUTPUT_BYTES", 6000)
            worker.assign("large", QUICK, job_input=CompletionInput("x", max_tokens=3000))
            end = await worker.ended("large")
            assert isinstance(end, Failed) and (end.kind, end.code) == ("validation", "answer_too_large")
            assert "6000 are stored at most" in end.message
            assert worker.finished["large"].outcome == "failed"
            worker.assign("next", QUICK, job_input=CompletionInput("x", max_tokens=3))
            assert isinstance(await worker.ended("next"), Completed)
            worker.check_nothing_is_held()


async def test_an_end_that_can_be_stored_in_no_form_is_given_up_and_frees_its_slot(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker tried again without a pause, and did nothing else any more."""
    async with connected() as bus:
        await declare(bus)
        async with working(bus, models={"m": QUICK}) as worker:
            monkeypatch.setattr(bus.client, "_max_payload", 6000)
            worker.assign("large", QUICK, job_input=CompletionInput("x", max_tokens=3), webhook="x" * 7000)
            finished = await worker.outcome("large")
            assert (finished.outcome, finished.kind) == ("lost", "poisoned")
            assert "cannot be stored" in finished.reason
            worker.assign("next", QUICK, job_input=CompletionInput("x", max_tokens=3))
            assert isinstance(await worker.ended("next"), Completed)
            worker.check_nothing_is_held()


@pytest.mark.slow
async def test_an_answer_that_fits_no_message_is_whole_wherever_it_is_read(tmp_path: Path) -> None:
    """It was streamed to its end, and then said to be too large to be stored."""
    long = {"engine": "synthetic", "options": {"tokens": 1_200_000}}
    worker = {"count": 1, "memory": "512MB", "engines": ["synthetic"]}
    system = System(tmp_path, yaml.safe_dump({"models": {"long": long}, "workers": [worker]}))
    try:
        system.wait_ready()
        async with httpx.AsyncClient(base_url=system.url, timeout=60) as client:
            await _read_everywhere(client, "".join(words(1_200_000)))
    finally:
        system.stop()


async def _read_everywhere(client: httpx.AsyncClient, text: str) -> None:
    asked = {"model": "long", "prompt": "x"}
    answer = (await client.post("/v1/completions", json=asked)).json()
    assert answer["choices"][0]["text"] == text
    streamed = (await client.post("/v1/completions", json=asked | {"stream": True})).text
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(one["choices"][0]["text"] for one in chunks if one["choices"]) == text
    assert "error" not in chunks[-1]
    job = {"model": "long", "input": {"prompt": "x"}}
    done = (await client.post("/v1/jobs", json=job, headers={"Prefer": "wait=30"})).json()
    assert (done["status"], done["result"]["text"]) == ("completed", text)
    assert (await client.get(done["urls"]["self"])).json()["result"]["text"] == text
    response = (
        await client.post("/v1/responses", json={"model": "long", "input": "x", "background": True})
    ).json()
    while response["status"] in ("queued", "in_progress"):
        response = (await client.get(f"/v1/responses/{response['id']}")).json()
    assert response["output"][-1]["content"][0]["text"] == text


async def test_a_text_that_is_too_large_for_a_message_travels_as_a_blob(synthetic: System) -> None:
    """Up to the largest body. Before, it was refused with 413, and before that it stopped the scheduler."""
    text = "x" * (12 * 1024 * 1024)
    asks: list[tuple[str, dict[str, object]]] = [
        ("/v1/completions", {"model": "echo", "prompt": text}),
        ("/v1/completions", {"model": "echo", "prompt": text, "stream": True}),
        ("/v1/chat/completions", {"model": "echo", "messages": [{"role": "user", "content": text}]}),
        ("/v1/jobs", {"model": "echo", "input": {"prompt": text}}),
    ]
    async with httpx.AsyncClient(base_url=synthetic.url, timeout=60) as client:
        for path, body in asks:
            answer = await client.post(path, json=body, headers={"Prefer": "wait=30"})
            assert answer.status_code == 200, answer.text[:300]
            assert "t0 t1" in answer.text
        answer = await client.post("/v1/completions", json={"model": "echo", "prompt": "x" * 21 * 1024 * 1024})
        assert (answer.status_code, "20971520 bytes" in answer.text) == (413, True)
