"""Autoscalers on one real NATS server: an earlier leader orders nothing more, whatever its clock says."""

import asyncio
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import msgspec
import psutil
import pytest

from stoker.schemas import wire
from stoker.schemas.catalog import Gpu, Model, ResourceProfile, Spec
from stoker.schemas.fleet import ModelReplicas, QueueDepth, SpecReplicas
from stoker.schemas.subjects import REPLICAS_BUCKET
from stoker.services.autoscaler.events import Ticked
from stoker.services.autoscaler.launchers.process import CLUSTER, REPLICA
from stoker.services.autoscaler.records import FENCE_KEY, ReplicaRecords
from stoker.services.autoscaler.replaying import CORE, replayed
from stoker.services.autoscaler.service import AutoscalerService
from stoker.services.bus.buckets import open_bucket
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import Conflict
from stoker.services.bus.leases import Lease
from stoker.services.bus.streams import declare
from stoker.services.catalog import store
from stoker.services.process.recording import read_head
from stoker.services.process.tasks import TaskOwner
from stoker.services.records.replicas import watch_replicas
from tests.contract.conftest import Connect
from tests.contract.launcher_conformance import NOWHERE
from tests.fixtures.gateway_app import soon

PROFILE = ResourceProfile("cpu", "process")


def model(name: str) -> Model:
    spec = Spec(
        name="s",
        engine="synthetic",
        url="",
        profile="cpu",
        launcher="process",
        target_requests=1,
        max_replicas=1,
    )
    return Model(name=name, features=("TextGeneration",), specs=(spec,))


class Cluster:
    """Real worker processes of one test, by their marks."""

    def __init__(self, folder: Path) -> None:
        self.name = f"test-{folder.name}-{os.getpid()}"
        self.folder = folder

    def processes(self) -> dict[str, psutil.Process]:
        found: dict[str, psutil.Process] = {}
        for process in psutil.process_iter():
            try:
                marks = process.environ()
                if marks.get(CLUSTER) == self.name and os.getsid(process.pid) == process.pid:
                    found[marks[REPLICA]] = process
            except (psutil.Error, OSError):
                continue
        return found

    def terms(self) -> list[int]:
        """The terms of the leaders that launched what runs: a replica's name has it."""
        return sorted(int(name.rsplit("-", 2)[1], 16) for name in self.processes())

    def service(
        self, bus: Bus, term: int, trusted_until: float = math.inf, record: Path | None = None
    ) -> AutoscalerService:
        """A leader who trusts its lease for ever, as one does whose clock stands still."""
        environment = {"STOKER_NATS": NOWHERE}
        return AutoscalerService(bus, Lease(term, trusted_until), self.name, self.folder, environment, record)


@pytest.fixture
def cluster(tmp_path: Path) -> "AsyncIterator[Cluster]":
    found = Cluster(tmp_path)
    yield found  # type: ignore[misc]  # a generator is what pytest wants
    for process in found.processes().values():
        process.kill()


@asynccontextmanager
async def leading(service: AutoscalerService) -> AsyncIterator[AutoscalerService]:
    stopping = asyncio.Event()
    async with TaskOwner("test") as tasks:
        tasks.start(service.serve, stopping)
        await soon(lambda: service.core.is_settled or service.lease.lost.is_set())
        try:
            yield service
        finally:
            stopping.set()
            await service.close()


def ask_for(bus: Bus, name: str, requests: int) -> None:
    bus.tell(bus.subjects.queue(name), QueueDepth(name, requests, 0))


async def asked_for(bus: Bus, name: str, requests: int, cluster: Cluster, count: int) -> None:
    """Tell the queue's depth until so many processes run."""

    def is_so() -> bool:
        ask_for(bus, name, requests)
        return len(cluster.processes()) == count

    await soon(is_so, f"{count} processes")


async def test_a_leader_whose_lease_was_stolen_launches_nothing_more(
    connected: Connect, cluster: Cluster
) -> None:
    """It knows nothing of its successor, and its clock says that it still leads."""
    async with connected("first") as one, connected("second") as two:
        await declare(one)
        await store.publish(one, [model("known"), model("new")], [PROFILE])
        async with leading(cluster.service(one, 10)) as first:
            await asked_for(one, "known", 1, cluster, 1)
            assert cluster.terms() == [10]
            async with leading(cluster.service(two, 20)) as second:
                assert not first.lease.lost.is_set()
                await asked_for(one, "new", 1, cluster, 2)
                await asyncio.wait_for(first.lease.lost.wait(), 20)
                assert cluster.terms() == [10, 20]
                assert not second.lease.lost.is_set()
                assert second.core.models["known"].replicas.keys() == first.core.models["known"].replicas.keys()


@pytest.mark.parametrize(("gpu", "expected"), [(None, ("8000", None)), (Gpu(count=2), (None, "2"))])
async def test_the_memory_of_a_profile_is_no_gpus(
    connected: Connect, cluster: Cluster, gpu: Gpu | None, expected: tuple[str | None, str | None]
) -> None:
    """A worker on an L4 of 24 GB took the 64 GB of its machine for the card's."""
    profile = msgspec.structs.replace(PROFILE, memory_bytes=8000, gpu=gpu)
    async with connected("only") as bus:
        await declare(bus)
        await store.publish(bus, [model("m")], [profile])
        async with leading(cluster.service(bus, 10)):
            await asked_for(bus, "m", 1, cluster, 1)
            [process] = cluster.processes().values()
            words = process.cmdline()
    told = dict(pairwise(words))
    assert (told.get("--memory"), told.get("--gpus")) == expected


