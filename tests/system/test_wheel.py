"""The wheel: built, installed alone, and used in a folder that has packages of our folders' names."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import DEMO, ROOT, free_port, is_ready, wait_for

CONFIG = """\
models:
  chat: {{engine: LlamaCpp, url: "file://{chat}", options: {{n_ctx: 256}}}}
"""
UV = Path(sys.executable).parent / "uv"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution of what git has."""
    sources, found = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("built")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    archive = sources / "sources.tar"
    subprocess.run(["tar", "cf", archive, "--null", "-T", "-"], cwd=ROOT, input=files, check=True)
    with tarfile.open(archive) as opened:
        opened.extractall(sources, filter="tar")
    archive.unlink()
    subprocess.run([UV, "build", "-q", "--out-dir", found, sources], check=True)
    return found


@pytest.fixture(scope="module")
def python(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel alone."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([UV, "venv", "-q", "-p", sys.executable, folder / "v"], check=True)
    [wheel] = built.glob("*.whl")
    made = folder / "v" / "bin" / "python"
    command = [UV, "pip", "install", "-q", "-p", made, "-c", ROOT / "constraints.txt", f"{wheel}[llamacpp]"]
    subprocess.run(command, check=True)
    return made


def test_a_wheel_has_one_package_and_a_source_distribution_everything(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"stoker"}
    assert {"stoker/py.typed", "stoker/services/gateway/static/app.js", "stoker/schemas/jobs.py"} <= set(names)
    assert {
        "stoker/deploy/compose.yaml",
        "stoker/deploy/nats/users.conf",
        "stoker/templates/chat/stoker.yaml",
    } <= set(names)
    [source] = built.glob("*.tar.gz")
    with tarfile.open(source) as opened:
        folders = {name.split("/")[1] for name in opened.getnames() if name.count("/") > 1}
    assert folders >= {"stoker", "examples", "deploy", "docs", "bench", "tests", "tools"}


def test_what_it_writes_to_begin_with_comes_from_the_wheel(python: Path, tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "STOKER_"))
    }

    def stoker(*arguments: str) -> str:
        done = subprocess.run(
            [python, "-m", "stoker", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert stoker("--version").startswith("stoker ")
    for kind in ("chat", "images", "functions", "cluster"):
        assert "Next:" in stoker("init", kind)
    assert (tmp_path / "stoker-cluster" / "deploy" / "compose.yaml").exists()
    assert "model chat" in stoker("check", "stoker-chat/stoker.yaml")
    assert "Hello Ada" in stoker("call", "--local", "stoker-functions", "greet", "name=Ada")


def test_it_serves_from_a_folder_that_has_services_and_schemas_of_its_own(python: Path, tmp_path: Path) -> None:
    for name in ("services", "schemas"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('of another')\n")
    (tmp_path / "stoker.yaml").write_text(CONFIG.format(chat=DEMO / "chat.gguf"))
    port = free_port()
    command = [python, "-m", "stoker", "up", "--config", "stoker.yaml", "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: is_ready(url), 60, "a ready gateway")
        told = subprocess.run(
            [python, "-m", "stoker", "run", "chat", "What is NATS?", "--url", url],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert "NATS is" in told.stdout, told.stderr
    finally:
        process.terminate()
        process.wait(30)
