"""The catalog in its bucket, on a real server: published, changed, watched; notes beside it; what cannot be read."""

import asyncio
from functools import partial
from typing import Any

from structlog.testing import capture_logs

from stoker.schemas import wire
from stoker.schemas.catalog import Model, ResourceProfile, Spec
from stoker.schemas.configuration import ReloadFailure, RevisionHead
from stoker.schemas.subjects import CATALOG_BUCKET, to_token
from stoker.services.bus.buckets import open_bucket
from stoker.services.bus.streams import declare
from stoker.services.catalog import store
from stoker.services.catalog.contents import REVISION_KEY, pack, revision_of
from stoker.services.process.tasks import TaskOwner, together
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


async def test_a_revision_is_applied_in_one_step_by_whoever_watches(connected: Connect) -> None:
    """Between two things that are told, nothing else of the process runs, and both readers go the same way."""
    seen: set[frozenset[str]] = set()
    sets = [[f"m{number}" for number in range(first, first + 60)] for first in (0, 30, 200)]
    async with connected() as bus, connected("other") as other, TaskOwner("test") as tasks:
        await declare(bus)
        await store.publish(bus, [model(name) for name in sets[0]])
        watched, caught_up = Watched(), asyncio.Event()
        tasks.start(store.watch, other, watched.changed, caught_up, watched.noted)
        await caught_up.wait()

        async def look() -> None:
            while True:
                seen.add(frozenset(watched.models))
                await asyncio.sleep(0)

        tasks.start(look)
        for number in range(1, 10):
            await store.publish(bus, [model(name) for name in sets[number % 3]])
        await eventually(lambda: watched.models.keys() == set(sets[0]))
    assert seen <= {frozenset(names) for names in sets}


async def test_a_publisher_that_dies_before_it_has_copied_has_published(connected: Connect) -> None:
    watched, late = Watched(), Watched()
    async with connected() as bus, TaskOwner("test") as tasks:
        await declare(bus)
        await store.publish(bus, [model("a"), model("b")])
        tasks.start(store.watch, bus, watched.changed, None, watched.noted)
        bucket = await open_bucket(bus, CATALOG_BUCKET)
        await bucket.put(REVISION_KEY, pack(revision_of(2, 5.0, {"c": wire.encode(model("c"))})))
        await eventually(lambda: watched.models.keys() == {"c"})
        caught_up = asyncio.Event()
        tasks.start(store.watch, bus, late.changed, caught_up, late.noted)
        await caught_up.wait()
        assert late.models == {"c": model("c")}, "who starts then sees the same, though a and b have keys"
        assert wire.decode(RevisionHead, late.notes["revision", "current"]) == RevisionHead(2, 5.0)
        assert (await store.publish(bus, [model("c")])).number == 3, "it has a default mode too"
        assert set(await bucket.keys()) == {"c", REVISION_KEY}, "what was left is mended"


async def test_a_revision_keeps_its_number_until_something_is_different(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        first = await store.publish(bus, [model("a")])
        assert first.number == 1
        assert await store.publish(bus, [model("a")]) == first
        await store.add(bus, [model("b")])
        second = await store.publish(bus, [model("a")])
        assert second.number == 2, "what another added is removed again"
        bucket = await open_bucket(bus, CATALOG_BUCKET)
        assert sorted(await bucket.keys()) == ["a", REVISION_KEY]


async def test_a_publisher_of_the_version_before_is_heard_and_hears(connected: Connect) -> None:
    watched = Watched()
    async with connected() as bus, TaskOwner("test") as tasks:
        await declare(bus)
        await store.publish(bus, [model("a"), model("b")], [ResourceProfile("p")])
        tasks.start(store.watch, bus, watched.changed, None, watched.noted)
        await eventually(lambda: watched.models.keys() == {"a", "b"})
        bucket = await open_bucket(bus, CATALOG_BUCKET)
        known = await bucket.get("a")
        assert known is not None and wire.decode(Model, known.value) == model("a"), "where it reads"
        await bucket.delete("a")
        await bucket.delete("profile.p")
        await bucket.put("c", wire.encode(model("c")))
        await eventually(lambda: watched.models.keys() == {"b", "c"})
        await eventually(lambda: watched.notes["profile", "p"] == b"")


async def test_publishers_at_the_same_time_leave_one_of_their_catalogs(connected: Connect) -> None:
    watched = Watched()
    sets = [[model(f"{who}{number}") for number in range(8)] for who in "abcd"]
    async with connected() as bus, TaskOwner("test") as tasks:
        await declare(bus)
        tasks.start(store.watch, bus, watched.changed, None, watched.noted)
        await together([partial(store.publish, bus, models) for models in sets])
        await eventually(lambda: watched.notes and head(watched).number == len(sets))
        assert {model.name for model in watched.models.values()} in [
            {one.name for one in many} for many in sets
        ]
        bucket = await open_bucket(bus, CATALOG_BUCKET)
        assert {key for key in await bucket.keys() if "." not in key} >= watched.models.keys()


def head(watched: Watched) -> RevisionHead:
    found: RevisionHead = wire.decode(RevisionHead, watched.notes["revision", "current"])
    return found


async def test_a_catalog_larger_than_a_message_is_published_packed(connected: Connect) -> None:
    watched = Watched()
    async with connected() as bus, TaskOwner("test") as tasks:
        await declare(bus)
        many = [model(f"m{number}", defaults={"text": "x" * 40_000}) for number in range(300)]
        assert sum(len(wire.encode(one)) for one in many) > bus.max_payload
        await store.publish(bus, many)
        tasks.start(store.watch, bus, watched.changed, None, watched.noted)
        await eventually(lambda: len(watched.models) == len(many))


async def test_why_a_configuration_was_not_taken_is_kept_until_one_is(connected: Connect) -> None:
    watched = Watched()
    failure = ReloadFailure(1.0, "gw", "f.yaml:3: no", "f.yaml", 3, "modes")
    async with connected() as bus, TaskOwner("test") as tasks:
        await declare(bus)
        tasks.start(store.watch, bus, watched.changed, None, watched.noted)
        await store.note_failure(bus, None)
        await store.note_failure(bus, failure)
        await eventually(lambda: watched.notes.get(("revision", "failed")) == wire.encode(failure))
        await store.publish(bus, [model("a")])
        await store.note_failure(bus, None)
        await eventually(lambda: watched.notes["revision", "failed"] == b"")
