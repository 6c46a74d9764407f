"""Local weights: where they are, how large, and whether they are others under the same name."""

import os
from pathlib import Path

import pytest

from stoker.schemas.catalog import Spec, weights_key
from stoker.services.catalog.files import SAMPLE_BYTES, absolute, size_bytes, stamp


def test_relative_paths_are_relative_to_the_file_they_stand_in(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    assert absolute(file, "file://./a.gguf") == f"file://{tmp_path}/a.gguf"
    assert absolute(file, "a.gguf") == f"file://{tmp_path}/a.gguf"
    assert absolute(file, "file:///x/a.gguf") == "file:///x/a.gguf"
    assert absolute(file, "hf://a/b") == "hf://a/b"
    assert absolute(file, "") == ""


def test_sizes_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "b").write_bytes(b"x" * 5)
    assert (size_bytes(f"file://{tmp_path}/a"), size_bytes(f"file://{tmp_path}")) == (10, 15)
    assert (size_bytes("file:///nowhere"), size_bytes("hf://a/b")) == (0, 0)


@pytest.mark.parametrize("place", [0, 5 * SAMPLE_BYTES, 10 * SAMPLE_BYTES - 1])
def test_other_weights_under_the_same_name_have_another_stamp(tmp_path: Path, place: int) -> None:
    path = tmp_path / "model.gguf"
    content = bytearray(10 * SAMPLE_BYTES)
    path.write_bytes(content)
    before = stamp(f"file://{path}")
    content[place] = 1
    path.write_bytes(content)
    assert before and stamp(f"file://{path}") != before


def test_the_stamp_is_the_same_on_every_host_and_at_every_time(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for folder in ("one", "two"):
        (tmp_path / folder / "unet.bin").write_bytes(b"weights")
    os.utime(tmp_path / "two" / "unet.bin", (1, 1))
    assert stamp(f"file://{tmp_path}/one") == stamp(f"file://{tmp_path}/two")
    (tmp_path / "two" / "more.bin").write_bytes(b"")
    assert stamp(f"file://{tmp_path}/one") != stamp(f"file://{tmp_path}/two")


def test_what_is_elsewhere_or_not_there_has_none(tmp_path: Path) -> None:
    assert (stamp("hf://a/b"), stamp(f"file://{tmp_path}/nowhere"), stamp("")) == ("", "", "")


def test_weights_of_another_stamp_are_other_weights() -> None:
    specs = [Spec("default", "llamacpp", "file:///a", stamp=stamp) for stamp in ("", "1", "2", "1")]
    keys = [weights_key("m", spec) for spec in specs]
    assert len(set(keys)) == 3 and keys[1] == keys[3]
