"""Functions on a running system: the examples, document 000, everything that a function can do wrong."""

import base64
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from stoker import AsyncClient, CallFailed, Client
from stoker.client import Job
from tests.conftest import ROOT, System, wait_for
from tests.fixtures.behaviours import BEHAVIOURS
from tests.system.launched import wait_up

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("functions")
    project = folder / "project"
    project.mkdir()
    (project / "app.py").write_text(BEHAVIOURS)
    (project / "schemas.py").write_text("raise RuntimeError('not a module of the project')")
    (project / "pyproject.toml").write_text('[tool.stoker]\nmodules = ["app"]\n')
    found = System(
        folder, "workers: [{count: 1, engines: [function]}]\n",
        "--functions", str(project), "--functions", str(EXAMPLES / "functions"), "--reload",
    )  # fmt: skip
    try:
        found.wait_ready()
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with Client(system.url) as found:
        yield found


def failed(client: Client, function: str, **payload: Any) -> CallFailed:
    with pytest.raises(CallFailed) as refused:
        client.run(function, **payload)
    return refused.value


def wait_started(job: Job) -> None:
    assert "started" in (event.name for event in job.events())


def test_functions_are_listed_with_their_schemas(system: System) -> None:
    names = {one["name"] for one in system.get("/v1/functions")["functions"]}
    own = {"echo", "misbehave", "wait", "leaves_a_task", "steps", "large", "needs_gpu"}
    assert names == own | {"tell", "shrink", "compose"}
    card = system.get("/v1/functions/compose")
    assert card["input_schema"]["properties"]["count"]["default"] == 2
    assert card["model_keys"] == ["words", "rules"]
    document = system.get("/schema/openapi.json")
    asked = document["paths"]["/v1/functions/shrink"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    file = asked["properties"]["picture"]["$ref"].removeprefix("#/components/schemas/")
    assert document["components"]["schemas"][file]["required"] == ["url"]
    assert "/static/schema.js" in httpx.get(system.url + "/schema").text, "its script reads the document"
    assert system.get("/v1/functions/nothing")["status"] == 404
    assert [model["id"] for model in system.get("/v1/models")["data"]] == []


def test_a_call_waits_streams_or_is_a_job(client: Client, system: System) -> None:
    assert client.run("echo", text="hello") == {"text": "hello"}
    answer = system.post("/v1/functions/echo", {"text": "x"})
    assert answer.headers["x-stoker-worker"] == "worker-1"
    assert list(client.stream("steps")) == [{"text": str(index)} for index in range(5)]
    with httpx.stream(
        "POST", system.url + "/v1/functions/steps", json={}, headers={"Accept": "text/event-stream"}
    ) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("event: ")]
    assert lines.count("event: delta") == 5
    assert "event: progress" in lines
    assert lines[-1] == "event: completed"
    job = client.submit("steps")
    names = [event.name for event in job.events()]
    assert names[-1] == "completed"
    assert "progress" in names
    assert job.result() == [{"text": str(index)} for index in range(5)]
    accepted = system.post("/v1/jobs", {"model": "echo", "input": {"text": "as a job"}}).json()
    assert system.ended(accepted["id"])["result"] == {"text": "as a job"}


async def test_the_async_client_does_the_same(system: System) -> None:
    async with AsyncClient(system.url) as client:
        assert await client.run("echo", text="hello") == {"text": "hello"}
        assert [item["text"] async for item in client.stream("steps")] == list("01234")
        job = await client.submit("echo", text="x")
        assert await job.result() == {"text": "x"}
        with pytest.raises(CallFailed, match="text"):
            await client.run("echo", text=3)


def test_a_payload_is_checked_before_anything_is_queued(client: Client) -> None:
    error = failed(client, "echo", text=3)
    assert (error.status, error.kind, error.field) == (400, "validation", "text")
    assert failed(client, "nothing", text="x").status == 404


@pytest.mark.parametrize(
    ("what", "kind", "says"),
    [
        ("raise", "fatal", "RuntimeError: with token=*** in …/x.py"),
        ("retry", "retryable", "try later"),
        ("surrogate", "fatal", "RuntimeError: \\udcff"),
        ("exit", "fatal", "ended its process with status 3"),
        ("sys.exit", "fatal", "the function ended the process: SystemExit(4)"),
        ("hang", "timeout", "it ran longer than 3 s"),
        ("type", "fatal", "misbehave must return Said, and returned str"),
        ("eat", "resource", "MemoryError"),
    ],
)
def test_what_a_function_does_wrong_fails_that_call_alone(
    client: Client, what: str, kind: str, says: str
) -> None:
    error = failed(client, "misbehave", text=what)
    assert (error.kind, says in str(error)) == (kind, True), error
    assert "Traceback" not in str(error)
    assert client.run("misbehave", text="") == {"text": "fine"}  # where its process has ended, in the next one


def test_printing_megabytes_harms_nobody(client: Client, system: System) -> None:
    assert client.run("misbehave", text="print") == {"text": "fine"}
    assert system.log.stat().st_size < 3_000_000


