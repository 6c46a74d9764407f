"""Every way to reach a NATS server: password, NKey, TLS; and what is said when it cannot be reached."""

import asyncio
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import nkeys
import psutil
import pytest

from stoker.services.bus.connection import HANDSHAKE_TIMEOUT_S, open_bus
from stoker.services.bus.errors import CannotConnect
from stoker.services.process.embedded import embedded_server, find_binary, free_port
from stoker.services.process.settings import BusSettings
from tests.conftest import wait_for

StartServer = Callable[[str], int]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts nats-server with more lines of configuration; gives its port."""
    running: list[subprocess.Popen[bytes]] = []

    def start(lines: str) -> int:
        port = free_port()
        config = tmp_path / "nats.conf"
        config.write_text(f"listen: 127.0.0.1:{port}\njetstream {{ store_dir: '{tmp_path}/js' }}\n{lines}\n")
        running.append(subprocess.Popen([find_binary(), "-c", str(config)], stderr=subprocess.DEVNULL))
        return port

    yield start
    for process in running:
        process.terminate()
        process.wait(10)


async def reaches(settings: BusSettings) -> bool:
    async with open_bus(settings, "test") as bus:
        await bus.client.flush()
        return bus.is_connected


async def is_refused(settings: BusSettings, match: str = "NATS", wait_s: float = 30.0) -> bool:
    with pytest.raises(CannotConnect, match=match):
        async with open_bus(settings, "test", wait_s):
            pass
    return True


async def test_with_a_user_and_a_password(start_server: StartServer) -> None:
    url = f"nats://127.0.0.1:{start_server('authorization { user: ada, password: secret }')}"
    assert await reaches(BusSettings(nats=url, nats_user="ada", nats_password="secret"))
    assert await is_refused(BusSettings(nats=url, nats_user="ada", nats_password="wrong"), "refused")


async def test_with_an_nkey(start_server: StartServer, tmp_path: Path) -> None:
    pair = nkeys.from_seed(nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER))
    seed = tmp_path / "user.nk"
    seed.write_bytes(bytes(pair.seed))
    port = start_server(f"authorization {{ users: [ {{ nkey: {pair.public_key.decode()} }} ] }}")
    assert await reaches(BusSettings(nats=f"nats://127.0.0.1:{port}", nats_nkey=str(seed)))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
async def test_over_tls(start_server: StartServer, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -keyout {key} -out {certificate}"
    extra = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    await anyio.run_process([*command.split(), *extra])
    port = start_server(f"tls {{ cert_file: '{certificate}', key_file: '{key}' }}")
    assert await reaches(BusSettings(nats=f"tls://127.0.0.1:{port}", nats_ca=str(certificate)))
    assert await is_refused(BusSettings(nats=f"tls://127.0.0.1:{port}"), wait_s=1.0)


async def test_a_server_that_is_stopped_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    """A worker that was started in a pause of NATS ended after three seconds."""
    async with embedded_server(tmp_path) as url:
        nats = psutil.Process(int((tmp_path / "nats" / "pid").read_text()))
        nats.suspend()
        connecting = asyncio.create_task(reaches(BusSettings(nats=url)))
        await asyncio.sleep(HANDSHAKE_TIMEOUT_S + 1.0)
        assert not connecting.done()
        nats.resume()
        assert await asyncio.wait_for(connecting, 10)


async def test_one_that_says_nothing_is_given_up_in_the_end(tmp_path: Path) -> None:
    async with embedded_server(tmp_path) as url:
        nats = psutil.Process(int((tmp_path / "nats" / "pid").read_text()))
        nats.suspend()
        assert await is_refused(BusSettings(nats=url), "refused", wait_s=0.5)
        nats.resume()


async def test_no_server_says_what_to_do() -> None:
    assert await is_refused(BusSettings(nats=f"nats://127.0.0.1:{free_port()}"), "stoker up", wait_s=0.2)


@pytest.mark.parametrize("service", ["gateway", "scheduler", "worker", "autoscaler"])
def test_a_service_that_looks_for_nats_stops_when_told_to(service: str) -> None:
    command = [
        sys.executable,
        "-P",
        "-m",
        f"stoker.services.{service}",
        "--nats",
        f"nats://127.0.0.1:{free_port()}",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: handles_sigterm(process.pid), 20, "its handler of SIGTERM")
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
    assert b"told to stop while it looked for NATS" in (process.stderr.read() if process.stderr else b"")


def handles_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    [caught] = re.findall(r"SigCgt:\s*([0-9a-f]+)", status)
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)
