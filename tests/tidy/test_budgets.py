"""Style as a test: the sizes that CONTRIBUTING.md asks for, and no file that names a machine."""

import ast
import statistics
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

MAX_FILE_LINES = 400
MAX_MEDIAN_LINES = 150
MAX_FUNCTION_LINES = 60
SOURCES = sorted(path for folder in ("schemas", "services", "stoker") for path in (ROOT / folder).rglob("*.py"))


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short_and_opens_with_its_rules(path: Path) -> None:
    source = path.read_text()
    assert lines_of(path) <= MAX_FILE_LINES
    if source:
        assert ast.get_docstring(ast.parse(source)), "a file opens by saying what it is"


def test_the_median_file_is_small() -> None:
    assert statistics.median(lines_of(path) for path in SOURCES if path.read_text()) <= MAX_MEDIAN_LINES


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


def test_no_file_that_is_committed_is_large() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    sizes = {path.name: path.stat().st_size for path in paths if path.exists()}
    weights = sum(size for name, size in sizes.items() if name.endswith((".gguf", ".safetensors")))
    assert weights < 10_000_000
    assert "uv.lock" not in sizes