def test_what_a_call_prints_is_its_log_while_it_runs_and_afterwards(client: Client, system: System) -> None:
    job = client.submit("steps", text="told", seconds=0.2)
    wait_for(lambda: "told 0" in httpx.get(f"{system.url}/v1/jobs/{job.id}/log").text, 5, "the log")
    command = [sys.executable, "-P", "-m", "stoker", "logs", job.id, "--follow", "--url", system.url]
    followed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert followed == "".join(f"told {number}\n" for number in range(5))
    answer = httpx.get(f"{system.url}/v1/jobs/{job.id}/log", params={"after": 7})
    assert answer.text == followed[7:]
    assert (answer.headers["stoker-log-bytes"], answer.headers["stoker-log-ended"]) == ("35", "true")
    printed = client.submit("misbehave", text="print")
    printed.result()
    answer = httpx.get(f"{system.url}/v1/jobs/{printed.id}/log")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert "lines (4934465 bytes) were left out here: a log keeps the first 32768" in answer.text
    assert httpx.get(f"{system.url}/v1/jobs/nobody/log").status_code == 404


def test_a_process_that_ends_takes_no_other_calls_results_along(client: Client) -> None:
    others = [client.submit("wait", seconds=1.0) for _ in range(2)]
    for other in others:
        wait_started(other)  # in the same process
    assert failed(client, "misbehave", text="exit").kind == "fatal"
    assert [other.result() for other in others] == [{"text": "waited"}] * 2


def test_what_a_call_leaves_behind_may_end_the_process_later(client: Client) -> None:
    assert client.run("leaves_a_task", seconds=0.3) == {"text": "left"}
    assert client.run("wait", seconds=1.0) == {"text": "waited"}
    assert client.run("echo", text="after") == {"text": "after"}


@pytest.mark.parametrize(("text", "within_s"), [("cooperative", 0.6), ("stubborn", 3.0)])
def test_a_cancel_stops_the_function_and_the_next_call_works(
    client: Client, text: str, within_s: float
) -> None:
    job = client.submit("wait", text=text, seconds=60.0)
    wait_started(job)
    began = time.monotonic()
    job.cancel()
    with pytest.raises(CallFailed) as refused:
        job.result()
    assert refused.value.kind == "cancelled"
    assert time.monotonic() - began < within_s
    assert client.run("echo", text="next") == {"text": "next"}


def test_large_results_are_never_cut(client: Client) -> None:
    sizes = [(item["text"][0], len(item["text"])) for item in client.stream("large")]
    assert sizes == [("x", 300_000), ("y", 6_000_000)]
    assert [len(one["text"]) for one in client.run("large")] == [300_000, 6_000_000]


def test_a_function_that_needs_a_gpu_says_so_where_there_is_none(client: Client) -> None:
    error = failed(client, "needs_gpu")
    assert (error.kind, "it needs a GPU and no worker has one" in str(error)) == ("impossible", True)


def test_files_go_in_and_out(client: Client, system: System, tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (200, 100), "red").save(picture, "PNG")
    url = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
    result = client.run("shrink", picture={"url": url}, edge=50)
    assert (result["width"], result["height"]) == (50, 25)
    assert Image.open(io.BytesIO(client.get(result["picture"]["url"]))).size == (50, 25)
    again = client.run("shrink", picture=result["picture"], edge=10)  # a file of a job, by reference
    assert Image.open(io.BytesIO(client.get(again["picture"]["url"]))).size == (10, 5)
    gone = failed(client, "shrink", picture={"url": "/v1/jobs/nobody/files/0"})
    assert (gone.status, gone.field) == (404, "picture")
    job = result["picture"]["url"].split("/")[3]
    assert "1 files" in str(failed(client, "shrink", picture={"url": f"/v1/jobs/{job}/files/7"}))
    command = [sys.executable, "-P", "-m", "stoker", "call", "shrink", f'picture={{"url": "{url}"}}', "edge=20"]
    done = subprocess.run(
        [*command, "--url", system.url, "--out", str(tmp_path)], capture_output=True, check=True
    )
    assert b"saved" in done.stdout
    assert Image.open(tmp_path / "small.png").size == (20, 10)
    assert failed(client, "shrink", picture={"url": "data:image/png;base64,eA=="}).kind == "validation"


def test_two_models_are_given_to_one_function(client: Client, system: System) -> None:
    assert client.run("compose", count=1)["text"].startswith("The stoker feeds the")

    def loaded() -> set[str]:
        return set(system.get("/v1/fleet")["workers"][0]["vram_models"])

    assert wait_for(lambda: {"words", "rules"} <= loaded(), 10, "the models in the fleet")


