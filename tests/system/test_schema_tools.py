"""Our documents in the tools of others, which are fetched from npm: AsyncAPI's own parser, and the server that
editors ask about YAML.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from stoker.cli.init import written
from stoker.services.bus.asyncapi import document
from tests.conftest import ROOT

TOOLS = ROOT / "tests" / "schema_tools"
WARNING = 2


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of tests/schema_tools/package.json."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm")
    folder = tmp_path_factory.mktemp("tools")
    for path in TOOLS.iterdir():
        shutil.copy(path, folder)
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=110)
    if done.returncode:
        pytest.skip(f"npm gives nothing: {done.stderr[-300:]}")
    return folder


@pytest.mark.slow
def test_the_official_parser_reads_the_document_of_the_bus(tools: Path) -> None:
    written = tools / "asyncapi.json"
    written.write_text(json.dumps(document("0.1.0")))
    command = ["node", "asyncapi.mjs", str(written)]
    environment = os.environ | {"NODE_NO_WARNINGS": "1"}
    done = subprocess.run(command, cwd=tools, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one for one in found["findings"] if one["severity"] < WARNING] == []
    assert found["channels"] == len(document("0.1.0")["channels"])


def in_an_editor(tools: Path, file: Path, line: int, column: int) -> Any:
    command = ["node", "yaml.mjs", str(file), str(line), str(column)]
    done = subprocess.run(command, cwd=tools, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_an_editor_checks_and_completes_what_stoker_init_writes(tools: Path, tmp_path: Path) -> None:
    written("chat", tmp_path, "hf://a/b/c.gguf")
    file = tmp_path / "stoker.yaml"
    right = file.read_text()
    assert in_an_editor(tools, file, 0, 0)["diagnostics"] == []
    file.write_text(right.replace("# options: {n_ctx: 8192}", "options: {n_ctxx: 8192}"))
    [wrong] = in_an_editor(tools, file, 0, 0)["diagnostics"]
    assert "n_ctxx" in wrong["message"]
    lines = right.splitlines()
    at = next(number for number, text in enumerate(lines) if text.startswith("    url:"))
    file.write_text("\n".join([*lines[: at + 1], "    ", *lines[at + 1 :]]))
    offered = in_an_editor(tools, file, at + 1, 4)["offered"]
    assert {"options", "slots", "memory", "adapters"} <= set(offered)
    assert "minReplicas" not in offered
