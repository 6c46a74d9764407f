"""Official clients, unmodified, against a real system; the table of docs/clients.md is what was run here."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DEMO, ROOT, System
from tests.fixtures.smollm2 import smollm2
from tests.fixtures.text_models import THINKS, remade
from tests.fixtures.tiny_whisper import sound, tiny_whisper

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CLIENTS = ROOT / "tests" / "clients"
PAGE = ROOT / "docs" / "clients.md"
MODELS = """\
models:
  smol: {{engine: llamacpp, url: "file://{smol}"}}
  think: {{engine: llamacpp, url: "file://{folder}/think.gguf"}}
  first: {{engine: llamacpp, url: "file://{folder}/first.gguf"}}
  whisper: {{engine: whisper, url: "file://{folder}/whisper"}}
  picture: {{engine: diffusers, url: "file://{image}"}}
  cold: {{engine: synthetic, options: {{load_s: 3}}}}
workers:
  - {{count: 1, memory: 6GB, engines: [llamacpp, whisper, diffusers, synthetic]}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("clients")
    remade(found / "think.gguf", template=THINKS)
    remade(found / "first.gguf", pooling=2)
    tiny_whisper(found / "whisper")
    (found / "sound.wav").write_bytes(sound(2))
    return found


@pytest.fixture(scope="module")
def system(folder: Path) -> Iterator[System]:
    found = System(folder / "system", MODELS.format(smol=smollm2(), folder=folder, image=DEMO / "image"))
    try:
        found.wait_ready()
        yield found
    finally:
        found.stop()


def results(command: list[str], cwd: Path) -> list[dict[str, Any]]:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=400, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"client"')]
    assert lines and done.returncode == 0, done.stderr[-3000:]
    return lines


def run_python(system: System, folder: Path) -> list[dict[str, Any]]:
    python = ROOT / ".venv-clients" / "bin" / "python"
    if not python.exists():
        pytest.skip("there is no .venv-clients; make test-all makes it")
    return results([str(python), str(CLIENTS / "checks.py"), system.url, str(folder)], folder)


def run_node(system: System, folder: Path) -> list[dict[str, Any]]:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm")
    for name in ("package.json", "checks.mjs"):
        shutil.copy(CLIENTS / name, folder / name)
    subprocess.run([npm, "install", "--silent", "--no-audit"], cwd=folder, check=True, timeout=300)
    return results(["node", "checks.mjs", system.url], folder)


def note(done: list[dict[str, Any]]) -> None:
    """Write what was run into the page."""
    rows: dict[tuple[str, str], list[str]] = {}
    for one in done:
        rows.setdefault((one["client"], one["version"]), []).append(one["what"])
    lines = ["| client | version | what was run |", "|---|---|---|"]
    lines += [f"| {name} | {version} | {'; '.join(what)} |" for (name, version), what in rows.items()]
    head, _, rest = PAGE.read_text().partition("<!-- table -->\n")
    _, _, tail = rest.partition("<!-- end -->\n")
    PAGE.write_text(f"{head}<!-- table -->\n" + "\n".join(lines) + f"\n<!-- end -->\n{tail}")


def test_every_client_does_all_that_the_page_says(system: System, folder: Path) -> None:
    done = run_python(system, folder) + run_node(system, folder)
    failed = [f"{one['client']}, {one['what']}:\n{one['error']}" for one in done if one["error"]]
    assert not failed, "\n\n".join(failed)
    assert len(done) > 25
    note(done)
