"""Whatever comes in: a clear error, the service stays up, the next request works."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import nats
import psutil
import pytest

from tests.conftest import DEMO, System, wait_for


@pytest.fixture(autouse=True)
def works_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the same processes answer the next request."""
    if "synthetic" not in request.fixturenames:
        yield
        return
    system: System = request.getfixturevalue("synthetic")
    before = {name: system.pid(name) for name in ("gateway", "scheduler", "worker-1", "worker-2", "autoscaler")}
    yield
    assert system.ended(system.submit("echo"))["status"] == "completed"
    assert all(system.pid(name) == pid for name, pid in before.items())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"[" * 50_000, 400),
        (b'{"model": "echo"}', 400),
        (b'{"model": "nope", "messages": [{"role": "user", "content": "x"}]}', 404),
        (b'{"model": "../../etc/passwd", "messages": [{"role": "user", "content": "x"}]}', 404),
        (b'{"model": "a.>", "messages": [{"role": "user", "content": "x"}]}', 404),
        (b'{"model": "a\\u0000b", "messages": [{"role": "user", "content": "x"}]}', 400),
        (b'{"model": "a\\nb", "messages": [{"role": "user", "content": "x"}]}', 400),
        (b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1e99}', 400),
        (b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "seed": "x"}', 400),
    ],
)
def test_a_bad_chat_body_is_an_openai_error(synthetic: System, body: bytes, status: int) -> None:
    answer = httpx.post(f"{synthetic.url}/v1/chat/completions", content=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["message"] and error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"model": "echo"}, 400, "input"),
        ({"model": "echo", "input": {"prompt": "x"}, "priority": 99}, 400, "priority"),
        ({"model": "echo", "input": {"prompt": "x"}, "timeout_s": -1}, 400, "timeout_s"),
        ({"model": "echo", "input": {"prompt": "x"}, "webhook": "file:///etc"}, 400, "webhook"),
        ({"model": "echo", "input": {"prompt": "x"}, "typo": 1}, 400, None),
        ({"model": "echo", "input": "x"}, 400, "input"),
    ],
)
def test_a_bad_job_is_a_problem_document(synthetic: System, body: dict, status: int, field: str | None) -> None:
    answer = synthetic.post("/v1/jobs", body)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("application/problem+json")
    shown = answer.json()
    assert {"type", "title", "status", "detail"} <= shown.keys()
    assert shown.get("field") == field


MESSAGE = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/responses", {"input": "x", "max_output_tokens": 0}, "max_output_tokens must be"),
        ("/v1/responses", {"input": []}, "input must not be empty"),
        (
            "/v1/messages",
            {"messages": [MESSAGE], "max_tokens": 2, "stop_sequences": [""]},
            "stop_sequences takes",
        ),
        ("/api/chat", {"messages": [MESSAGE], "options": {"num_predict": 0}}, "options.num_predict must be"),
        (
            "/api/chat",
            {"messages": [MESSAGE], "options": {"temperature": "hot"}},
            "options.temperature: Expected",
        ),
        ("/api/chat", {"messages": [MESSAGE], "keep_alive": [1]}, "keep_alive: Expected"),
        ("/api/generate", {"prompt": "x", "raw": True, "system": "y"}, "system is not supported with raw"),
        ("/api/generate", {"prompt": "x", "raw": True, "images": ["AA"]}, "images is not supported with raw"),
    ],
)
def test_what_is_wrong_is_called_as_the_client_calls_it(
    synthetic: System, path: str, body: dict, said: str
) -> None:
    answer = synthetic.post(path, {"model": "echo", **body})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error if isinstance(error, str) else error["message"]).startswith(said)
    assert path != "/v1/responses" or error["param"] == said.split()[0]


