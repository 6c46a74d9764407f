"""Files in and out by the names that other SDKs have for them."""

import dataclasses
from pathlib import Path

import msgspec
import pytest

import stoker
from stoker import ActionContext, Asset, ModelRef, ModelRefSource, Src, ValidationError
from stoker.cli.functions import files_in
from stoker.functions.assets import MAX_NAME_CHARS, assets_in
from stoker.schemas.jobs import FILE_FIELDS
from stoker.services.gateway.jobs.files import references

HELLO = "data:text/plain;base64,aGVsbG8="


@dataclasses.dataclass
class Pair:
    one: Asset
    two: Asset


class Payload(msgspec.Struct):
    single: Asset
    several: list[Asset]
    named: dict[str, Asset]
    pair: Pair
    text: str = ""


def test_every_asset_of_a_payload_lies_on_disk_while_the_call_runs() -> None:
    payload = Payload(
        Asset(HELLO, local_path="/etc/passwd"), [Asset(HELLO, name="../../a b.txt")], {"x": Asset(HELLO, mime_type="image/png")},
        Pair(Asset(HELLO, name="n" * 300), Asset(HELLO)),
    )  # fmt: skip
    context = ActionContext()
    context.place_assets(payload)
    found = list(assets_in(payload))
    paths = [Path(asset.local_path or "") for asset in found]
    assert [path.read_bytes() for path in paths] == [b"hello"] * 5
    assert {path.parent for path in paths} == {context.folder}
    assert [path.name for path in paths[:3]] == ["0-file.txt", "1-a_b.txt", "2-file.png"]
    assert len(paths[3].name) == MAX_NAME_CHARS + 2
    assert (found[0].mime_type, found[0].size_bytes, found[2].mime_type) == ("text/plain", 5, "image/png")
    context.close()
    assert not any(path.exists() for path in paths)


@pytest.mark.parametrize(
    "ref", ["file:///etc/passwd", "https://x/y", "data:text/plain,plain", "data:;base64,*"]
)
def test_what_is_no_file_of_a_payload_is_refused(ref: str) -> None:
    context = ActionContext()
    with pytest.raises(ValidationError):
        context.place_assets(Asset(ref))
    context.close()


def test_saved_bytes_are_an_asset_that_says_where_it_will_be() -> None:
    context = ActionContext(job="j1")
    asset = context.save_bytes("a.txt", b"hello")
    assert (asset.ref, asset.name, asset.mime_type, asset.size_bytes, asset.local_path) == (
        "/v1/jobs/j1/files/0", "a.txt", "text/plain", 5, None,
    )  # fmt: skip
    assert asset.sha256 == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert context.files[0].content == b"hello"
    assert (context.run_id, context.is_canceled(), context.cancelled) == ("j1", False, False)


def test_files_of_jobs_are_found_by_either_name() -> None:
    url = "/v1/jobs/j1/files/0"
    assert references({"a": {"url": url}, "b": [{"ref": url.replace("0", "1")}], "c": {"other": url}}) == {
        url: "a", "/v1/jobs/j1/files/1": "b.0",
    }  # fmt: skip
    for field in FILE_FIELDS:
        assert files_in({"deep": {field: url, "name": "n"}})[0]["url"] == url


def test_where_a_model_comes_from_has_its_older_names() -> None:
    assert ModelRefSource is Src
    assert ModelRef(Src.DEPLOYMENT, "a") == ModelRef(Src.FIXED, "a")
    assert {"Asset", "ModelRefSource"} <= set(stoker.__all__)
