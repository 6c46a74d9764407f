"""`stoker run FILE` with nothing running: a server is started, asked, found again, left alone when it is idle."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker import servers
from tests.conftest import DEMO, free_port, wait_for

CHAT = str(DEMO / "chat.gguf")
IDLE_S = "3"


class User:
    """Somebody with a home of their own who types commands."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        names = ("STOKER_URL", "STOKER_DATA", "STOKER_PROFILE")
        kept = {name: value for name, value in os.environ.items() if name not in names}
        self.environment = {
            **kept, "HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "XDG_CONFIG_HOME": str(home / "config"),
            "COLUMNS": "200", **environment,
        }  # fmt: skip

    def types(self, *arguments: str, given: str = "", is_good: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "stoker", *arguments], capture_output=True, text=True, timeout=100,
            input=given, cwd=self.home, env=self.environment, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) is is_good, done.stdout + done.stderr
        return done

    def address(self) -> tuple[str, int] | None:
        return servers.announced(self.home / "state" / "stoker" / "data")


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    found = User(tmp_path_factory.mktemp("home"))
    yield found
    found.types("stop")


def test_a_file_is_asked_with_nothing_configured(user: User) -> None:
    first = user.types("run", CHAT, "What is NATS?")
    assert "NATS is" in first.stdout and "\033" not in first.stdout + first.stderr
    assert "starting Stoker in the background" in first.stderr and "`stoker stop`" in first.stderr
    assert re.search(r"^\d+ tokens, \d+ tok/s, stop$", first.stderr, re.MULTILINE)
    again = user.types("run", CHAT, "What is NATS?")
    assert again.stdout == first.stdout and "starting" not in again.stderr
    assert not (user.home / ".stoker").exists() and not (user.home / "stoker.yaml").exists()


def test_everything_else_finds_the_same_server(user: User) -> None:
    user.types("run", CHAT, "Hi")
    assert "chat" in user.types("ps").stdout
    assert CHAT in user.types("list").stdout
    assert "completed" in user.types("jobs").stdout
    piped = user.types("run", "chat", "--max-tokens", "5", given="What is NATS?")
    assert piped.stdout.strip() and "5 tokens" in piped.stderr and "length" in piped.stderr
    talk = user.types("chat", "chat", given="What is NATS?\n/history\n/bye\n")
    assert "NATS is" in talk.stdout and "assistant: NATS is" in talk.stderr
    assert (
        "completed"
        in user.types("job", user.types("jobs", "--json").stdout.split('"id": "')[1].split('"')[0]).stdout
    )


def test_a_schema_is_kept_to(user: User, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}')
    answer = user.types("run", CHAT, "A number.", "--schema", str(schema), "--max-tokens", "64", "--seed", "1")
    assert re.match(r'\s*\{\s*"n"', answer.stdout)


def test_it_is_stopped_and_a_model_is_forgotten(user: User) -> None:
    user.types("run", CHAT, "Hi")
    assert user.address() is not None
    assert user.types("stop").stdout == "stopped\n"
    assert user.address() is None
    user.types("rm", "chat")
    assert CHAT not in user.types("list").stdout


@pytest.mark.slow
def test_it_ends_when_nobody_asks_any_more(tmp_path: Path) -> None:
    user = User(tmp_path, STOKER_BACKGROUND_IDLE_S=IDLE_S)
    user.types("run", CHAT, "Hi")
    wait_for(lambda: user.address() is None, 60, "the end of an idle server")
    assert "nothing was asked for 3 s" in (tmp_path / "state" / "stoker" / "server.log").read_text()
    user.types("run", "chat", "Hi")
    user.types("stop")


def test_the_time_without_a_request_begins_when_it_can_be_asked(tmp_path: Path) -> None:
    """On a port that is chosen: 0 is any that is free."""
    command = [sys.executable, "-P", "-m", "stoker", "up", "--port", "0", "--end-when-idle", "0.1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True)
    ready = re.search(r"ready on http://127\.0\.0\.1:[1-9]\d+ ", done.stderr)
    assert ready is not None and ready.start() < done.stderr.find("nothing was asked for 0.1 s")


@pytest.mark.slow
def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    user = User(tmp_path)
    models = tmp_path / "state" / "stoker" / "models.yaml"
    models.parent.mkdir(parents=True)
    models.write_text('{"models": {"chat": {"engine": "lama", "url": "x"}}}')
    told = user.types("run", "chat", "Hi", is_good=False)
    assert "did not start" in told.stderr and "unknown engine 'lama'" in told.stderr


@pytest.mark.slow
def test_up_without_a_configuration_says_that_it_serves_nothing(tmp_path: Path) -> None:
    user = User(tmp_path)
    user.environment.pop("NO_COLOR", None)
    log, data = tmp_path / "up.log", tmp_path / ".stoker"
    with log.open("wb") as output:
        command = [sys.executable, "-P", "-m", "stoker", "up", "--port", str(free_port())]
        system = subprocess.Popen(command, cwd=tmp_path, env=user.environment, stdout=output, stderr=output)
    try:
        wait_for(lambda: "ready on http://127.0.0.1:" in log.read_text(), 60, "a ready system")
        wait_for(lambda: "it serves no model" in log.read_text(), what="what it says")
        assert "stoker run FILE.gguf" in log.read_text() and "\033" not in log.read_text()
        assert user.types("models", "--json").stdout == "[]\n", "found by its data folder"
        assert servers.announced(data) is not None
    finally:
        system.terminate()
        system.wait(60)
    assert not (data / servers.ADDRESS_FILE).exists()
