"""Which server is meant: what is given, a profile, STOKER_URL, the data folder, the background server, the port."""

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from stoker import servers
from stoker.cli import on_bus
from stoker.client import Client

HERE, BACKGROUND, LAB = "http://127.0.0.1:1111", "http://127.0.0.1:2222", "https://lab.example"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of a user of this test's own."""
    for variable in (
        servers.URL_VARIABLE,
        servers.KEY_VARIABLE,
        servers.PROFILE_VARIABLE,
        servers.DATA_VARIABLE,
    ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_lab(use: str = "") -> None:
    servers.write_private(
        servers.profiles_file(), {"use": use, "profiles": {"lab": {"url": LAB + "/", "api_key": "sk-lab"}}}
    )


def test_the_last_word_has_who_is_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert servers.find() == servers.Server(servers.DEFAULT_URL, "the default port")
    servers.announce(servers.background_data(), BACKGROUND)
    assert servers.find().url == BACKGROUND
    with_lab(use="lab")
    assert servers.find() == servers.Server(LAB, "profile lab", "sk-lab")
    servers.announce(Path(servers.DATA), HERE)
    assert servers.find().url == HERE
    monkeypatch.setenv(servers.URL_VARIABLE, "http://given:1/")
    assert servers.find().url == "http://given:1"
    monkeypatch.setenv(servers.PROFILE_VARIABLE, "lab")
    assert servers.find().url == LAB


def test_a_data_folder_elsewhere_can_be_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers.announce(home / "elsewhere", HERE)
    assert servers.find().url == servers.DEFAULT_URL
    monkeypatch.setenv(servers.DATA_VARIABLE, str(home / "elsewhere"))
    assert servers.find().url == HERE


def test_one_that_has_ended_is_not_found(home: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    servers.write_private(home / servers.ADDRESS_FILE, {"url": HERE, "pid": ended.pid})
    assert servers.announced(home) is None
    servers.write_private(home / servers.ADDRESS_FILE, {"url": HERE, "pid": os.getpid()})
    assert servers.announced(home) == (HERE, os.getpid())


@pytest.mark.parametrize("content", ["", "[]", "{", '{"url": 1, "pid": 2}', '{"url": "x"}'])
def test_a_file_that_says_nothing_is_none(home: Path, content: str) -> None:
    (home / servers.ADDRESS_FILE).write_text(content)
    assert servers.announced(home) is None


@pytest.mark.parametrize(
    "url", ["https://evil.example", "http://192.0.2.1:8000", "http://localhost.evil.example", "x"]
)
def test_a_folder_of_somebody_else_sends_nobody_elsewhere(home: Path, url: str) -> None:
    servers.write_private(home / servers.ADDRESS_FILE, {"url": url, "pid": os.getpid()})
    assert servers.announced(home) is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[::1]:1"])
def test_addresses_of_this_machine_are_here(home: Path, url: str) -> None:
    servers.announce(home, url)
    assert servers.announced(home) == (url, os.getpid())


def test_only_who_has_announced_retracts(home: Path) -> None:
    servers.write_private(home / servers.ADDRESS_FILE, {"url": HERE, "pid": os.getppid()})
    servers.retract(home)
    assert (home / servers.ADDRESS_FILE).exists()
    servers.announce(home, HERE)
    servers.retract(home)
    assert not (home / servers.ADDRESS_FILE).exists()


def test_what_is_written_only_its_owner_can_read(home: Path) -> None:
    with_lab()
    assert servers.profiles_file().stat().st_mode & 0o777 == 0o600
    assert json.loads(servers.profiles_file().read_text())["profiles"]["lab"]["api_key"] == "sk-lab"
    assert [path.name for path in servers.profiles_file().parent.iterdir()] == ["profiles.json"]


def test_a_key_goes_to_its_own_server_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with_lab(use="lab")
    assert servers.api_key(LAB) == servers.api_key(LAB + "/") == "sk-lab"
    assert servers.api_key(HERE) == ""
    monkeypatch.setenv(servers.KEY_VARIABLE, "sk-all")
    assert servers.api_key(HERE) == "sk-all"


def test_a_profile_that_nobody_has_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_lab()
    monkeypatch.setenv(servers.PROFILE_VARIABLE, "lob")
    with pytest.raises(
        servers.NoSuchProfile, match=r"no profile 'lob' \(there are: lab\); `stoker profile add lob"
    ):
        servers.find()


def test_the_python_client_finds_the_same() -> None:
    servers.announce(Path(servers.DATA), HERE)
    with Client() as client:
        assert str(client._client.base_url).rstrip("/") == HERE
        assert "Authorization" not in client._client.headers
    with_lab()
    with Client(LAB) as client:
        assert client._client.headers["Authorization"] == "Bearer sk-lab"


def test_a_user_who_is_in_no_list_and_has_no_home_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """As containers run: `docker run --user 12345`, OpenShift."""

    def unknown(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for variable in ("HOME", "USER", "LOGNAME", "USERNAME", "LNAME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert servers.find().url == servers.DEFAULT_URL
    assert servers.profiles_file() == Path("/.config/stoker/profiles.json")
    assert on_bus.user() == f"user {os.getuid()}"
