"""A whole installation with the NATS users of deploy/nats, each service a process with its own user."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import nats
from nats.aio.client import Client

from stoker.services.process.embedded import find_binary
from stoker.services.process.settings import BusSettings
from tests.conftest import ROOT, free_port, is_ready, wait_for
from tests.waiting import eventually

PASSWORDS = {
    f"{user.upper()}_PASSWORD": f"pw-{user}"
    for user in ("gateway", "scheduler", "worker", "autoscaler", "client", "operator")
}
CATALOG = """\
models:
  echo: {engine: synthetic, options: {tokens: 8}}
  narrow: {engine: synthetic, options: {tokens: 4, token_interval_s: 0.05}, slots: 2}
  slow: {engine: synthetic, options: {tokens: 400, token_interval_s: 0.05}, slots: 64}
"""
START_S = 30.0
NOBODYS = "nobodys.subject"


@dataclass(slots=True)
class Installation:
    """Its processes by name; what they have written is in `folder`."""

    folder: Path
    nats: str = ""
    url: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def command(self, *arguments: str, **environment: str) -> str:
        """Run the `stoker` command to its end; what it says."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "stoker", *arguments],
            env={**os.environ, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str, *command: str, **environment: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command, env={**os.environ, **environment}, cwd=self.folder, stdout=log, stderr=log
            )

    def service(self, name: str, user: str, *arguments: str) -> None:
        """Start a service as a user with a password."""
        own = {"STOKER_NATS_USER": user, "STOKER_NATS_PASSWORD": f"pw-{user}"} if user else {}
        command = (sys.executable, "-P", "-m", "stoker", *arguments, "--nats", self.nats)
        self.start(name, *command, **own)

    def worker(self, name: str) -> None:
        """Start a worker as the user that it was invited as."""
        options = ("--engines", "synthetic", "--memory", "512MB", "--nats-nkey", f"{name}.nkey")
        self.service(name, "", "worker", "--name", name, *options)

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        process.wait(20)

    def settings(self, user: str) -> BusSettings:
        """How a user reaches NATS: one of the services, or an invited worker."""
        if f"{user.upper()}_PASSWORD" in PASSWORDS:
            return BusSettings(nats=self.nats, nats_user=user, nats_password=f"pw-{user}")
        return BusSettings(nats=self.nats, nats_nkey=str(self.folder / f"{user}.nkey"))

    def key(self, name: str, *options: str) -> dict[str, str]:
        """The header of a new API key."""
        said = self.command("keys", "create", name, *options, **self.as_operator())
        return {"Authorization": f"Bearer {said.split()[0]}"}

    def as_operator(self) -> dict[str, str]:
        return {
            "STOKER_NATS": self.nats, "STOKER_NATS_USER": "operator", "STOKER_NATS_PASSWORD": "pw-operator"
        }  # fmt: skip

    def violations(self) -> list[str]:
        """What the NATS server has refused to our own processes."""
        lines = (self.folder / "nats.log").read_text().splitlines()
        return [
            line for line in lines if "Violation" in line and '"stoker-' in line.replace(":stoker-", '"stoker-')
        ]


@contextmanager
def installed(folder: Path, *workers: str, gateway: tuple[str, ...] = ()) -> Iterator[Installation]:
    """NATS with its users, a gateway, a scheduler, an autoscaler, and invited workers."""
    found = Installation(folder)
    port = free_port()
    found.nats = f"nats://127.0.0.1:{port}"
    for file in ("nats.conf", "users.conf"):
        (folder / file).write_text((ROOT / "deploy" / "nats" / file).read_text())
    (folder / "catalog.yaml").write_text(CATALOG)
    for worker in workers:
        found.command("workers", "invite", worker, "--users", "users.conf")
    try:
        found.start(
            "nats", find_binary(), "--config", "nats.conf", NATS_NAME="n", NATS_STORE="store",
            NATS_LISTEN=f"127.0.0.1:{port}", **PASSWORDS,
        )  # fmt: skip
        wait_for(lambda: "Server is ready" in (folder / "nats.log").read_text(), START_S, "nats-server")
        found.command("install-streams", **found.as_operator())
        http = free_port()
        found.url = f"http://127.0.0.1:{http}"
        found.service("scheduler", "scheduler", "scheduler")
        options = ("--port", str(http), "--config", "catalog.yaml", "--publish", *gateway)
        found.service("gateway", "gateway", "gateway", *options)
        found.service("autoscaler", "autoscaler", "autoscaler", "--data", str(folder))
        for worker in workers:
            found.worker(worker)
        wait_for(lambda: is_ready(found.url), START_S, "the gateway")
        yield found
    finally:
        for process in reversed(found.processes.values()):
            process.terminate()
        for process in found.processes.values():
            process.wait(30)


class Intruder:
    """A bare NATS connection with a credential, and what it has heard and been refused."""

    def __init__(self, client: Client, refused: list[str]) -> None:
        self.client = client
        self.refused = refused
        self.heard: list[bytes] = []

    async def listen(self, *subjects: str) -> list[str]:
        """Subscribe to whatever the server allows of these; what it has refused."""
        before = len(self.refused)

        async def hear(message: Any) -> None:
            self.heard.append(message.subject.encode() + b" " + message.data)

        for subject in subjects:
            await self.client.subscribe(subject, cb=hear)
        await self._all_errors(before)
        return self.refused[before:-1]

    async def _all_errors(self, before: int) -> None:
        """Return when the server's word to all that was sent is here: nobody may publish there, so it is the last."""
        await self.client.publish(NOBODYS, b"")
        await eventually(lambda: any(NOBODYS in error for error in self.refused[before:]))

    async def api(self, subject: str, body: bytes = b"", seconds: float = 0.5) -> bytes:
        """What JetStream's API answers to this user; b"" where it does not."""
        try:
            answer = await self.client.request(f"$JS.API.{subject}", body, timeout=seconds)
        except (nats.errors.Error, TimeoutError):
            return b""
        return answer.data

    async def may_publish(self, subject: str, body: bytes = b"{}") -> bool:
        """Publish; whether the server has let it through."""
        before = len(self.refused)
        await self.client.publish(subject, body)
        await self._all_errors(before)
        return not any(subject.lower() in error for error in self.refused[before:])


async def intruding(settings: BusSettings, inbox: str) -> Intruder:
    """Connect with somebody's credential."""
    refused: list[str] = []

    async def on_error(error: Exception) -> None:
        refused.append(str(error).lower())

    who = {"user": settings.nats_user, "password": settings.nats_password} if settings.nats_user else {}
    if settings.nats_nkey:
        who = {"nkeys_seed": settings.nats_nkey}
    client = await nats.connect(settings.nats, error_cb=on_error, inbox_prefix=inbox, **who)
    return Intruder(client, refused)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def complete(url: str, headers: dict[str, str], prompt: str, **more: Any) -> httpx.Response:
    body = {"model": "narrow", "prompt": prompt, **more}
    return httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=30)
