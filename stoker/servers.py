"""Which server a command or a client talks to. Standard library only: every command asks this first.

In this order: what is given (`--url`, `Client(url)`); the profile of `--profile` or STOKER_PROFILE; STOKER_URL;
the server of the data folder here (`.stoker`, or STOKER_DATA), which `stoker up` has written into it; the
profile in use (`stoker profile use NAME`); the background server of `stoker run`; port 8000 of this machine.
"""

import json
import os
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE, KEY_VARIABLE, PROFILE_VARIABLE = "STOKER_URL", "STOKER_API_KEY", "STOKER_PROFILE"
DATA_VARIABLE = "STOKER_DATA"
DATA = ".stoker"
ADDRESS_FILE = "gateway.json"
"""In a data folder: {url, pid} of the `stoker up` that runs there."""
ONLY_OURS = 0o600


class NoSuchProfile(LookupError):
    """A profile is asked for that nobody has made; the message says which there are."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server, and why this one."""

    url: str
    found_by: str
    api_key: str = ""


def _folder(variable: str, *default: str) -> Path:
    base = os.environ.get(variable, "")
    try:
        home = Path.home()
    except RuntimeError:  # a user of a container, who is in no list and has no HOME: as Docker says then
        home = Path("/")
    return (Path(base) if base else home.joinpath(*default)) / "stoker"


def state_folder() -> Path:
    """Where the background server keeps what it has."""
    return _folder("XDG_STATE_HOME", ".local", "state")


def profiles_file() -> Path:
    return _folder("XDG_CONFIG_HOME", ".config") / "profiles.json"


def data_folder() -> Path:
    """The data folder of `stoker up` here."""
    return Path(os.environ.get(DATA_VARIABLE) or DATA)


def background_data() -> Path:
    """The data folder of the background server."""
    return state_folder() / "data"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of somebody else
        return True
    return True


def _content(file: Path) -> dict[str, Any]:
    """A JSON object in a file; nothing where it is not there, or is none."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_private(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON object that only this user can read; a reader sees the one of before or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_name(f"{file.name}.{os.getpid()}")
    handle = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, ONLY_OURS)
    with os.fdopen(handle, "w") as opened:
        json.dump(content, opened, indent=2)
        opened.write("\n")
    written.replace(file)


def announce(data: Path, url: str) -> None:
    """Say in a data folder where its gateway is."""
    write_private(data / ADDRESS_FILE, {"url": url, "pid": os.getpid()})


def retract(data: Path) -> None:
    """This process serves there no longer."""
    if _content(data / ADDRESS_FILE).get("pid") == os.getpid():
        (data / ADDRESS_FILE).unlink(missing_ok=True)


def announced(data: Path) -> tuple[str, int] | None:
    """URL and process of the `stoker up` that runs with a data folder; None where none does."""
    found = _content(data / ADDRESS_FILE)
    url, pid = found.get("url"), found.get("pid")
    if not isinstance(url, str) or not isinstance(pid, int) or not _is_alive(pid) or not _is_here(url):
        return None
    return url, pid


def _is_here(url: str) -> bool:
    """Whether a URL names an address of this machine.

    The file may come with a folder that somebody else has made: no request, and no API key, goes elsewhere.
    """
    try:
        host = urlsplit(url).hostname or ""
        address = ip_address(host)
        with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except (OSError, ValueError):
        return False
    return True


def profiles() -> dict[str, Any]:
    """{"use": name or "", "profiles": {name: {"url", "api_key"}}}."""
    found = _content(profiles_file())
    known = found.get("profiles")
    return {"use": str(found.get("use", "")), "profiles": known if isinstance(known, dict) else {}}


def profile(name: str) -> Server:
    """Raises NoSuchProfile."""
    known = profiles()["profiles"]
    if name not in known:
        there = ", ".join(sorted(known)) or "none yet"
        raise NoSuchProfile(
            f"there is no profile {name!r} (there are: {there}); `stoker profile add {name} URL`"
        )
    return Server(known[name]["url"].rstrip("/"), f"profile {name}", known[name].get("api_key", ""))


def find() -> Server:
    """The server that is meant where nobody gives a URL. Raises NoSuchProfile."""
    if name := os.environ.get(PROFILE_VARIABLE):
        return profile(name)
    if url := os.environ.get(URL_VARIABLE):
        return Server(url.rstrip("/"), URL_VARIABLE)
    if here := announced(data_folder()):
        return Server(here[0], f"the data folder {data_folder()}")
    if name := profiles()["use"]:
        return profile(name)
    if background := announced(background_data()):
        return Server(background[0], "the background server")
    return Server(DEFAULT_URL, "the default port")


def api_key(url: str) -> str:
    """The API key for a server: that of STOKER_API_KEY, or of a profile that has this address. "" = none."""
    if key := os.environ.get(KEY_VARIABLE, ""):
        return key
    for known in profiles()["profiles"].values():
        if known["url"].rstrip("/") == url.rstrip("/"):
            return str(known.get("api_key", ""))
    return ""
