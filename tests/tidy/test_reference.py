"""The documentation site builds without a warning, its reference has everything, its tables name what there is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from stoker.cli.commands import COMMANDS
from stoker.services.catalog.load import WorkerEntry
from stoker.services.catalog.multi_spec import SpecEntry
from stoker.services.catalog.profiles import ProfileEntry
from stoker.services.catalog.short_form import ModelEntry
from tests.conftest import ROOT
from tools import reference


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in reference.PAGES:
        assert (tmp_path / "reference" / name / "index.html").stat().st_size > 5000


def test_every_command_is_in_the_reference() -> None:
    page = reference.command_line()
    assert len(COMMANDS) > 15
    assert [name for name in COMMANDS if f"`stoker {name}`" not in page] == []


def test_every_route_subject_and_metric_is_described() -> None:
    for page in (reference.routes(), reference.subjects(), reference.metrics(), reference.settings()):
        rows = [line.strip("| \n").split(" | ") for line in page.splitlines() if line.startswith("| `")]
        assert len(rows) >= 13
        assert [row for row in rows if len(row) < 2 or not max(row[1:], key=len).strip()] == []


@pytest.mark.parametrize(
    ("page", "head", "entry"),
    [
        ("operating.md", "key of a model", ModelEntry),
        ("operating.md", "key of `workers[]`", WorkerEntry),
        ("scaling.md", "field of a spec", SpecEntry),
        ("scaling.md", "field of a profile", ProfileEntry),
    ],
)
def test_a_table_of_keys_names_them_all(page: str, head: str, entry: type[msgspec.Struct]) -> None:
    text = (ROOT / "docs" / page).read_text()
    table = text[text.index(f"| {head}") :].partition("\n\n")[0]
    firsts = " ".join(line.split("|")[1] for line in table.splitlines()[2:])
    named = set(re.findall(r"`(\w+)", firsts))
    written = {field.encode_name for field in msgspec.structs.fields(entry)}
    assert named == written