async def test_a_leader_that_does_not_trust_its_lease_orders_nothing(
    connected: Connect, cluster: Cluster
) -> None:
    async with connected() as bus:
        await declare(bus)
        await store.publish(bus, [model("m")], [PROFILE])
        async with leading(cluster.service(bus, 10, trusted_until=0.0)) as service:

            def is_over() -> bool:
                ask_for(bus, "m", 1)
                return service.lease.lost.is_set()

            await soon(is_over, "the end of its term")
        assert cluster.processes() == {}
        async with leading(cluster.service(bus, 20)):  # what was recorded and never launched is made good
            await asked_for(bus, "m", 1, cluster, 1)
        assert cluster.terms() == [20]


async def test_a_recorded_leader_is_replayed_without_a_difference(
    connected: Connect, cluster: Cluster, tmp_path: Path
) -> None:
    async with connected() as bus:
        await declare(bus)
        await store.publish(bus, [model("m")], [PROFILE])
        async with leading(cluster.service(bus, 10, record=tmp_path / "run")):
            await asked_for(bus, "m", 1, cluster, 1)
    with (tmp_path / "run.autoscaler.10").open("rb") as lines:
        head = read_head(lines)
        steps = list(lines)
    assert (head.core, head.term) == (CORE, 10)
    assert any(b'"Launch m-' in step for step in steps)
    assert list(replayed(head, iter(steps))) == []


async def test_everything_of_an_earlier_leader_is_refused_from_the_take_over_on(connected: Connect) -> None:
    async with connected("first") as one, connected("second") as two:
        await declare(one)
        first, second = ReplicaRecords(one), ReplicaRecords(two)
        await first.take_over()
        await first.write(ModelReplicas("m", (), 1.0))
        await first.write(ModelReplicas("other", (), 1.0))
        await first.remove("other")
        await second.take_over()
        assert [record.model for record in await second.read()] == ["m"]
        for write in (first.write(ModelReplicas("m", (), 2.0)), first.write(ModelReplicas("n", (), 2.0))):
            with pytest.raises(Conflict):
                await write
        with pytest.raises(Conflict):
            await first.remove("m")
        await second.write(ModelReplicas("m", (), 3.0))
        assert [record.updated_at for record in await second.read()] == [3.0]


async def test_who_reads_along_sees_no_fence_and_every_record(connected: Connect) -> None:
    seen: dict[str, ModelReplicas | None] = {}
    async with connected() as bus, TaskOwner("test") as tasks:
        await declare(bus)
        records = ReplicaRecords(bus)
        await records.take_over()
        await records.write(ModelReplicas("a", (), 1.0))
        tasks.start(watch_replicas, bus, seen.__setitem__)
        await soon(lambda: seen)
        await records.take_over()
        await records.write(ModelReplicas("a/b c.d", (SpecReplicas("s", 1, 0),), 2.0))
        await records.remove("a")
        await soon(lambda: len(seen) == 2 and seen["a"] is None)
        assert seen["a/b c.d"] == ModelReplicas("a/b c.d", (SpecReplicas("s", 1, 0),), 2.0)
        assert FENCE_KEY not in await (await open_bucket(bus, REPLICAS_BUCKET)).keys()


async def test_a_record_that_cannot_be_read_is_left_out(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        bucket = await open_bucket(bus, REPLICAS_BUCKET)
        await bucket.put("bad", b"{")
        await bucket.put("other", wire.encode(ModelReplicas("x" * 5000, (), 1.0)))
        records = ReplicaRecords(bus)
        await records.take_over()
        await records.write(ModelReplicas("m", (), 1.0))
        assert [record.model for record in await records.read()] == ["m"]


async def test_all_records_are_read_in_one_listing(connected: Connect) -> None:
    """A new leader asked for each record by itself, one after the other."""
    async with connected() as bus:
        await declare(bus)
        records = ReplicaRecords(bus)
        await records.take_over()
        for number in range(50):
            await records.write(ModelReplicas(f"m{number}", (), 1.0))
        await records.remove("m7")
        asked = bus.client.stats["out_msgs"]
        read = await records.read()
        assert bus.client.stats["out_msgs"] - asked <= 5
        assert [one.model for one in read] == [f"m{number}" for number in range(50) if number != 7]


async def test_a_core_that_lags_is_given_one_tick(connected: Connect, cluster: Cluster) -> None:
    async with connected() as bus:
        await declare(bus)
        service = cluster.service(bus, 10)
        async with TaskOwner("test") as tasks:
            tasks.start(service._tick)  # nobody takes anything out of the inbox
            await asyncio.sleep(1.8)
            assert service._inbox.qsize() == 1
            await service._step(service._inbox.get_nowait())
            await soon(lambda: service._inbox.qsize() == 1)
            assert isinstance(service._inbox.get_nowait(), Ticked)


async def test_a_restarted_autoscaler_finds_its_replicas_and_stops_what_is_not_recorded(
    connected: Connect, cluster: Cluster
) -> None:
    async with connected() as bus:
        await declare(bus)
        await store.publish(bus, [model("m")], [PROFILE])
        async with leading(cluster.service(bus, 10)):
            await asked_for(bus, "m", 1, cluster, 1)
        before = cluster.processes().keys()
        assert len(before) == 1
        async with leading(cluster.service(bus, 20)) as second:
            assert second.core.models["m"].replicas.keys() == before
            await second.stop_all()
            assert cluster.processes() == {}
        entry = await (await open_bucket(bus, REPLICAS_BUCKET)).get("m")
        assert entry is not None
        assert wire.decode(ModelReplicas, entry.value).replicas == ()
