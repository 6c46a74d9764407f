"""The server configurations of deploy/nats: TLS with certificates from the script, and three servers as one."""

import asyncio
import io
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from nats.js.api import StreamInfo

from stoker.schemas.subjects import JOBS_STREAM
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.errors import BusError, CannotConnect
from stoker.services.bus.permissions import services
from stoker.services.bus.snapshots import messages_in
from stoker.services.bus.streams import declare, stream_configs
from stoker.services.process.embedded import find_binary
from stoker.services.process.settings import BusSettings
from stoker.services.records.backups import Archive, load, save
from stoker.services.records.installation import install
from tests.conftest import ROOT, free_port, wait_for

NATS = ROOT / "deploy" / "nats"
PASSWORDS = {
    f"{user}_PASSWORD": f"pw{user.lower()}"
    for user in ("GATEWAY", "SCHEDULER", "WORKER", "AUTOSCALER", "OPERATOR", "CLIENT")
}
WORD = "Server is ready"


@contextmanager
def server(folder: Path, config: str, port: int, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir(parents=True, exist_ok=True)
    environment |= PASSWORDS | {"NATS_NAME": folder.name, "NATS_STORE": str(folder / "store")}
    environment |= {"NATS_LISTEN": f"127.0.0.1:{port}"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [find_binary(), "--config", str(NATS / config)],
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(20)


def operator(url: str, **more: str) -> BusSettings:
    return BusSettings(nats=url, nats_user="operator", nats_password="pwoperator", **more)


async def test_the_operator_may_save_and_restore_and_no_service_may(tmp_path: Path) -> None:
    port = free_port()
    url = f"nats://127.0.0.1:{port}"
    with server(tmp_path / "n", "nats.conf", port):
        wait_for(lambda: WORD in (tmp_path / "n" / "log").read_text(), 10, "nats-server")
        content = io.BytesIO()
        async with open_bus(operator(url), "operator") as bus:
            await install(bus)
            await store(bus, b"kept")
            await save(bus, content, None, lambda _: None)
        content.seek(0)
        async with open_bus(operator(url), "operator") as bus:
            await load(bus, Archive(content), lambda _: None, is_forced=True)
            assert await messages_in(bus, JOBS_STREAM) == 1
    for user, permissions in services().items():
        asked = [one for one in permissions.published() if one.startswith("$JS") or one in (">", "*")]
        assert not [
            one for one in asked if re.search(r"SNAPSHOT|RESTORE|STREAM\.DELETE|API\.[>*]|STREAM\.[>*]", one)
        ], user


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
async def test_tls_with_certificates_of_the_script(tmp_path: Path) -> None:
    made = tmp_path / "certificates"
    await anyio.run_process([str(NATS / "make-certificates.sh"), str(made), "nats.example", "10.0.0.7"])
    assert (made / "server-key.pem").stat().st_mode & 0o077 == 0
    shown = ["openssl", "x509", "-in", str(made / "server.pem"), "-noout", "-text"]
    text = (await anyio.run_process(shown)).stdout.decode()
    assert "DNS:localhost, IP Address:127.0.0.1, DNS:nats.example, IP Address:10.0.0.7" in text
    files = {"NATS_CERT": "server.pem", "NATS_KEY": "server-key.pem", "NATS_CA": "ca.pem"}
    environment = {name: str(made / file) for name, file in files.items()}
    port = free_port()
    url = f"tls://127.0.0.1:{port}"
    own = {"nats_cert": str(made / "client.pem"), "nats_key": str(made / "client-key.pem")}
    with server(tmp_path / "n", "tls.conf", port, **environment, NATS_VERIFY="true"):
        wait_for(lambda: WORD in (tmp_path / "n" / "log").read_text(), 10, "nats-server")
        async with open_bus(operator(url, nats_ca=str(made / "ca.pem"), **own), "test") as bus:
            await declare(bus)
        for fewer in ({}, {"nats_ca": str(made / "ca.pem")}):
            with pytest.raises(CannotConnect):
                async with open_bus(operator(url, **fewer), "test", 2.0):
                    pass


async def store(bus: Bus, content: bytes) -> None:
    """Store a message, as soon as the stream has a leader."""
    async with asyncio.timeout(40):
        while True:
            try:
                await bus.publish_stored(bus.subjects.job("m"), content, message_id=content.decode())
                return
            except BusError:
                await asyncio.sleep(0.2)


async def copied(bus: Bus) -> StreamInfo:
    """What the server says of the jobs' stream once both copies of it hold all that the leader has."""
    async with asyncio.timeout(40):
        while True:
            info = await bus.jetstream.stream_info(JOBS_STREAM)
            copies = info.cluster.replicas or []
            if len(copies) == 2 and all(copy.current for copy in copies):
                return info
            await asyncio.sleep(0.2)


@contextmanager
def three_servers(
    folder: Path, config: str, **more: Sequence[str]
) -> Iterator[tuple[dict[str, subprocess.Popen[bytes]], BusSettings]]:
    """Three servers as one, by name, and how the operator reaches them. more: variables, one value for each server."""
    ports = [free_port() for _ in range(3)]
    routes = [free_port() for _ in range(3)]
    environment = {"NATS_ROUTE_PASSWORD": "pwroute"}
    environment |= {
        f"NATS_ROUTE_{n + 1}": f"nats://route:pwroute@127.0.0.1:{port}" for n, port in enumerate(routes)
    }
    with ExitStack() as running:
        processes = {
            f"n{n}": running.enter_context(
                server(
                    folder / f"n{n}",
                    config,
                    port,
                    **environment,
                    **{name: values[n] for name, values in more.items()},
                    NATS_CLUSTER_LISTEN=f"127.0.0.1:{routes[n]}",
                )
            )
            for n, port in enumerate(ports)
        }
        wait_for(lambda: all(WORD in (folder / n / "log").read_text() for n in processes), 20, "three servers")
        yield processes, operator(",".join(f"nats://127.0.0.1:{port}" for port in ports))


@pytest.mark.slow
async def test_three_servers_go_on_without_the_one_that_led(tmp_path: Path) -> None:
    with three_servers(tmp_path, "cluster.conf") as (processes, settings):
        async with open_bus(settings, "alone") as alone:
            await declare(alone)
        replicated = BusSettings(**{**_fields(settings), "nats_replicas": 3})
        async with open_bus(replicated, "test") as bus:
            await declare(bus)  # upgrades what was declared for one
            for config in stream_configs(bus.subjects):
                assert (await bus.jetstream.stream_info(config.name)).config.num_replicas == 3
            await store(bus, b"kept")
            info = await copied(bus)
            processes[info.cluster.leader].send_signal(signal.SIGKILL)
            await store(bus, b"later")
            after = await bus.jetstream.stream_info(JOBS_STREAM)
            assert after.cluster.leader != info.cluster.leader
            assert after.state.messages == 2
            assert (await bus.jetstream.get_msg(JOBS_STREAM, 1)).data == b"kept"


@pytest.mark.slow
async def test_a_server_in_a_pod_is_asked_whether_it_is_well_and_leaves_slowly(tmp_path: Path) -> None:
    """As the kubelet ends it: preStop has the clients go to the others, and the SIGTERM that follows says nothing more."""
    https = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    pids = [str(tmp_path / f"n{n}.pid") for n in range(3)]
    with three_servers(tmp_path, "kubernetes.conf", NATS_HTTP=https, NATS_PID=pids) as (processes, settings):
        async with httpx.AsyncClient(trust_env=False) as http:
            for address in https:
                asked = await http.get(f"http://{address}/healthz?js-server-only=true")
                assert asked.json() == {"status": "ok"}
        replicated = BusSettings(**{**_fields(settings), "nats_replicas": 3})
        async with open_bus(replicated, "test") as bus:
            await declare(bus)
            await store(bus, b"kept")
            leader = (await copied(bus)).cluster.leader
            await anyio.run_process([find_binary(), "--signal", f"ldm={tmp_path / leader}.pid"])
            processes[leader].terminate()
            await asyncio.sleep(0.5)
            assert processes[leader].poll() is None
            await store(bus, b"later")
            await asyncio.to_thread(processes[leader].wait, 50)
            assert (await bus.jetstream.stream_info(JOBS_STREAM)).state.messages == 2


def _fields(settings: BusSettings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in settings.__struct_fields__}
