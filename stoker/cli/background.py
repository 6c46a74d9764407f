"""The background server: a `stoker up` of this user's own, for who has configured nothing.

It serves the models of a file of its own in the user's state folder (`stoker run FILE`, `stoker pull`),
listens on this machine only, and ends by itself when nobody has asked it for anything for IDLE_S. No file that
a user has written is changed.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from stoker import servers
from stoker.cli.app import call, fail

IDLE_S = 900.0
IDLE_VARIABLE = "STOKER_BACKGROUND_IDLE_S"
START_S, STOP_S, APPLIED_S = 60.0, 140.0, 30.0
POLL_S = 0.05
LOG_LINES = 12

Say = Callable[[str], None]


def idle_s() -> float:
    """After how many seconds without a request it ends."""
    try:
        return float(os.environ.get(IDLE_VARIABLE, IDLE_S))
    except ValueError:
        fail(f"{IDLE_VARIABLE} must be seconds, not {os.environ[IDLE_VARIABLE]!r}", 2)


def models_file() -> Path:
    """Its configuration. JSON, which is YAML too; `stoker pull` and `stoker rm` write it."""
    return servers.state_folder() / "models.yaml"


def log_file() -> Path:
    return servers.state_folder() / "server.log"


@contextmanager
def _locked() -> Iterator[None]:
    """One at a time starts the server or changes its models."""
    import fcntl

    servers.state_folder().mkdir(parents=True, exist_ok=True)
    with (servers.state_folder() / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def models() -> dict[str, dict[str, Any]]:
    """Its models as they are configured, by name."""
    try:
        found = json.loads(models_file().read_text())["models"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError) as error:
        fail(f"{models_file()} cannot be read ({error}): mend it, or remove it to begin again", 2)
    return dict(found)


def _write(entries: dict[str, dict[str, Any]]) -> None:
    servers.write_private(models_file(), {"models": entries})


def named(url: str, engine: str = "") -> str:
    """The name of the model that has these weights; "" where none has them."""
    for name, entry in models().items():
        if entry.get("url") == url and engine in ("", entry.get("engine")):
            return name
    return ""


def add(stem: str, entry: dict[str, Any]) -> str:
    """Make a model known, also to a server that runs; its name, which begins with `stem`."""
    with _locked():
        entries = models()
        name, number = stem, 2
        while name in entries and entries[name] != entry:
            name, number = f"{stem}-{number}", number + 1
        _change(entries, {**entries, name: entry})
    return name


def remove(name: str) -> None:
    """Forget a model."""
    with _locked():
        entries = models()
        if name not in entries:
            known = ", ".join(sorted(entries)) or "none"
            fail(f"the background server keeps no model {name!r}; it keeps {known}")
        _change(entries, {one: entry for one, entry in entries.items() if one != name})


def _change(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Write the models down and have a running server read them; what it refuses is taken back."""
    _write(after)
    if running := servers.announced(servers.background_data()):
        try:
            call("POST", running[0], "/api/modes/reload", timeout=APPLIED_S)
        except BaseException:
            _write(before)
            raise


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(port: int, idle: float) -> list[str]:
    """What starts it."""
    if not models_file().exists():
        _write({})
    given = [sys.executable, "-P", "-m", "stoker", "up", "--config", str(models_file())]
    given += ["--data", str(servers.background_data()), "--port", str(port), "--log-level", "warning"]
    return [*given, "--end-when-idle", f"{idle:g}"] if idle else given


def environment() -> dict[str, str]:
    """This one's, without what would lead it to another NATS server."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("STOKER_NATS")}
    return {**own, "NO_COLOR": "1"}


def ensure(say: Say) -> str:
    """The URL of the background server, which is started where it does not run."""
    if running := servers.announced(servers.background_data()):
        return running[0]
    with _locked():
        if running := servers.announced(servers.background_data()):  # somebody else has started it
            return running[0]
        idle = idle_s()
        ends = f"it ends after {idle / 60:g} min without a request; " if idle else ""
        say(f"starting Stoker in the background; {ends}`stoker stop` stops it")
        with log_file().open("wb") as log:
            process = subprocess.Popen(
                command(_free_port(), idle), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, cwd=servers.state_folder(), env=environment(),
            )  # fmt: skip
        return _started(process)


def _started(process: "subprocess.Popen[bytes]") -> str:
    """Its URL once it answers. Ends the program where it does not."""
    deadline = time.monotonic() + START_S
    while not (running := servers.announced(servers.background_data())):
        if time.monotonic() > deadline or process.poll() is not None:
            _not_started(process)
        time.sleep(POLL_S)
    return running[0]


def _not_started(process: "subprocess.Popen[bytes]") -> NoReturn:
    last = "\n".join(log_file().read_text(errors="replace").splitlines()[-LOG_LINES:])
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    fail(f"the background server did not start; its log {log_file()} ends with\n{last}", 2)


def stop() -> bool:
    """End it; False where it does not run."""
    running = servers.announced(servers.background_data())
    if running is None:
        return False
    os.kill(running[1], signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while servers.announced(servers.background_data()):
        if time.monotonic() > deadline:
            fail(f"the background server (process {running[1]}) does not end; see {log_file()}")
        time.sleep(POLL_S)
    return True
