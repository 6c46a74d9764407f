"""Commands, told by a server that answers as a gateway did: what they ask, show and say when something is wrong."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from stoker.cli.app import console
from stoker.cli.functions import files_in, parse_values
from stoker.cli.main import app
from stoker.cli.serve import choose_environments
from stoker.functions.environments import VARIABLE as ENVIRONMENTS
from tests.conftest import ROOT
from tests.unit.cli.gateway import Answer, Answering, answering, events

ODD = "[/odd]"
"""A name that rich would take for the end of a style, and refuse."""


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "width", 200)
    monkeypatch.setattr(console, "height", 50)
    monkeypatch.delenv("STOKER_API_KEY", raising=False)
    monkeypatch.delenv("STOKER_URL", raising=False)


def run(server: Answering, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--url", server.url])


def fleet(name: str = "m") -> dict[str, Any]:
    spec = {
        "name": name, "engine": "vllm", "profile": "gpu", "launcher": "nomad", "target_requests": 0, "desired": 2,
        "ready": 1, "starting": 1, "draining": 1,
        "condition": {"reason": name, "message": f"no {name}", "retry_at": time.time() + 100_000},
    }  # fmt: skip
    worker = {
        "worker": name, "profile": name, "device": name, "memory_used_bytes": 10**6, "memory_total_bytes": 5 * 10**6,
        "vram_models": [name], "disk_models": [name, f"{name}2"], "running": [{}, {}], "is_draining": True,
        "resources": {"rss_bytes": 7 * 10**6, "cpu_percent": 12.0, "gpu_allocated_bytes": 3 * 10**6},
    }  # fmt: skip
    model = {
        "name": name, "features": ["TextGeneration"], "queue": {"queued": 4, "running": 5}, "workers": {name: "hot"},
        "specs": [spec],
    }  # fmt: skip
    return {"models": [model], "workers": [worker]}


def job(name: str = "m") -> dict[str, Any]:
    return {
        "id": name,
        "model": name,
        "status": "queued",
        "created_at": time.time() + 100_000,
        "worker": name,
        "attempt": 3,
    }


EXPLANATION = {
    "job": ODD, "model": ODD, "attempt": 2, "chosen": ODD, "reason": f"{ODD} is hot", "considered": 9,
    "candidates": [{"worker": ODD, "tier": "hot", "wait_s": 0.5, "load_s": None, "run_s": 1.0, "verdict": ODD}],
}  # fmt: skip
EVENT = {"kind": "lost", "subject": ODD, "at": 1.5, "reason": f"{ODD} gone", "worker": "w1"}
FUNCTION = {
    "name": ODD, "input_schema": {"properties": {"a": {}, ODD: {}}, "required": ["a"]}, "streams": True,
    "output_schema": {"properties": {ODD: {}}}, "model_keys": [ODD], "description": f"{ODD} does.\nMore.",
}  # fmt: skip
READ: dict[str, Answer] = {
    "GET /v1/fleet": (200, fleet(ODD)),
    "GET /v1/jobs": (200, {"jobs": [job(ODD)]}),
    "GET /v1/jobs/j/explain": (200, EXPLANATION),
    "GET /v1/events": (200, {"events": [EVENT]}),
    "GET /v1/functions": (200, {"functions": [FUNCTION]}),
}


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["models"], [ODD, "TextGeneration", "4", "5", f"{ODD} hot"]),
        (["workers"], [f"{ODD} (draining)", "1 / 5 MB", "7 MB, 12 %, GPU 3 MB", f"{ODD}2", "2"]),
        (["jobs"], [ODD, "queued", "0 s", "3"]),
        (["specs"], [ODD, "vllm", "gpu (nomad)", "standby", "1 (+1 draining)", f"no {ODD}, again in "]),
        (
            ["explain", "j"],
            [f"job {ODD} ({ODD}), attempt 2", f"because {ODD} is hot", "0.500 s", "9 workers considered"],
        ),
        (["events"], ["lost", f"{ODD} w1: {ODD} gone", ".500"]),
        (["functions"], [ODD, f"a, {ODD}", f"stream of {ODD}", f"{ODD} does."]),
        (["top", "--seconds", "0.001"], ["workers", "models", "jobs", ODD]),
    ],
    ids=lambda one: one[0],
)
def test_a_command_shows_what_there_is_and_a_name_is_no_markup(command: list[str], shown: list[str]) -> None:
    with answering(READ) as server:
        result = run(server, *command)
    assert result.exit_code == 0, result.output
    for text in shown:
        assert text in result.output


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["models"], fleet(ODD)["models"][0]["name"]),
        (["workers"], ODD),
        (["explain", "j"], ODD),
        (["functions"], ODD),
        (["events"], ODD),
    ],
    ids=lambda one: one[0],
)
def test_for_scripts_the_same_is_json(command: list[str], expected: str) -> None:
    with answering(READ) as server:
        result = run(server, *command, "--json")
    found = json.loads(result.stdout)
    first = found[0] if isinstance(found, list) else found
    assert expected in first.values()


def test_what_is_asked_for_is_in_the_query() -> None:
    with answering(READ) as server:
        run(server, "jobs", "--status", "queued", "--model", "a b", "--limit", "3")
        run(server, "events", "--model", "m&n", "--kind", "lost", "--limit", "4")
    assert [asked for asked, _, _ in server.asked] == [
        "GET /v1/jobs?status=queued&model=a+b&limit=3",
        "GET /v1/events?model=m%26n&kind=lost&limit=4",
    ]


def test_specs_of_a_model_that_is_not_there_are_an_error() -> None:
    with answering(READ) as server:
        result = run(server, "specs", ODD)
        assert result.exit_code == 0 and ODD in result.output
        result = run(server, "specs", "[/none]")
    assert result.exit_code == 1
    assert "there is no model '[/none]'" in result.output


@pytest.mark.parametrize(
    ("status", "content", "says"),
    [
        (404, {"detail": f"no {ODD}"}, f"no {ODD} (404)"),
        (400, {"error": {"message": f"bad {ODD}"}}, f"bad {ODD} (400)"),
        (500, b"plain words", "plain words (500)"),
        (502, b"", "Bad Gateway (502)"),
        (503, ["a"], "['a'] (503)"),
        (503, 3, "3 (503)"),
        (503, None, "None (503)"),
        (503, "gone", "gone (503)"),
        (503, {"error": "gone"}, "{'error': 'gone'} (503)"),
    ],
)
def test_what_the_gateway_says_is_shown_with_its_status(status: int, content: Any, says: str) -> None:
    with answering({"GET /v1/fleet": (status, content)}) as server:
        result = run(server, "models")
    assert (result.exit_code, result.exception is None or isinstance(result.exception, SystemExit)) == (1, True)
    assert says in result.output


@pytest.mark.parametrize(
    "command", [["models"], ["jobs"], ["cancel", "x"], ["run", "m", "p"], ["call", "f"], ["functions"]]
)
def test_without_a_gateway_every_command_says_what_to_do(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--url", "http://127.0.0.1:9"])
    assert result.exit_code == 2
    assert (
        "no gateway answers at http://127.0.0.1:9" in result.output
        and "is `stoker up` running?" in result.output
    )


def test_the_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_API_KEY", "sk-1")
    with answering(READ) as server:
        run(server, "models")
    assert server.asked[0][1]["Authorization"] == "Bearer sk-1"


def test_without_a_key_nothing_is_sent() -> None:
    with answering(READ) as server:
        run(server, "models")
    assert "Authorization" not in server.asked[0][1]


def text_job(end: dict[str, Any], *told: tuple[str, Any]) -> dict[str, Answer]:
    return {
        "GET /v1/models/m": (200, {"features": ["TextGeneration"]}),
        "POST /v1/jobs": (202, {"id": "j"}),
        "GET /v1/jobs/j/events": (200, events(*told, (end["status"], end))),
        "GET /v1/jobs/j": (200, end),
    }


def test_run_streams_text_and_asks_for_what_was_given() -> None:
    end = {"status": "completed", "result": {"text": "ab"}}
    with answering(text_job(end, ("delta", {"text": "a"}), ("delta", {"text": "b"}))) as server:
        result = run(server, "run", "m", "hello", "--max-tokens", "5", "--temperature", "0", "--seed", "0")
    assert (result.exit_code, result.stdout) == (0, "ab\n")
    assert server.asked[1][2] == {
        "model": "m",
        "input": {
            "seed": 0,
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 5,
            "temperature": 0.0,
        },
    }


def test_run_says_why_a_job_failed() -> None:
    end = {"status": "failed", "error": {"kind": "fatal", "message": f"{ODD} broke"}}
    with answering(text_job(end)) as server:
        result = run(server, "run", "m", "hello")
    assert result.exit_code == 1 and f"failed: {ODD} broke" in result.output


@pytest.mark.parametrize(("name", "asked"), [("x.png", {}), ("x.jpg", {"output_format": "jpeg"})])
def test_run_saves_a_picture_where_it_was_told(tmp_path: Path, name: str, asked: dict[str, str]) -> None:
    end = {"status": "completed", "result": {"images": [{"url": "/v1/jobs/j/images/0", "seed": 7}]}}
    answers = text_job(end, ("progress", {"step": 1, "steps": 2})) | {
        "GET /v1/models/m": (200, {"features": ["ImageGeneration"]}),
        "GET /v1/jobs/j/images/0": (200, b"PNG"),
    }
    with answering(answers) as server:
        result = run(server, "run", "m", "a lake", "-o", str(tmp_path / name), "--steps", "2")
    assert result.exit_code == 0 and "(seed 7)" in result.output
    assert (tmp_path / name).read_bytes() == b"PNG"
    assert server.asked[1][2]["input"] == {"prompt": "a lake", "num_inference_steps": 2} | asked


def test_call_prints_a_result_and_saves_its_files_by_their_last_name(tmp_path: Path) -> None:
    value = {"deep": [{"url": "/v1/jobs/j/files/0", "name": "../../x.txt"}], "n": 1}
    answers: dict[str, Answer] = {
        "POST /v1/functions/a%2Fb": (202, {"id": "j"}),
        "GET /v1/jobs/j/events": (200, events(("completed", {"status": "completed", "result": value}))),
        "GET /v1/jobs/j/files/0": (200, b"abc"),
    }
    with answering(answers) as server:
        result = run(server, "call", "a/b", "n=1", "s=[1", "--json", "--out", str(tmp_path / "o"))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "o" / "x.txt").read_bytes() == b"abc"
    assert server.asked[0][2] == {"n": 1, "s": "[1"}
    assert '"n": 1' in result.stdout


def test_call_says_the_kind_of_a_failure() -> None:
    end = {"status": "failed", "error": {"kind": "validation", "message": f"{ODD} no"}}
    answers: dict[str, Answer] = {
        "POST /v1/functions/f": (202, {"id": "j"}),
        "GET /v1/jobs/j/events": (200, events(("failed", end))),
    }
    with answering(answers) as server:
        result = run(server, "call", "f")
    assert result.exit_code == 1 and f"{ODD} no (validation)" in result.output


WORDS = st.text("xyz =/.é", max_size=6)
VALUES = st.one_of(
    st.integers(-(2**60), 2**60), st.booleans(), st.none(), st.lists(st.integers(0, 9), max_size=3), WORDS
)


@given(st.dictionaries(st.text("abc_", min_size=1, max_size=5), VALUES, max_size=4))
def test_values_are_json_where_they_can_be_else_text(payload: dict[str, Any]) -> None:
    pairs = [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in payload.items()
    ]
    assert parse_values(pairs) == payload


@pytest.mark.parametrize("pair", ["", "=", "=1", "key", "[/x]"])
def test_what_is_no_pair_is_refused(pair: str) -> None:
    result = CliRunner().invoke(app, ["call", "f", "--", pair])
    assert result.exit_code == 2 and f"{pair!r} is not key=value" in result.output


@given(
    st.recursive(
        st.one_of(st.none(), st.text(max_size=5), st.just({"url": "/v1/jobs/j/files/0", "name": "x"})),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.sampled_from(["a", "url", "name"]), inner, max_size=3),
        ),
    )
)
def test_files_are_found_wherever_they_are_in_a_result(value: Any) -> None:
    found = files_in(value)
    assert all(one["url"].startswith("/v1/jobs/") and one["name"] for one in found)
    assert bool(found) == ("/v1/jobs/j/files/0" in json.dumps(value))


def test_a_local_call_prints_its_results_and_names_what_it_does_not_know(tmp_path: Path) -> None:
    projects = ROOT / "tests" / "fixtures" / "projects"

    def local(shape: str, *arguments: str) -> Result:
        return CliRunner().invoke(
            app, ["call", "--local", str(projects / shape), *arguments, "--out", str(tmp_path)]
        )

    result = local("files", "reverse", 'document={"ref":"data:text/plain;base64,aGVsbG8="}')
    assert (result.exit_code, json.loads(result.stdout[result.stdout.index("{") :])["length"]) == (0, 5)
    assert (tmp_path / "runs" / "local" / "reversed.txt").read_bytes() == b"olleh"
    for arguments, says in (
        (("plain", "add", "a=1", "temprature=1"), "did you mean 'temperature'?"),
        (("plain", "none"), "there is no function 'none'; there are add"),
        (("nowhere", "add"), "there is no such folder"),
    ):
        result = local(*arguments)
        assert (result.exit_code, says in " ".join(result.stderr.split())) == (1, True), result.stderr


def test_stubs_are_written_of_what_says_its_types() -> None:
    said = {
        "type": {"kind": "object", "name": "P"},
        "objects": {"P": {"fields": [{"name": "n", "type": {"kind": "plain", "name": "int"}}]}},
    }
    cards = [FUNCTION | {"name": "f", "input_type": said, "output_type": said}, FUNCTION]
    with answering({"GET /v1/functions": (200, {"functions": cards})}) as server:
        result = run(server, "stubs")
    assert result.exit_code == 0
    assert "def run(self, function: Literal['f'], /, *, n: int = ...) -> list[P]: ..." in result.stdout
    assert ODD not in result.stdout


def test_environments_lie_with_the_data_unless_something_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENTS, raising=False)
    with monkeypatch.context() as patch:
        patch.setattr("os.environ", dict(os.environ))
        choose_environments(Path("/data"), is_off=False)
        assert os.environ[ENVIRONMENTS] == "/data/environments"
        choose_environments(Path("/other"), is_off=False)
        assert os.environ[ENVIRONMENTS] == "/data/environments"
        choose_environments(Path("/data"), is_off=True)
        assert os.environ[ENVIRONMENTS] == "off"