def test_an_edit_is_served_after_it_is_saved(client: Client, system: System) -> None:
    path = system.data.parent / "project" / "app.py"
    running = client.submit("wait", seconds=2.0)
    path.write_text(BEHAVIOURS.replace("Said(payload.text)", "Said(payload.text.upper())"))
    wait_for(lambda: client.run("echo", text="x") == {"text": "X"}, 30, "the new version")
    assert running.result() == {"text": "waited"}
    path.write_text("import nothing_like_this\n")
    wait_for(lambda: "nothing_like_this" in system.log.read_text(), 30, "the error")
    assert client.run("echo", text="x") == {"text": "X"}
    path.write_text(BEHAVIOURS)
    wait_for(lambda: client.run("echo", text="x") == {"text": "x"}, 30, "the first version again")


@pytest.mark.slow
def test_a_thousand_calls_at_once_succeed(system: System) -> None:
    import asyncio

    async def call_all() -> list[Any]:
        limits = httpx.Limits(max_connections=1000)
        async with httpx.AsyncClient(base_url=system.url, timeout=100, limits=limits) as http:
            calls = [http.post("/v1/functions/echo", json={"text": str(index)}) for index in range(1000)]
            return await asyncio.gather(*calls)

    answers = asyncio.run(call_all())
    assert [answer.json().get("text") for answer in answers] == [str(index) for index in range(1000)]


def test_a_project_that_cannot_be_imported_stops_the_start_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import nothing_like_this\n")
    command = [
        sys.executable,
        "-P",
        "-m",
        "stoker",
        "up",
        "--functions",
        str(tmp_path),
        "--data",
        str(tmp_path / "d"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    said = done.stderr.replace("\n", " ")
    assert "app.py:1: import nothing_like_this" in said
    assert "pip install nothing_like_this" in said


# Document 000 ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("multi")
    project = EXAMPLES / "multi-checkpoint"
    subprocess.run([sys.executable, str(project / "make_checkpoints.py"), str(folder / "hub")], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder / "hub"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        config = "workers: [{count: 2, engines: [function], memory: 2GB}]\n"
        system = System(folder, config, "--functions", str(project))
    try:
        wait_up(system)
        yield system
    finally:
        system.stop()


REQUESTS = [
    {
        "prompt": "a beautiful mountain landscape at sunrise",
        "model_key": "sdxl-base",
        "num_inference_steps": 28,
        "guidance_scale": 7.5,
    },
    {
        "prompt": "a futuristic city with flying cars",
        "model_key": "sdxl-turbo",
        "num_inference_steps": 4,
        "guidance_scale": 0.0,
    },
    {
        "prompt": "ethereal fantasy portrait, soft lighting",
        "model_key": "dreamshaper",
        "negative_prompt": "blurry, low quality, distorted",
    },
    {
        "prompt": "photorealistic portrait of a woman, studio lighting",
        "model_key": "juggernaut",
        "num_inference_steps": 30,
        "guidance_scale": 8.0,
    },
]


@pytest.mark.slow
@pytest.mark.parametrize("request_body", REQUESTS, ids=lambda body: str(body["model_key"]))
def test_the_requests_of_document_000(checkpoints: System, request_body: dict[str, Any]) -> None:
    with Client(checkpoints.url) as client:
        result = client.run("generate", **request_body)
        assert result["model_key"] == request_body["model_key"]
        assert Image.open(io.BytesIO(client.get(result["image"]["url"]))).format == "PNG"

    def is_hot() -> bool:
        workers = checkpoints.get("/v1/fleet")["workers"]
        return any(request_body["model_key"] in worker.get("vram_models", []) for worker in workers)

    wait_for(is_hot, 5, "the heartbeat that shows it")


@pytest.mark.slow
def test_an_unknown_key_or_a_full_id_is_refused_with_the_keys(checkpoints: System) -> None:
    for key in ("sdxl", "stabilityai/sdxl-turbo"):
        answer = checkpoints.post("/v1/functions/generate", {"prompt": "x", "model_key": key})
        assert answer.status_code == 422
        assert "sdxl-base, sdxl-turbo, dreamshaper, juggernaut" in answer.json()["detail"]
        assert answer.json()["field"] == "model_key"


@pytest.mark.slow
def test_a_killed_host_is_a_new_one_for_the_next_call(checkpoints: System) -> None:
    body = {"prompt": "x", "model_key": "sdxl-turbo", "num_inference_steps": 1, "guidance_scale": 0.0}
    with Client(checkpoints.url) as client:
        assert client.run("generate", **body)
        found = subprocess.run(
            ["pgrep", "-f", "stoker.functions.host"], capture_output=True, text=True, check=True
        )
        workers = {checkpoints.pid(f"worker-{number}") for number in (1, 2)}
        for pid in map(int, found.stdout.split()):
            status = Path(f"/proc/{pid}/environ")
            if status.exists() and str(checkpoints.data.parent / "hub") in status.read_text(errors="replace"):
                os.kill(pid, signal.SIGKILL)
        assert client.run("generate", **body)["model_key"] == "sdxl-turbo"
        assert workers == {checkpoints.pid(f"worker-{number}") for number in (1, 2)}
