"""The Python client, told by a server that answers as a gateway did: addresses, keys, errors, items of streams."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker import client as client_module
from stoker.client import AsyncClient, CallFailed, Client, _Items
from stoker.sse import Event, EventReader
from tests.unit.cli.gateway import Answer, answering, events

ODD = "a b/c?d#e%2F"
"""A job's id may be anything that its client likes."""
QUOTED = "a%20b%2Fc%3Fd%23e%252F"
DONE = {"status": "completed", "result": [1, 2]}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAUSE_S", 0.0)
    monkeypatch.delenv("STOKER_API_KEY", raising=False)
    monkeypatch.delenv("STOKER_URL", raising=False)


ANSWERS: dict[str, Answer] = {
    "GET /v1/functions": (200, {"functions": [{"name": "f"}]}),
    f"POST /v1/functions/{QUOTED}": (200, {"n": 1}),
    "POST /v1/functions/s": (202, {"id": ODD}),
    f"GET /v1/jobs/{QUOTED}/events": (200, events(("delta", {"text": "1\n"}), ("completed", DONE))),
    f"GET /v1/jobs/{QUOTED}": (200, DONE),
    f"POST /v1/jobs/{QUOTED}/cancel": (200, {}),
    f"GET /v1/jobs/{QUOTED}/files/2": (200, b"abc"),
    "GET /v1/jobs/j/files/0": (200, b"xyz"),
}


def test_every_name_is_one_part_of_the_path() -> None:
    with answering(ANSWERS) as server, Client(server.url) as client:
        assert client.functions() == [{"name": "f"}]
        assert client.run(ODD, a=1, function="f") == {"n": 1}
        assert list(client.stream("s", x=1)) == [1, 2]
        job = client.job(ODD)
        assert job.id == ODD
        assert job.result() == [1, 2]
        job.cancel()
        assert job.file(2) == b"abc"
        assert client.get("/v1/jobs/j/files/0") == b"xyz"
    assert server.asked[1][2] == {"a": 1, "function": "f"}
    assert server.asked[2][1]["Prefer"] == "respond-async"


async def test_the_asynchronous_client_asks_the_same() -> None:
    with answering(ANSWERS) as server:
        async with AsyncClient(server.url) as client:
            assert await client.functions() == [{"name": "f"}]
            assert await client.run(ODD, a=1) == {"n": 1}
            assert [item async for item in client.stream("s")] == [1, 2]
            job = client.job(ODD)
            assert await job.result() == [1, 2]
            await job.cancel()
            assert await job.file(2) == b"abc"
            assert await client.get("/v1/jobs/j/files/0") == b"xyz"


@pytest.mark.parametrize(
    ("status", "content", "said", "kind", "field"),
    [
        (404, {"detail": "no f", "type": "urn:stoker:not_found"}, "no f", "not_found", ""),
        (400, {"detail": "bad", "code": "invalid", "type": "about:blank", "field": "a"}, "bad", "invalid", "a"),
        (429, {"detail": "later", "field": None}, "later", "", ""),
        (500, {"other": 1}, "{'other': 1}", "", ""),
        (502, b"<html>", "<html>", "", ""),
        (502, b"", "Bad Gateway", "", ""),
        (502, "gone", "gone", "", ""),
        (502, ["a"], "['a']", "", ""),
        (502, None, "None", "", ""),
    ],
)
def test_an_answer_that_is_none_says_what_and_why(
    status: int, content: Any, said: str, kind: str, field: str
) -> None:
    paths = ("POST /v1/functions/f", "GET /v1/functions", "GET /v1/jobs/j/events", "POST /v1/jobs/j/cancel")
    with answering(dict.fromkeys(paths, (status, content))) as server, Client(server.url) as client:
        for call in (lambda: client.run("f"), client.functions, client.job("j").result, client.job("j").cancel):
            with pytest.raises(CallFailed) as failed:
                call()
            found = failed.value
            assert (str(found), found.status, found.kind, found.field) == (said, status, kind, field)


@pytest.mark.parametrize(
    ("end", "said", "kind"),
    [
        ({"status": "failed", "error": {"message": "no", "kind": "fatal"}}, "no", "fatal"),
        ({"status": "expired", "error": {"message": "late"}}, "late", "expired"),
        ({"status": "cancelled"}, "cancelled", "cancelled"),
        ({"status": "failed", "error": None}, "failed", "failed"),
    ],
)
def test_a_job_that_did_not_complete_raises_its_error(end: dict[str, Any], said: str, kind: str) -> None:
    answers: dict[str, Answer] = {"GET /v1/jobs/j/events": (200, events((end["status"], end)))}
    with answering(answers) as server, Client(server.url) as client, pytest.raises(CallFailed) as failed:
        client.job("j").result()
    assert (str(failed.value), failed.value.kind, failed.value.status) == (said, kind, 0)


