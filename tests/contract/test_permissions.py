"""The NATS users of deploy/nats/users.conf: a system runs with them, and none can do what is not its work."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
from nats.js.errors import Error as JetStreamError

from schemas.subjects import CATALOG_BUCKET, KEYS_BUCKET, REPLICAS_BUCKET
from services.bus.connection import open_bus
from services.bus.leases import Lease
from services.bus.streams import declare
from services.gateway.gateway import Gateway
from services.process.embedded import find_binary
from services.process.settings import BusSettings
from services.process.tasks import TaskOwner
from services.scheduler.service import SchedulerService
from tests.conftest import ROOT, free_port, wait_for
from tests.waiting import eventually

USERS = ("gateway", "scheduler", "worker", "autoscaler", "operator")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[str]:
    port = free_port()
    environment = {f"{user.upper()}_PASSWORD": f"pw-{user}" for user in USERS}
    environment |= {"NATS_NAME": "test", "NATS_STORE": str(tmp_path / "store")}
    environment |= {"NATS_LISTEN": f"127.0.0.1:{port}"}
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            find_binary(), "--config", str(ROOT / "deploy/nats/nats.conf"), env={**os.environ, **environment},
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for(lambda: "Server is ready" in (tmp_path / "log").read_text(), 10, "nats-server")
        for user in USERS:
            async with open_bus(settings(f"nats://127.0.0.1:{port}", user), user) as bus:
                await declare(bus)
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


def settings(url: str, user: str) -> BusSettings:
    return BusSettings(nats=url, nats_user=user, nats_password=f"pw-{user}")


NOBODYS = "nobodys.subject"
PATIENCE_S = 10.0


class Client:
    """A connection as one user, and the permission errors that it has met."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.refused: list[str] = []

    async def open(self, url: str) -> Any:
        async def on_error(error: Exception) -> None:
            self.refused.append(str(error).lower())

        self.nats = await nats.connect(url, user=self.user, password=f"pw-{self.user}", error_cb=on_error)
        return self.nats

    async def is_refused(self, subject: str) -> bool:
        """Whether publishing there is a permission violation. Nobody may publish to NOBODYS: its error ends it."""
        self.refused.clear()
        await self.nats.publish(subject, b"{}")
        await self.nats.publish(NOBODYS, b"{}")
        await eventually(lambda: any(NOBODYS in error for error in self.refused), PATIENCE_S)
        return any("permissions violation" in error and subject.lower() in error for error in self.refused)


MUST_NOT = {
    "worker": [
        "stoker.jobs.m",
        "stoker.verdict.1.j",
        "stoker.ended.j",
        "stoker.worker.w.assign",
        "stoker.events.failed.x",
        "$KV.stoker_catalog.m",
    ],
    "gateway": [
        "stoker.worker.w.assign",
        "stoker.result.j",
        "stoker.result.g.j",
        "stoker.verdict.1.j",
        "stoker.finished.w",
        "$KV.stoker_replicas.m",
    ],
    "scheduler": ["stoker.jobs.m", "stoker.heartbeat.w", "$KV.stoker_catalog.m", "$KV.stoker_replicas.m"],
    "autoscaler": ["stoker.jobs.m", "stoker.worker.w.assign", "stoker.result.=.j", "$KV.stoker_catalog.m"],
}
MAY = {
    "worker": ["stoker.heartbeat.w", "stoker.out.g.j", "stoker.sent"],
    "gateway": ["stoker.cancel.j", "stoker.worker.w.cancel"],
    "scheduler": ["stoker.worker.w.assign", "stoker.queue.m"],
    "autoscaler": ["stoker.events.launched.x"],
}


@pytest.mark.parametrize("user", MUST_NOT)
async def test_a_service_publishes_its_own_subjects_and_no_others(server: str, user: str) -> None:
    client = Client(user)
    await client.open(server)
    assert [subject for subject in MAY[user] if await client.is_refused(subject)] == []
    assert [subject for subject in MUST_NOT[user] if not await client.is_refused(subject)] == []
    await client.nats.close()


async def can_read(server: str, user: str, bucket: str) -> bool:
    """Whether a user gets the value of a key that the operator has put."""
    operator = await Client("operator").open(server)
    await (await operator.jetstream().key_value(bucket)).put("x", b"secret")
    await operator.close()
    client = await Client(user).open(server)
    try:
        found = await (await client.jetstream(timeout=0.5).key_value(bucket)).get("x")
        return bool(found.value == b"secret")
    except (nats.errors.Error, JetStreamError, TimeoutError):
        return False
    finally:
        await client.close()


async def test_buckets_are_read_by_those_who_need_them(server: str) -> None:
    assert await can_read(server, "scheduler", CATALOG_BUCKET)
    assert await can_read(server, "autoscaler", REPLICAS_BUCKET)
    assert await can_read(server, "scheduler", REPLICAS_BUCKET)
    assert not await can_read(server, "worker", REPLICAS_BUCKET)
    for user in ("worker", "scheduler", "autoscaler"):
        assert not await can_read(server, user, KEYS_BUCKET), user


async def test_a_worker_cannot_read_the_queue_nor_delete_a_stream(server: str) -> None:
    client = await Client("worker").open(server)
    jetstream = client.jetstream(timeout=0.5)
    with pytest.raises((nats.errors.Error, JetStreamError, TimeoutError)):
        await jetstream.pull_subscribe("stoker.jobs.*", stream="STOKER_JOBS")
    with pytest.raises((nats.errors.Error, JetStreamError, TimeoutError)):
        await jetstream.delete_stream("STOKER_JOBS")
    await client.close()


async def test_a_gateway_and_a_scheduler_may_subscribe_to_all_that_they_listen_to(
    server: str, capfd: pytest.CaptureFixture[str]
) -> None:
    gateway_user, scheduler_user = settings(server, "gateway"), settings(server, "scheduler")
    async with open_bus(gateway_user, "gateway") as one, open_bus(scheduler_user, "scheduler") as two:
        gateway = Gateway(one, "g", 10, 10)
        scheduler = SchedulerService(two, Lease(1, float("inf")), "s")
        async with gateway.running(), TaskOwner("test") as tasks:
            tasks.start(scheduler.serve)
            stop = one.listen_now(one.subjects.ended("j"), lambda _: None)
            await eventually(lambda: not scheduler.core.is_settling, PATIENCE_S)
            await one.client.flush()
            stop()
    said = "".join(capfd.readouterr())
    assert "violation" not in said.lower(), said
