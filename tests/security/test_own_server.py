"""The NATS server of `stoker up`. Before, any process of the machine could write the catalog."""

import stat
from pathlib import Path

import nats
import nats.errors
import psutil
import pytest

from stoker.services.bus.connection import open_bus
from stoker.services.bus.errors import CannotConnect
from stoker.services.process.embedded import embedded_server, find_binary, threads_of
from stoker.services.process.settings import BusSettings
from tests.conftest import System, free_port, wait_for

OLD_USERS = """\
listen: 127.0.0.1:{port}
jetstream {{ store_dir: "{store}" }}
authorization {{ users = [
  {{ user: gateway, password: pw, permissions: {{ publish: ["$JS.API.>", "_INBOX.>"], subscribe: ["_INBOX.>"] }} }}
] }}
"""


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_server_leaves_half_of_the_machine_to_everything_else_unless_told_otherwise() -> None:
    assert [threads_of(cores)["GOMAXPROCS"] for cores in (1, 2, 4, 64)] == ["1", "1", "2", "32"]


async def test_who_has_no_password_is_not_let_in(synthetic: System) -> None:
    address = "nats://" + synthetic.nats.rpartition("@")[2]
    with pytest.raises(nats.errors.Error):
        await nats.connect(address, allow_reconnect=False, max_reconnect_attempts=0, connect_timeout=2)
    with pytest.raises(CannotConnect) as refused:
        async with open_bus(BusSettings(nats=address.replace("//", "//stoker:wrong@")), "test"):
            pass
    assert "wrong" not in str(refused.value), "no password is in what is said"


def test_nobody_else_can_read_it(synthetic: System) -> None:
    assert mode_of(synthetic.data) == mode_of(synthetic.data / "nats") == 0o700
    for name in ("nats.url", "nats/nats.conf", "nats/password"):
        assert mode_of(synthetic.data / name) == 0o600, name
    password = synthetic.nats.split(":")[2].partition("@")[0]
    assert len(password) > 40
    for process in psutil.process_iter(["cmdline"]):
        assert password not in " ".join(process.info["cmdline"] or []), "a command line is everybody's to read"
    assert password not in synthetic.log.read_text()


async def test_a_folder_that_others_could_read_is_closed_and_the_password_stays(tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    for path in (tmp_path, tmp_path / "nats"):
        path.chmod(0o755)
    (tmp_path / "nats.url").write_text("nats://127.0.0.1:1")
    (tmp_path / "nats.url").chmod(0o644)
    urls = set()
    for _ in range(2):
        async with embedded_server(tmp_path, port := free_port()) as url:
            urls.add(url.replace(str(port), "PORT"))
            assert mode_of(tmp_path) == mode_of(tmp_path / "nats") == 0o700
            assert mode_of(tmp_path / "nats.url") == 0o600
    assert len(urls) == 1, "workers on this server come back to it"


async def test_users_of_an_earlier_version_are_said_with_what_to_do(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "nats.conf").write_text(OLD_USERS.format(port=port, store=tmp_path))
    server = psutil.Popen([find_binary(), "-c", str(tmp_path / "nats.conf"), "-l", str(tmp_path / "log")])
    try:
        wait_for(lambda: (tmp_path / "log").exists() and "is ready" in (tmp_path / "log").read_text(), 10)
        settings = BusSettings(nats=f"nats://127.0.0.1:{port}", nats_user="gateway", nats_password="pw")
        with pytest.raises(CannotConnect, match="is replaced by what `stoker users` prints"):
            async with open_bus(settings, "test", role="gateway"):
                pass
    finally:
        server.terminate()
        server.wait(10)
