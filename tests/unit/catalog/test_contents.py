"""What is valid of the catalog bucket: whatever is written in whatever order, a revision counts as a whole.

The machine plays publishers of this version and of the one before, workers that add models, and operators that
delete them; a publisher may stop anywhere. Two readers are compared with what was ordered: one reads on from where
it was, the other from the beginning.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from stoker.schemas import wire
from stoker.services.bus.changes import Change
from stoker.services.catalog.contents import (
    DEFAULT_MODE_KEY,
    REVISION_KEY,
    ZIP_FROM_BYTES,
    Contents,
    is_part,
    pack,
    revision_of,
    unpack,
)

KEYS = st.sampled_from(["a", "b", "c", "profile.p", DEFAULT_MODE_KEY])
VALUES = st.integers(0, 3).map(lambda number: b'{"v":%d}' % number)
PARTS = st.dictionaries(KEYS, VALUES, max_size=5)


class Bucket:
    """The last write of each key, in order."""

    def __init__(self) -> None:
        self.place = 0
        self.latest: dict[str, Change] = {}

    def write(self, key: str, value: bytes, *, is_copy: bool = False) -> int:
        self.place += 1
        self.latest.pop(key, None)
        self.latest[key] = Change(key, value, self.place, is_copy)
        return self.place

    def since(self, place: int) -> list[Change]:
        return [change for change in self.latest.values() if change.place > place]

    def place_of(self, key: str) -> int:
        return self.latest[key].place if key in self.latest else 0


class CatalogMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bucket = Bucket()
        self.ordered: dict[str, bytes] = {}
        self.reader, self.read_to = Contents(), 0
        self.number = 0
        self.copies: list[tuple[str, bytes, int]] = []
        """Copies that publishers have still to make: key, value, the place of the write that they replace."""

    publications = Bundle("publications")

    @rule(target=publications, parts=PARTS)
    def publish(self, parts: dict[str, bytes]) -> dict[str, bytes]:
        present = [change for change in self.bucket.latest.values() if is_part(change.key)]
        self.number += 1
        self.bucket.write(REVISION_KEY, pack(revision_of(self.number, 1.0, parts)))
        gone = {change.key: b"" for change in present if change.value and change.key not in parts}
        self.copies += [(key, value, self.bucket.place_of(key)) for key, value in (gone | parts).items()]
        self.ordered = dict(parts)
        return parts

    @rule(parts=publications)
    def publish_again(self, parts: dict[str, bytes]) -> None:
        self.publish(parts)

    @rule(data=st.data())
    def copy_one(self, data: st.DataObject) -> None:
        """Any publisher goes on, also one whose revision is not the newest any more."""
        if not self.copies:
            return
        key, value, place = self.copies.pop(data.draw(st.integers(0, len(self.copies) - 1)))
        if self.bucket.place_of(key) == place:
            self.bucket.write(key, value, is_copy=True)

    @rule()
    def publishers_die(self) -> None:
        self.copies = []

    @rule(key=KEYS, value=VALUES)
    def another_writes(self, key: str, value: bytes) -> None:
        self.bucket.write(key, value)
        self.ordered[key] = value

    @rule(key=KEYS)
    def another_deletes(self, key: str) -> None:
        if key in self.bucket.latest:
            self.bucket.write(key, b"")
            self.ordered.pop(key, None)

    @rule(value=VALUES)
    def note(self, value: bytes) -> None:
        self.bucket.write("schema.a", value)

    @rule()
    def a_later_version_writes_what_this_one_cannot_read(self) -> None:
        self.bucket.write(REVISION_KEY, b'{"number":"of another kind"}')
        self.publish(self.ordered)

    @rule()
    def read_on(self) -> None:
        self.reader.take(self.bucket.since(self.read_to))
        self.read_to = self.bucket.place

    @invariant()
    def readers_see_what_was_ordered(self) -> None:
        anew = Contents()
        anew.take(self.bucket.since(0), is_anew=True)
        assert anew.parts() == self.ordered
        if self.read_to == self.bucket.place:
            assert self.reader.parts() == self.ordered


CatalogMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestCatalog = CatalogMachine.TestCase


@given(parts=PARTS)
def test_a_revision_is_read_as_it_was_packed(parts: dict[str, bytes]) -> None:
    revision = unpack(pack(revision_of(7, 2.0, parts)))
    assert (revision.number, revision.at) == (7, 2.0)
    assert {key: bytes(raw) for key, raw in revision.parts.items()} == parts
    assert list(revision.parts) == list(parts), "in the order of the files"


def test_a_large_revision_is_packed_and_a_small_one_can_be_read_by_people() -> None:
    parts = {f"m{number}": b'"%s"' % (b"x" * 1000) for number in range(1000)}
    packed = pack(revision_of(1, 1.0, parts))
    assert len(packed) < ZIP_FROM_BYTES
    assert {key: bytes(raw) for key, raw in unpack(packed).parts.items()} == parts
    assert pack(revision_of(1, 1.0, {"m": b"1"})) == b'{"number":1,"at":1.0,"parts":{"m":1}}'


@pytest.mark.parametrize(
    "value", [b"x", b"{", b"{}", b"x\x9c not zipped", pack(revision_of(1, 1.0, {}))[:-1], b"\xff\xfe"]
)
def test_what_is_no_revision_is_refused(value: bytes) -> None:
    with pytest.raises(wire.UnreadableMessage):
        unpack(value)


def test_an_unreadable_revision_leaves_the_one_before_in_use_with_what_was_written_since() -> None:
    contents = Contents()
    contents.take([Change(REVISION_KEY, pack(revision_of(1, 1.0, {"a": b"1"})), 5)])
    contents.take([Change("b", b"2", 6), Change(REVISION_KEY, b"of a later version", 7)])
    assert contents.unreadable
    assert contents.parts() == {"a": b"1", "b": b"2"}
    contents.take([Change(REVISION_KEY, pack(revision_of(2, 1.0, {"c": b"3"})), 8)])
    assert not contents.unreadable
    assert contents.parts() == {"c": b"3"}


def test_without_a_revision_the_keys_count_copies_too() -> None:
    contents = Contents()
    contents.take([Change("a", b"1", 1, is_copy=True), Change("b", b"2", 2), Change("c", b"", 3)])
    assert contents.parts() == {"a": b"1", "b": b"2"}
    contents.take([Change(REVISION_KEY, pack(revision_of(1, 1.0, {})), 4)])
    assert contents.parts() == {}
    contents.take([Change(REVISION_KEY, b"", 5)])
    assert contents.parts() == {"a": b"1", "b": b"2"}, "an operator deleted the revision"


def test_a_bucket_that_was_made_anew_is_read_from_nothing() -> None:
    contents = Contents()
    contents.take([Change(REVISION_KEY, pack(revision_of(9, 1.0, {"a": b"1"})), 90)])
    contents.take([Change("b", b"2", 1)], is_anew=True)
    assert (contents.revision, contents.parts()) == (None, {"b": b"2"})


def test_a_revision_cannot_have_notes_for_parts() -> None:
    contents = Contents()
    parts = {"a": b"1", "schema.a": b"2", REVISION_KEY: b"3"}
    contents.take([Change(REVISION_KEY, pack(revision_of(1, 1.0, parts)), 1)])
    assert contents.parts() == {"a": b"1"}


def test_keys_of_a_configuration_and_notes() -> None:
    assert [key for key in ("m", "a=XXb", "profile.p", DEFAULT_MODE_KEY) if not is_part(key)] == []
    assert [key for key in ("modes.current", "schema.m", REVISION_KEY, "revision.failed") if is_part(key)] == []
