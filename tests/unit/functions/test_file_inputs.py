"""Files of a payload by id, by URL and inline, wherever the function's type has them."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from stoker import ActionContext, Asset, FileRef
from stoker.functions.assets import link
from stoker.functions.context import MAX_INLINE_BYTES
from stoker.functions.errors import ValidationError
from stoker.functions.file_inputs import with_files_named
from stoker.functions.payload_check import PayloadCheck
from stoker.functions.payload_types import describe_type

ID = "file-0123456789abcdef01234567"
BY_REF, BY_URL = {"ref": ID}, {"url": ID}


class Pair(NamedTuple):
    name: str
    file: FileRef


class Inner(msgspec.Struct, tag="inner"):
    file: Asset


class Other(msgspec.Struct, tag="other"):
    file_id: str


class Input(msgspec.Struct, kw_only=True):
    one: Asset
    maybe: FileRef | None = None
    many: list[Asset] = []
    named: dict[str, FileRef] = {}
    pair: Pair | None = None
    row: tuple[int, FileRef] | None = None
    text_or_file: str | Asset = ""
    either: Inner | Other | None = None
    anything: Any = None


class Plain(msgspec.Struct):
    file_id: str


DESCRIBED = describe_type(Input)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, {}),
        ({"one": ID}, {"one": BY_REF}),
        ({"one": {"file_id": ID}}, {"one": BY_REF}),
        ({"one": {"file_id": ID, "name": "n"}}, {"one": BY_REF | {"name": "n"}}),
        ({"one": "data:;base64,QQ=="}, {"one": {"ref": "data:;base64,QQ=="}}),
        ({"one": BY_REF}, {"one": BY_REF}),
        ({"maybe": ID}, {"maybe": BY_URL}),
        ({"maybe": {"file_id": ID}}, {"maybe": BY_URL}),
        ({"maybe": None}, {"maybe": None}),
        ({"many": [ID, {"file_id": ID}, BY_REF]}, {"many": [BY_REF] * 3}),
        ({"named": {"a": ID}}, {"named": {"a": BY_URL}}),
        ({"pair": ["x", ID]}, {"pair": ["x", BY_URL]}),
        ({"row": [1, ID]}, {"row": [1, BY_URL]}),
        ({"row": [1]}, {"row": [1]}),
        ({"text_or_file": ID}, {"text_or_file": ID}),
        ({"text_or_file": {"file_id": ID}}, {"text_or_file": BY_REF}),
        ({"either": {"type": "inner", "file": ID}}, {"either": {"type": "inner", "file": BY_REF}}),
        ({"either": {"type": "other", "file_id": ID}}, {"either": {"type": "other", "file_id": ID}}),
        ({"anything": {"file_id": ID}}, {"anything": {"file_id": ID}}),
        ({"unknown": ID, "many": 3}, {"unknown": ID, "many": 3}),
    ],
)
def test_a_file_is_named_as_the_type_has_it(given: Any, wanted: Any) -> None:
    before = msgspec.json.encode(given)
    named: dict[str, str] = {}
    assert with_files_named(DESCRIBED, given, named) == wanted
    assert all(text == ID or text.startswith("data:") for text in named.values())
    assert msgspec.json.encode(given) == before, "what was given is not changed"
    if "one" in wanted:
        assert PayloadCheck(DESCRIBED).misfit(wanted) is None


def test_a_type_without_files_is_left_as_it_is() -> None:
    payload = {"file_id": ID}
    assert with_files_named(describe_type(Plain), payload) is payload


def test_a_description_of_the_version_before_knows_no_files() -> None:
    told = msgspec.json.decode(msgspec.json.encode(DESCRIBED))
    for one in told["objects"].values():
        one.pop("file_field", None)
    assert with_files_named(msgspec.convert(told, type(DESCRIBED)), {"one": ID}) == {"one": ID}


def test_a_file_that_was_brought_is_on_the_disk_and_takes_no_more_room(tmp_path: Path) -> None:
    brought = tmp_path / "given-0"
    brought.write_bytes(b"content")
    context = ActionContext(brought={ID: str(brought)})
    asset = Asset(ID, "my doc.txt")
    context.place_assets([asset])
    assert asset.local_path is not None and asset.ref == ID
    placed = Path(asset.local_path)
    assert (placed.name, placed.read_bytes()) == ("0-my_doc.txt", b"content")
    assert (asset.size_bytes, asset.mime_type) == (7, "text/plain")
    assert placed.stat().st_ino == brought.stat().st_ino
    assert context.read_file(FileRef(ID)) == b"content"
    assert context.file_path(FileRef(ID)) == brought
    inline = context.file_path(FileRef("data:;base64,QQ=="))
    assert inline.read_bytes() == b"A" and context.file_path(FileRef("data:;base64,QQ==")) == inline
    with pytest.raises(ValidationError, match="file's id"):
        context.file_path(FileRef("/etc/passwd"))
    context.close()
    assert not placed.exists() and brought.exists()


def test_a_file_of_another_disk_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"content")

    def refuse(source: object, target: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    link(str(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"content"


def test_large_files_are_saved_on_the_disk_as_they_were(tmp_path: Path) -> None:
    context = ActionContext(job="j", saving=str(tmp_path / "folder"))
    context.save_file(b"small", "s")
    assert not (tmp_path / "folder").exists() and context.files[0].content == b"small"
    source = tmp_path / "source"
    source.write_bytes(b"x" * (MAX_INLINE_BYTES + 1))
    ref = context.save_file(source, "x.bin")
    source.write_bytes(b"another")
    asset = context.save_bytes("y.bin", b"y" * (MAX_INLINE_BYTES + 2))
    assert (ref.url, ref.size_bytes, asset.ref) == (
        "/v1/jobs/j/files/1",
        MAX_INLINE_BYTES + 1,
        "/v1/jobs/j/files/2",
    )
    for saved, byte in zip(context.files[1:], (b"x", b"y"), strict=True):
        assert saved.content == b"" and Path(saved.path).read_bytes() == byte * saved.size_bytes
    context.save_file(source, "small")
    assert context.files[3].content == b"another"


def test_a_file_without_a_folder_travels_with_the_result() -> None:
    context = ActionContext(job="j")
    context.save_bytes("y.bin", b"y" * (MAX_INLINE_BYTES + 2))
    assert (len(context.files[0].content), context.files[0].path) == (MAX_INLINE_BYTES + 2, "")


def test_what_names_each_file_is_told_with_its_place() -> None:
    named: dict[str, str] = {}
    with_files_named(DESCRIBED, {"one": "not a file", "many": [ID, {"file_id": "x"}], "maybe": None}, named)
    assert named == {"one": "not a file", "many.0": ID, "many.1": "x"}
