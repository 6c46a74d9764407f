"""The catalog in its bucket, on a real server: published, changed, watched; notes beside it; what cannot be read."""

import asyncio
from typing import Any

from structlog.testing import capture_logs

from schemas import wire
from schemas.catalog import Model, ResourceProfile, Spec
from schemas.subjects import CATALOG_BUCKET, to_token
from services.bus.buckets import open_bucket
from services.bus.streams import declare
from services.catalog import store
from services.process.tasks import TaskOwner
from tests.contract.conftest import Connect
from tests.waiting import eventually

ODD = "a.b > *"
"""A model's name that must not become part of a key's structure."""


def model(name: str, **changes: Any) -> Model:
    return Model(name, ("TextGeneration",), (Spec("default", "synthetic", ""),), **changes)


class Watched:
    """What a watcher has been told."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.notes: dict[tuple[str, str], bytes] = {}
        self.told: list[str] = []

    def changed(self, name: str, found: Model | None) -> None:
        self.told.append(name)
        if found is None:
            self.models.pop(name, None)
        else:
            self.models[name] = found

    def noted(self, kind: str, name: str, content: bytes) -> None:
        self.notes[kind, name] = content


async def test_a_catalog_is_published_changed_and_watched(connected: Connect) -> None:
    watched, caught_up = Watched(), asyncio.Event()
    async with connected() as bus, TaskOwner("test") as tasks:
        await declare(bus)
        await store.publish(bus, [model("a"), model(ODD)], [ResourceProfile("p.q")], "a")
        tasks.start(store.watch, bus, watched.changed, caught_up, watched.noted)
        await asyncio.wait_for(caught_up.wait(), 10)
        assert watched.models == {"a": model("a"), ODD: model(ODD)}
        assert wire.decode(ResourceProfile, watched.notes["profile", "p.q"]) == ResourceProfile("p.q")
        assert watched.notes["modes", "default"] == b'"a"'

        watched.told.clear()
        await store.publish(bus, [model("a"), model("b")], [], "")
        await eventually(lambda: watched.models.keys() == {"a", "b"})
        await eventually(lambda: watched.notes["profile", "p.q"] == b"")
        await eventually(lambda: watched.notes["modes", "default"] == b'""')
        assert "a" not in watched.told, "what is unchanged is not written again"

        await store.add(bus, [model("a", run_timeout_s=1.0), model("c")])
        await eventually(
            lambda: watched.models.keys() == {"a", "b", "c"} and watched.models["a"].run_timeout_s == 1.0
        )


async def test_notes_outlive_a_publication_and_are_written_once(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        await store.publish_schema(bus, ODD, {"a": 1})
        bucket = await open_bucket(bus, CATALOG_BUCKET)
        key = f"schema.{to_token(ODD)}"
        first = await bucket.get(key)
        await store.publish_schema(bus, ODD, {"a": 1})
        await store.publish(bus, [model("m")])
        again = await bucket.get(key)
        assert first is not None and again is not None
        assert (again.value, again.revision) == (b'{"a":1}', first.revision)
        await store.publish_schema(bus, ODD, {"a": 2})
        changed = await bucket.get(key)
        assert changed is not None and changed.value == b'{"a":2}'


async def test_a_model_of_another_version_is_left_as_it_was_known(connected: Connect) -> None:
    watched, caught_up = Watched(), asyncio.Event()
    async with connected() as bus, TaskOwner("test") as tasks:
        await declare(bus)
        await store.publish(bus, [model("a")])
        tasks.start(store.watch, bus, watched.changed, caught_up)
        await asyncio.wait_for(caught_up.wait(), 10)
        bucket = await open_bucket(bus, CATALOG_BUCKET)
        for content in (b"garbage", b'{"name":"a","features":[],"specs":"newer"}', b"[" * 100_000):
            await bucket.put("a", content)
        await store.note(bus, "schema", "a", {"nobody": "listens"})
        await store.add(bus, [model("z")])
        await eventually(lambda: "z" in watched.models)
        assert watched.models["a"] == model("a")


async def test_an_entry_that_its_reader_cannot_take_in_ends_no_reader(connected: Connect) -> None:
    told: list[str] = []

    def changed(name: str, _: Model | None) -> None:
        told.append(name)
        if name == "bad":
            raise OSError("File name too long")

    async with connected() as bus, TaskOwner("test") as tasks:
        await declare(bus)
        await store.add(bus, [model("a"), model("bad"), model("c")])
        tasks.start(store.watch, bus, changed)
        await eventually(lambda: len(told) == 3)
        await store.add(bus, [model("d")])
        await eventually(lambda: len(told) == 4)
    assert told == ["a", "bad", "c", "d"]


async def test_a_schema_that_cannot_be_kept_is_logged_and_no_error(connected: Connect) -> None:
    async with connected() as bus:
        with capture_logs() as logged:
            await store.publish_schema(bus, "m", {})  # nothing was declared: there is no bucket
    assert [(one["event"], one["model"]) for one in logged] == [("schema.not_stored", "m")]