def test_what_is_left_out_within_a_field_is_told_too(synthetic: System) -> None:
    odd = MESSAGE | {"zzz": 1, "refusal": None}
    told = synthetic.post(
        "/v1/chat/completions", {"model": "echo", "messages": [MESSAGE, odd], "stream_options": {"more": 1}}
    )
    assert (told.status_code, told.headers["stoker-ignored"]) == (200, "messages.zzz, stream_options.more")
    asked = {"input": "x", "text": {"verbosity": "low"}, "reasoning": {"summary": "auto"}, "include": ["a.b"]}
    told = synthetic.post("/v1/responses", {"model": "echo", **asked})
    assert told.headers["stoker-ignored"] == "include.a.b, text.verbosity, reasoning.summary"
    called = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    refused = synthetic.post("/v1/chat/completions", {"model": "echo", "messages": [MESSAGE, called]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages.function_call")


def test_what_a_response_was_given_comes_in_pages(synthetic: System) -> None:
    texts = [MESSAGE | {"content": str(number)} for number in range(5)]
    made = synthetic.post("/v1/responses", {"model": "echo", "input": texts}).json()["id"]

    def page(**asked: str | int) -> tuple[list[str], bool]:
        found = synthetic.get(f"/v1/responses/{made}/input_items", params=asked)
        assert [found["first_id"], found["last_id"]] == [found["data"][0]["id"], found["data"][-1]["id"]]
        return [one["content"] for one in found["data"]], found["has_more"]

    assert page() == (["4", "3", "2", "1", "0"], False)
    assert page(order="asc", limit=2) == (["0", "1"], True)
    last = synthetic.get(f"/v1/responses/{made}/input_items", params={"order": "asc", "limit": 2})["last_id"]
    assert page(order="asc", after=last) == (["2", "3", "4"], False)
    for path, field in (
        ("/input_items?limit=0", "limit"),
        ("/input_items?order=up", "order"),
    ):
        refused = httpx.get(f"{synthetic.url}/v1/responses/{made}{path}")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)


def test_a_number_in_a_query_that_is_none_is_the_clients_fault(synthetic: System) -> None:
    answer = httpx.get(f"{synthetic.url}/v1/jobs?since=nan")
    assert (answer.status_code, answer.json()["field"]) == (400, "since")


def test_a_deadline_that_cannot_be_met_is_refused_at_once(synthetic: System) -> None:
    synthetic.ended(synthetic.submit("slow", max_tokens=20))
    wait_for(lambda: not synthetic.get("/v1/jobs?status=running")["jobs"])

    def refused() -> httpx.Response | None:
        body = {"model": "slow", "input": {"prompt": "x", "max_tokens": 200}, "deadline_s": 0.5}
        answer = synthetic.post("/v1/jobs", body)
        return answer if answer.status_code == 422 else None

    assert wait_for(refused).json()["type"] == "urn:stoker:would_miss_deadline"


def test_a_body_of_21_mb_is_refused_without_reading_it_in(synthetic: System) -> None:
    answer = httpx.post(f"{synthetic.url}/v1/jobs", content=b"x" * (21 * 1024 * 1024), timeout=30)
    assert answer.status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(21):
            yield b"x" * (1024 * 1024)

    with httpx.Client(timeout=30) as client:
        try:
            answer = client.post(f"{synthetic.url}/v1/jobs", content=chunks())
            assert answer.status_code == 413
        except (httpx.WriteError, httpx.RemoteProtocolError):
            pass  # the gateway hung up on the rest: as good


def test_endless_headers_and_garbage_are_refused(synthetic: System) -> None:
    for payload in (b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", b"\x00\xff garbage\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", synthetic.port), timeout=5) as connection:
            connection.sendall(payload)
            answer = connection.recv(1000)
        assert answer == b"" or b" 4" in answer.split(b"\r\n", 1)[0]


@pytest.mark.parametrize("path", ["/v1/jobs/..%2f..", "/v1/jobs/a%00b", "/v1/jobs/%3E", "/v1/jobs/*", "/nope"])
def test_odd_job_names_are_not_found_or_refused(synthetic: System, path: str) -> None:
    assert httpx.get(synthetic.url + path).status_code in (400, 404)


def test_garbage_on_every_subject_is_survived(synthetic: System) -> None:
    subjects = [
        "jobs.echo", "jobs.nope", "out.gw.j", "result.gw.j", "heartbeat.worker-1", "heartbeat.ghost",
        "finished.worker-1", "cancel.nobody", "queue.echo", "events.kind.id", "solicit", "webhook.j",
        "worker.worker-1.assign", "worker.worker-1.cancel", "worker.worker-1.load", "worker.worker-1.replay",
        "worker.worker-1.ping", "worker.worker-1.unload", "scheduler.job", "scheduler.jobs",
        "scheduler.explain", "scheduler.nonsense",
    ]  # fmt: skip

    async def throw() -> None:
        client = await nats.connect(synthetic.nats)
        for subject in subjects:
            for payload in (b"", b"{", b"\xff" * 100, b"[]", b'{"job": 1}', b"null"):
                await client.publish(f"stoker.{subject}", payload, reply="nowhere")
                headers = {"Stoker-Json-Bytes": "999999"}
                await client.publish(f"stoker.{subject}", payload, headers=headers)
        await client.flush()
        bucket = await client.jetstream().key_value("stoker_catalog")
        await bucket.put("garbage", b"\xff{")
        await bucket.delete("garbage")
        await client.close()

    asyncio.run(throw())
    assert (
        synthetic.ended(synthetic.submit("echo"))["status"] == "completed"
    )  # by the same processes: see above


@pytest.mark.slow
def test_broken_weights_and_missing_files_are_said_clearly(tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes((DEMO / "chat.gguf").read_bytes()[:200_000])
    (tmp_path / "text.gguf").write_text("this is not a model")
    (tmp_path / "empty").mkdir()
    config = f"""\
models:
  cut: {{engine: llamacpp, url: cut.gguf}}
  text: {{engine: llamacpp, url: text.gguf}}
  gone: {{engine: llamacpp, url: gone.gguf}}
  empty: {{engine: diffusers, url: empty}}
  good: {{engine: llamacpp, url: "file://{DEMO}/chat.gguf", defaults: {{max_tokens: 5}}}}
workers:
  - {{count: 1, memory: 512MB}}
"""
    (tmp_path / "stoker.yaml").write_text(config)
    system = System(tmp_path / "again", tmp_path / "stoker.yaml")
    try:
        system.wait_ready()
        for model, says in (
            ("cut", "cut.gguf"),
            ("text", "not a GGUF"),
            ("gone", "does not exist"),
            ("empty", "model_index.json"),
        ):
            ended = system.ended(system.submit(model), 60)
            assert (ended["status"], ended["error"]["kind"]) == ("failed", "load_failed"), ended
            assert says in ended["error"]["message"]
            answer = system.post("/v1/completions", {"model": model, "prompt": "x"})
            if model != "empty":
                assert answer.status_code == 503
        assert system.ended(system.submit("good"))["status"] == "completed"
        assert psutil.pid_exists(system.pid("worker-1"))
    finally:
        system.stop()


def test_a_model_that_fits_no_worker_is_impossible_at_once(tmp_path: Path) -> None:
    config = """\
models:
  big: {engine: synthetic, memory: 2GB}
  other: {engine: llamacpp, url: x.gguf}
workers:
  - {count: 1, memory: 100MB, engines: [synthetic]}
"""
    system = System(tmp_path, config)
    try:
        system.wait_ready()
        wait_for(lambda: system.post("/v1/jobs", {"model": "big", "input": {"prompt": "x"}}).status_code == 422)
        answer = system.post("/v1/jobs", {"model": "big", "input": {"prompt": "x"}})
        assert answer.json()["type"] == "urn:stoker:impossible"
        assert "2000 MB" in answer.json()["detail"]
        chat = system.post(
            "/v1/chat/completions", {"model": "other", "messages": [{"role": "user", "content": "x"}]}
        )
        assert (chat.status_code, chat.json()["error"]["code"]) == (503, "impossible")
        assert "llamacpp" in chat.json()["error"]["message"]
    finally:
        system.stop()


def test_a_wrong_configuration_starts_nothing(tmp_path: Path) -> None:
    system = System(tmp_path, "models:\n  a: {engin: x}\n")
    assert system.process.wait(20) == 2
    assert "stoker.yaml:2" in system.log.read_text()
    assert "did you mean 'engine'" in system.log.read_text()
    system.stop()


def test_a_second_system_on_the_same_data_is_refused(synthetic: System, tmp_path: Path) -> None:
    second = System(tmp_path, "models: {}\n", "--data", str(synthetic.data))
    assert second.process.wait(20) == 2
    assert "another NATS server already runs" in second.log.read_text()
    second.stop()


def test_a_second_system_on_the_same_port_is_refused_also_where_its_gateways_would_share_it(
    synthetic: System, tmp_path: Path
) -> None:
    """The kernel would spread the requests over the gateways of both."""
    taken = f"port {synthetic.port} of 127.0.0.1 cannot be had (Address already in use): choose another --port"
    for number, more in enumerate([(), ("--gateways", "2")]):
        second = System(tmp_path / str(number), "models: {}\n", "--port", str(synthetic.port), *more)
        assert second.process.wait(20) == 2
        assert taken in second.log.read_text()
        second.stop()