@pytest.mark.parametrize("result", [{"n": 1}, None, "text", 3])
def test_streaming_a_function_that_does_not_stream_says_so(result: Any) -> None:
    end = {"status": "completed", "result": result}
    answers: dict[str, Answer] = {
        "POST /v1/functions/f": (202, {"id": "j"}),
        "GET /v1/jobs/j/events": (200, events(("completed", end))),
    }
    with answering(answers) as server, Client(server.url) as client:
        with pytest.raises(CallFailed, match=r"does not stream; call it with run\(\)"):
            list(client.stream("f"))
        assert client.job("j").result() == result


def test_a_stream_that_never_ends_well_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ATTEMPTS", 3)
    answers: dict[str, Answer] = {
        "GET /v1/jobs/j/events": (200, events(("started", {}))),
        "GET /v1/jobs/j": (200, DONE),
    }
    with answering(answers) as server, Client(server.url) as client:
        assert client.job("j").result() == [1, 2]
    asked = [asked for asked, _, _ in server.asked]
    assert asked == ["GET /v1/jobs/j/events"] * 3 + ["GET /v1/jobs/j"]
    assert [headers.get("Last-Event-ID") for _, headers, _ in server.asked] == [None, "0", "0", None]


def test_the_address_and_the_key_come_from_the_environment_unless_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with answering(ANSWERS) as server, answering(ANSWERS) as other:
        monkeypatch.setenv("STOKER_URL", server.url)
        monkeypatch.setenv("STOKER_API_KEY", "sk-env")
        Client().functions()
        Client(other.url, "sk-given").functions()
    assert server.asked[0][1]["Authorization"] == "Bearer sk-env"
    assert other.asked[0][1]["Authorization"] == "Bearer sk-given"


def test_without_a_key_none_is_sent() -> None:
    with answering(ANSWERS) as server:
        Client(server.url).functions()
    assert "Authorization" not in server.asked[0][1]


ITEMS = st.lists(
    st.one_of(st.integers(), st.text(max_size=5), st.dictionaries(st.text(max_size=3), st.integers())),
    max_size=6,
)


@given(items=ITEMS, size=st.integers(1, 9), lost=st.integers(0, 9))
def test_every_item_comes_once_however_its_text_was_cut_and_whoever_came_late(
    items: list[Any], size: int, lost: int
) -> None:
    import json

    text = "".join(json.dumps(item) + "\n" for item in items)
    reader, found = _Items(), list[Any]()
    cut = [text[start : start + size] for start in range(0, len(text), size)]
    for part in cut[: len(cut) - lost] if lost else cut:
        found += reader.feed(Event("delta", {"text": part}))
    assert found == items[: len(found)]
    found += reader.feed(Event("progress", {"step": 1, "steps": 2}))
    found += reader.feed(Event("completed", {"status": "completed", "result": items}))
    assert found == items


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([""], None),
        (["id: 1", ""], None),
        (["data: {}", ""], Event("message", {})),
        (["event: x", 'data: {"a": 1}', "id: 7", ""], Event("x", {"a": 1}, "7")),
        ([": a comment", "data: {}", ""], Event("message", {})),
        (["retry: 100", "event: x", "data: {}", ""], Event("x", {})),
    ],
)
def test_an_event_is_what_stands_before_an_empty_line(lines: list[str], expected: Event | None) -> None:
    reader = EventReader()
    found = list(reader.read(stream_of("\n".join([*lines, ""]))))
    assert found == ([expected] if expected else [])
    assert reader.last_id == (found[0].id if found else "")
    assert reader.end is None


def stream_of(text: str) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=text.encode())


def test_a_text_may_have_every_kind_of_line_end_in_it() -> None:
    text = "a\u2028b\u2029c\x85d\x0be"
    sent = f"event: delta\ndata: {json.dumps({'text': text}, ensure_ascii=False)}\nid: 1\n\n"
    sent += 'event: completed\r\ndata: {"status":\r\ndata: "completed"}\r\n\r\n'
    reader = EventReader()
    assert [event.data for event in reader.read(stream_of(sent))] == [{"text": text}, {"status": "completed"}]
    assert (reader.last_id, reader.end) == ("1", {"status": "completed"})
    assert list(reader.read(stream_of('event: delta\ndata: {"text": "cut o'))) == []
