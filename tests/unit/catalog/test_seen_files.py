"""Whether files have changed: every way of changing one is seen, and what is no change is not."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.services.catalog.documents import MAX_FILE_BYTES
from stoker.services.catalog.seen_files import AWAY, MAX_PROJECT_FOLDERS, folders, look


def names(paths: list[Path]) -> set[Path]:
    return {folder for folder, _ in folders(paths)}


def rewrite_unnoticed(file: Path) -> None:
    """As many bytes, the same inode, and the time of change put back."""
    before = file.stat()
    file.write_text(file.read_text().swapcase())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename_over(file: Path) -> None:
    other = file.with_suffix(".new")
    other.write_text(file.read_text())
    os.utime(other, ns=(1, file.stat().st_mtime_ns))
    other.rename(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_text("other"),
        lambda file: file.write_text(""),
        lambda file: file.touch(),
        lambda file: file.unlink(),
        lambda file: (file.unlink(), file.mkdir()),
        rewrite_unnoticed,
        rename_over,
    ],
    ids=["written", "emptied", "touched", "deleted", "a folder", "written unnoticed", "renamed over"],
)
def test_every_change_of_a_file_is_seen(tmp_path: Path, change: Callable[[Path], object]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("some")
    os.utime(file, ns=(1, 1_000_000_000))
    before = look([file])
    assert look([file]) == before
    change(file)
    assert look([file]) != before


@pytest.mark.parametrize("what", ["other.yaml", ".a.yaml.swp", "a.yaml~", "4913"])
def test_other_files_of_the_folder_are_no_change(tmp_path: Path, what: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("some")
    before = look([file])
    (tmp_path / what).write_text("x")
    assert look([file]) == before


def test_a_folder_is_its_files_without_hidden_ones(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a")
    before = look([tmp_path])
    (tmp_path / ".#a.yaml").symlink_to("nowhere")
    (tmp_path / "notes.txt").write_text("x")
    assert look([tmp_path]) == before
    (tmp_path / "b.yml").write_text("b")
    assert [Path(one.path).name for one in look([tmp_path])] == ["a.yaml", "b.yml"]


def test_a_file_that_is_empty_or_away_may_be_unfinished_and_a_source_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "there.yaml").write_text("x")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "__init__.py").touch()
    (tmp_path / "no files").mkdir()
    paths = [tmp_path / name for name in ("empty.yaml", "there.yaml", "away.yaml", "no files")]
    seen = look(paths, [tmp_path / "project"])
    assert [one.may_be_unfinished for one in seen] == [True, False, True, True, False]
    assert seen[2].size == AWAY


def test_source_files_of_a_project_are_seen(tmp_path: Path) -> None:
    for name in ("a.py", "p.toml", "notes.txt"):
        (tmp_path / name).write_text("x")
    before = look([], [tmp_path])
    assert [Path(one.path).name for one in before] == ["a.py", "p.toml"]
    (tmp_path / "a.py").write_text("y")
    assert look([], [tmp_path]) != before


def test_source_files_of_packages_are_seen_and_their_folders_watched(tmp_path: Path) -> None:
    inner = tmp_path / "src" / "pkg" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "venv").mkdir()
    for file in (inner / "a.py", tmp_path / "venv" / "b.py"):
        file.write_text("x")
    before = look([], [tmp_path])
    assert [Path(one.path).name for one in before] == ["a.py"]
    found = {folder for folder, _ in folders([], [tmp_path])}
    assert found == {tmp_path, tmp_path / "src", tmp_path / "src" / "pkg", inner}
    (inner / "a.py").write_text("y")
    assert look([], [tmp_path]) != before


def test_of_a_large_project_only_so_many_folders_are_watched(tmp_path: Path) -> None:
    for number in range(MAX_PROJECT_FOLDERS + 5):
        (tmp_path / f"p{number}").mkdir()
    assert len(folders([], [tmp_path])) == MAX_PROJECT_FOLDERS


def test_a_file_that_is_larger_than_may_be_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    with file.open("wb") as opened:
        opened.truncate(MAX_FILE_BYTES * 1000)
    [seen] = look([file])
    assert seen.size == MAX_FILE_BYTES * 1000
    assert seen.content


def config_map(folder: Path, version: str, content: str) -> None:
    """As Kubernetes mounts one, and swaps it: ..data is a link to a folder, the files are links into it."""
    (folder / version).mkdir(parents=True)
    (folder / version / "a.yaml").write_text(content)
    (folder / "..new").symlink_to(version)
    (folder / "..new").rename(folder / "..data")
    if not (folder / "a.yaml").is_symlink():
        (folder / "a.yaml").symlink_to("..data/a.yaml")


def test_the_swap_of_a_config_map_is_seen_and_its_folders_are_watched(tmp_path: Path) -> None:
    config_map(tmp_path, "..1", "one")
    file = tmp_path / "a.yaml"
    before, watched = look([file]), folders([file])
    assert names([file]) >= {tmp_path, tmp_path / "..1"}
    config_map(tmp_path, "..2", "one")
    assert look([file]) != before, "the same content in another file"
    assert folders([file]) != watched
    assert names([file]) >= {tmp_path, tmp_path / "..2"}
    assert look([tmp_path]) != before, "as a folder too"


def test_links_are_watched_on_their_whole_way(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    (tmp_path / "three" / "real.yaml").write_text("x")
    (tmp_path / "two" / "link.yaml").symlink_to("../three/real.yaml")
    (tmp_path / "one" / "a.yaml").symlink_to(tmp_path / "two" / "link.yaml")
    assert names([tmp_path / "one" / "a.yaml"]) >= {tmp_path / name for name in ("one", "two", "three")}


def test_links_in_a_circle_and_folders_that_are_not_there_are_nothing_to_watch(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("b.yaml")
    (tmp_path / "b.yaml").symlink_to("a.yaml")
    assert names([tmp_path / "a.yaml"]) == {tmp_path}
    assert look([tmp_path / "a.yaml"])[0].size == AWAY
    assert folders([tmp_path / "no" / "such" / "folder.yaml"]) == frozenset()


def test_a_folder_that_was_made_anew_is_another(tmp_path: Path) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "a.yaml").write_text("x")
    before = folders([folder])
    folder.rename(tmp_path / "old")
    folder.mkdir()
    assert folders([folder]) != before
