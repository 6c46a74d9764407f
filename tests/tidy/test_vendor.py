"""What the dashboard is made of: libraries as they were published, small modules, and no other host."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tools import vendor

STATIC = ROOT / "services" / "gateway" / "static"
MODULES = sorted(path for path in STATIC.rglob("*.js") if "vendor" not in path.parts)
MAX_LINES = 400
MAX_VENDORED_BYTES = 200_000


@pytest.mark.parametrize("file", vendor.FILES, ids=lambda file: file.name)
def test_a_library_is_what_was_published(file: vendor.Vendored) -> None:
    assert vendor.digest(file.path.read_bytes()) == file.sha256


def test_each_library_has_its_licence() -> None:
    for _, _, _, path in vendor.LICENCES:
        assert len(path.read_text()) > 1000
    named = {name for name, *_ in vendor.LICENCES}
    assert {file.package for file in vendor.FILES} <= named


def test_nothing_else_is_vendored_and_it_stays_small() -> None:
    known = {file.path for file in vendor.FILES} | {path for *_, path in vendor.LICENCES}
    found = set((STATIC / "vendor").iterdir())
    assert found <= known
    assert sum(path.stat().st_size for path in found) < MAX_VENDORED_BYTES


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(STATIC).as_posix())
def test_a_module_is_small_and_asks_no_other_host(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert not re.search(r"innerHTML|dangerouslySetInnerHTML|document\.write|\beval\(|new Function", text)
    urls = {url for url in re.findall(r"https?://[^\s\"'`)/\\]+", text)}
    assert urls <= {"http://www.w3.org"}, urls
    for name in re.findall(r'^(?:import|export|\}).* from "([^"]+)";$', text, re.MULTILINE):
        assert name.startswith("."), f"{name} is not beside it"
        assert (path.parent / name).resolve().is_file(), name


def test_a_source_map_is_not_asked_for() -> None:
    assert vendor.without_map(b"a\n//# sourceMappingURL=x\nb\n") == b"a\nb\n"
    assert all(b"sourceMappingURL" not in file.path.read_bytes() for file in vendor.FILES)
