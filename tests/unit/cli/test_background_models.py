"""The models of the background server, profiles, and what commands say of both; no server runs here."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stoker import servers
from stoker.cli import background
from stoker.cli.jobs import lines_of
from stoker.cli.main import app
from tests.conftest import DEMO
from tests.unit.cli.gateway import answering

CHAT = f"file://{DEMO / 'chat.gguf'}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stoker(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_file_is_taken_in_once_listed_and_forgotten() -> None:
    for _ in range(2):
        done = stoker("pull", str(DEMO / "chat.gguf"))
        assert done.output.startswith("chat: ask it with"), done.output
    assert background.models() == {"chat": {"engine": "llamacpp", "url": CHAT}}
    assert json.loads(stoker("list", "--json").stdout) == [
        {"name": "chat", "server": "background", "url": CHAT}
    ]
    assert "chat" in stoker("list").stdout
    assert stoker("rm", "chat").output == "removed chat\n"
    assert background.models() == {}
    again = stoker("rm", "chat")
    assert again.exit_code == 1 and "keeps no model 'chat'; it keeps none" in again.stderr


def test_other_weights_of_the_same_name_get_another(home: Path) -> None:
    for folder in ("a", "b"):
        (home / folder).mkdir()
        (home / folder / "m.gguf").write_bytes(b"x")
        stoker("pull", f"./{folder}/m.gguf")
    assert {name: entry["url"] for name, entry in background.models().items()} == {
        "m": f"file://{home}/a/m.gguf",
        "m-2": f"file://{home}/b/m.gguf",
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pull", "chat"), "neither a file nor a name of the hub"),
        (("pull", "./none.gguf"), "there is no file none.gguf"),
        (("pull", str(DEMO / "chat.gguf"), "--engine", "lama"), "there is no engine 'lama'"),
        (("run", "./none.gguf", "hi"), "there is no file none.gguf"),
        (("run", str(DEMO / "chat.gguf"), "hi", "--url", "http://127.0.0.1:9"), "leave --url"),
    ],
)
def test_what_is_no_model_is_said(arguments: tuple[str, ...], says: str) -> None:
    done = stoker(*arguments)
    assert done.exit_code == 2 and says in done.stderr, done.output
    assert background.models() == {}


def test_a_server_that_does_not_know_a_name_says_which_it_knows() -> None:
    with answering({"GET /v1/models": (200, {"data": [{"id": "a"}, {"id": "b"}]})}) as server:
        done = stoker("run", "c", "hi", "--url", server.url)
    assert done.exit_code == 1 and "has no model 'c'; it has a, b" in done.stderr


def test_a_file_that_is_damaged_is_named(home: Path) -> None:
    background.models_file().parent.mkdir(parents=True)
    background.models_file().write_text("{")
    done = stoker("list")
    assert done.exit_code == 2 and "mend it, or remove it" in done.stderr


def test_what_stops_it_says_that_it_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stoker("stop").output == "the background server does not run\n"
    monkeypatch.setenv(background.IDLE_VARIABLE, "soon")
    with pytest.raises(Exception, match="2"):
        background.idle_s()


def test_its_command_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_NATS", "nats://elsewhere")
    command = background.command(1234, 60.0)
    assert command[command.index("--port") + 1] == "1234"
    assert command[command.index("--end-when-idle") + 1] == "60"
    assert "--end-when-idle" not in background.command(1234, 0.0)
    assert "STOKER_NATS" not in background.environment()


def test_profiles_are_made_used_and_removed() -> None:
    assert stoker("profile", "add", "lab", "https://lab.example/", "--api-key", "sk-1").exit_code == 0
    assert stoker("profile", "use", "lab").output == "commands talk to https://lab.example\n"
    assert json.loads(stoker("profile", "list", "--json").stdout) == [
        {"name": "lab", "url": "https://lab.example", "has_key": True, "in_use": True}
    ]
    shown = stoker("profile", "list").stdout
    assert "https://lab.example (profile lab)" in shown and "sk-1" not in shown
    assert stoker("profile", "remove", "lab").output == "removed lab\n"
    assert servers.find().url == servers.DEFAULT_URL
    for arguments, says in (
        (("use", "lab"), "there is no profile 'lab'"),
        (("remove", "lab"), "there is no profile 'lab'"),
        (("add", "lab", "lab.example"), "begins with http:// or https://"),
    ):
        assert says in stoker("profile", *arguments).stderr


def test_a_profile_is_for_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(servers.PROFILE_VARIABLE, "")
    with answering({"GET /v1/fleet": (200, {"models": [], "workers": []})}) as server:
        stoker("profile", "add", "near", server.url, "--api-key", "sk-near")
        done = stoker("--profile", "near", "ps", "--json")
    assert (done.exit_code, done.stdout) == (0, "[]\n")
    assert server.asked[0][1]["Authorization"] == "Bearer sk-near"
    assert "no profile 'far'" in stoker("--profile", "far", "ps").stderr


def test_what_is_in_memory_is_shown() -> None:
    worker = {"worker": "w", "device": "cpu", "vram_models": ["a"], "ram_models": ["b"]}
    with answering({"GET /v1/fleet": (200, {"workers": [worker]})}) as server:
        found = json.loads(stoker("ps", "--url", server.url, "--json").stdout)
        assert [(one["model"], one["tier"]) for one in found] == [("a", "hot"), ("b", "parked")]
        assert "parked in RAM" in stoker("ps", "--url", server.url).stdout


@pytest.mark.parametrize("command", ["ps", "workers"])
def test_models_that_take_more_than_their_worker_has_are_told(command: str) -> None:
    worker = {"worker": "w", "profile": "cpu", "device": "cpu", "vram_models": ["big"]}
    worker |= {"memory_used_bytes": 2 * 10**9, "memory_total_bytes": 10**9}
    within = worker | {"worker": "v", "memory_used_bytes": 10**9}
    with answering({"GET /v1/fleet": (200, {"workers": [worker, within]})}) as server:
        shown = " ".join(stoker(command, "--url", server.url).stdout.split())
    assert shown.endswith("w: big: 2000 MB, more than the 1000 MB that it has (--memory)")
    assert "v: big" not in shown


def test_one_job_is_shown_with_its_end() -> None:
    job = {
        "id": "j", "model": "m", "status": "failed", "created_at": 1.0, "worker": "w", "attempt": 2, "finished_at": 2.0,
        "timings": {"queued_s": 0.5, "run_s": 1.0}, "error": {"kind": "load_failed", "message": "no file", "field": "url"},
    }  # fmt: skip
    with answering({"GET /v1/jobs/j": (200, job)}) as server:
        shown = stoker("job", "j", "--url", server.url).stdout
        assert json.loads(stoker("job", "j", "--url", server.url, "--json").stdout) == job
        assert stoker("job", "none", "--url", server.url).exit_code == 1
    for part in (
        "job j (m): failed",
        "w, attempt 2",
        "queued 0.50 s, run 1.00 s",
        "load_failed: no file (field url)",
    ):
        assert part in shown


@pytest.mark.parametrize(
    ("result", "last"),
    [
        ({"text": "hello"}, "hello"),
        ({"images": [{"url": "/v1/jobs/j/images/0", "seed": 7}]}, "picture  /v1/jobs/j/images/0 (seed 7)"),
        ([1], "[\n  1\n]"),
    ],
)
def test_a_result_is_shown_as_what_it_is(result: object, last: str) -> None:
    shown = lines_of({"id": "j", "model": "m", "status": "completed", "finished_at": 1.0, "result": result})
    assert shown[-1] == last
    assert "stoker cancel j" in lines_of({"id": "j", "model": "m", "status": "running"})[-1]
