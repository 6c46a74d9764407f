"""What a gateway knows of the others: who is silent does not count, and is forgotten; no wall clock is asked."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.catalog import Model, Spec
from stoker.schemas.configuration import ReloadFailure, RevisionHead
from stoker.schemas.discovery import Inputs, Schema
from stoker.schemas.fleet import DiskRoom, ModelReplicas, QueueDepth
from stoker.schemas.workers import EngineCapability, Heartbeat
from stoker.services.catalog import store
from stoker.services.gateway.fleet_view import DISK_SILENT_S, FORGET_AFTER_S, WORKER_SILENT_S, FleetView

MODEL = Model("m", ("ImageGeneration",), (Spec(name="s", engine="diffusers", url=""),))


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Seen:
    """A view, its clock, and the ways to tell it something."""

    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.view = FleetView(self.clock)

    def beat(self, worker: str, **fields: Any) -> None:
        capability = EngineCapability(1, 0, ("ImageGeneration",))
        heartbeat = Heartbeat(
            worker=worker, started_at=1.0, seq=1, spec="", profile="", device="cpu", host="h",
            engines={"diffusers": capability}, memory_total_bytes=1, memory_used_bytes=0, **fields,
        )  # fmt: skip
        self.view.on_heartbeat(heartbeat)

    def depth(self, model: str, queued: int) -> None:
        data = wire.encode(QueueDepth(model, queued, 0))
        self.view.on_depth(Msg(_client=None, subject=f"stoker.queue.{model}", data=data))

    def disk(self, free: int, *, is_low: bool) -> None:
        data = wire.encode(DiskRoom(free, 10**8, is_low))
        self.view.on_disk(Msg(_client=None, subject="stoker.disk", data=data))

    def names(self) -> list[str]:
        return [beat.worker for beat in self.view.live_workers()]


def test_a_silent_worker_does_not_count_and_is_forgotten_later() -> None:
    seen = Seen()
    seen.beat("b")
    seen.beat("a")
    assert seen.names() == ["a", "b"]
    seen.clock.now = WORKER_SILENT_S - 0.1
    seen.beat("b")
    seen.clock.now = WORKER_SILENT_S
    assert seen.names() == ["b"]
    seen.view.forget_silent()
    assert seen.view.known_workers == 2
    seen.clock.now = FORGET_AFTER_S
    seen.view.forget_silent()
    assert seen.view.known_workers == 1
    seen.clock.now += FORGET_AFTER_S
    seen.view.forget_silent()
    assert seen.view.known_workers == 0


def test_ten_thousand_names_that_come_and_go_leave_nothing() -> None:
    seen = Seen()
    for number in range(10_000):
        seen.clock.now += 1.0
        seen.beat(f"w-{number}")
        seen.depth(f"m-{number}", 1)
        if number % 100 == 0:
            seen.view.forget_silent()
    assert seen.view.known_workers < 200
    assert len(seen.view.depths) == len(seen.view._depths_at) < 200


def test_a_worker_that_leaves_is_gone_at_once_and_may_come_back() -> None:
    seen = Seen()
    seen.beat("a", vram_models=("m",))
    assert seen.view.hot_models() == {"m"}
    assert seen.view.is_hot("m") and [one.worker for one in seen.view.image_workers()] == ["a"]
    seen.beat("a", is_leaving=True)
    assert seen.names() == [] and not seen.view.is_hot("m") and not seen.view.hot_models()
    seen.beat("a")
    assert seen.names() == ["a"]


def test_what_cannot_be_read_changes_nothing() -> None:
    seen = Seen()
    seen.beat("a")
    seen.depth("m", 3)
    seen.view.on_depth(Msg(_client=None, subject="stoker.queue.m", data=b'{"queued": "many"}'))
    seen.view.noted(store.SCHEMA_NOTE, "m", b"nonsense")
    assert seen.names() == ["a"]
    assert seen.view.depths["m"].queued == 3
    assert seen.view.schemas == {}


def test_with_a_model_goes_all_that_is_known_of_it() -> None:
    seen = Seen()
    seen.view.model_changed("m", MODEL)
    seen.depth("m", 1)
    schema = Schema("m", "P", "sd", (), Inputs((), ()), {}, {})
    seen.view.noted(store.SCHEMA_NOTE, "m", wire.encode(schema))
    seen.view.replicas_changed("m", ModelReplicas("m", (), 1.0))
    assert seen.view.schemas == {"m": schema}
    seen.view.model_changed("m", None)
    seen.view.replicas_changed("m", None)
    view = seen.view
    assert (view.models, view.schemas, view.depths, view.replicas) == ({}, {}, {}, {})


def test_the_current_mode_is_noted_for_all_gateways() -> None:
    seen = Seen()
    seen.view.model_changed("m", MODEL)
    assert seen.view.modes.current == "m"
    seen.view.noted(store.MODES_NOTE, store.CURRENT, wire.encode("gone"))
    assert seen.view.modes.current == "m", "a mode that is not there is not current"
    seen.view.noted(store.SCHEMA_NOTE, "m", b"")
    assert seen.view.schemas == {}


def test_a_disk_counts_as_full_while_it_is_said_so_and_not_longer() -> None:
    seen = Seen()
    assert seen.view.why_disk_full() == ""
    seen.disk(3_000_000, is_low=True)
    assert seen.view.why_disk_full() == "3 of 100 MB free"
    seen.view.on_disk(Msg(_client=None, subject="stoker.disk", data=b"garbage"))
    assert seen.view.why_disk_full()
    seen.disk(50_000_000, is_low=False)
    assert seen.view.why_disk_full() == ""
    seen.disk(3_000_000, is_low=True)
    seen.clock.now += DISK_SILENT_S
    assert seen.view.why_disk_full() == "", "who runs the server is gone, and nobody knows"


def test_the_revision_and_why_files_were_not_taken_are_noted_and_forgotten() -> None:
    seen = Seen()
    assert (seen.view.revision, seen.view.failure) == (RevisionHead(), None)
    failure = ReloadFailure(3.0, "gw", "f.yaml:1: no", "f.yaml", 1, "modes")
    seen.view.noted(store.REVISION_NOTE, store.CURRENT, wire.encode(RevisionHead(4, 2.0)))
    seen.view.noted(store.REVISION_NOTE, store.FAILED, wire.encode(failure))
    seen.view.noted(store.REVISION_NOTE, "of a later version", b"{}")
    assert (seen.view.revision, seen.view.failure) == (RevisionHead(4, 2.0), failure)
    seen.view.noted(store.REVISION_NOTE, store.FAILED, b"nonsense")
    assert seen.view.failure == failure
    for name in (store.CURRENT, store.FAILED):
        seen.view.noted(store.REVISION_NOTE, name, b"")
    assert (seen.view.revision, seen.view.failure) == (RevisionHead(), None)


async def test_who_waits_for_a_revision_goes_on_with_it_or_a_later_one() -> None:
    view = Seen().view
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        waiting = [group.create_task(view.until_revision(number)) for number in (1, 2, 2)]
        for number in (1, 3):
            view.noted(store.REVISION_NOTE, store.CURRENT, wire.encode(RevisionHead(number, 1.0)))
            await asyncio.sleep(0)
        await asyncio.wait(waiting)
    await view.until_revision(3)
