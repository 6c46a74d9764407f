"""`stoker init`: what is written is read without a complaint, nothing is overwritten, and the old call works."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stoker.cli.init import DEPLOY, KINDS, MODELS
from stoker.cli.main import app
from stoker.services.catalog.load import load
from tests.conftest import DEMO, free_port


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STOKER_NATS", raising=False)
    return tmp_path


def init(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["init", *arguments])


@pytest.mark.parametrize("kind", ["chat", "images"])
def test_a_configuration_is_written_that_can_be_read(folder: Path, kind: str) -> None:
    done = init(kind)
    assert done.exit_code == 0, done.output
    assert "Next:" in done.output and "stoker up" in done.output and "stoker run" in done.output
    found = load([folder / f"stoker-{kind}" / "stoker.yaml"])
    assert [model.specs[0].url for model in found.models] == [MODELS[kind]]
    assert found.warnings == ()


def test_weights_of_ones_own_are_named_by_their_path(folder: Path) -> None:
    assert init("chat", "mine", "--model", str(DEMO / "chat.gguf")).exit_code == 0
    [model] = load([folder / "mine" / "stoker.yaml"]).models
    assert model.specs[0].url == f"file://{DEMO / 'chat.gguf'}"


def test_functions_run_as_they_are_written(folder: Path) -> None:
    done = init("functions", "f")
    assert {path.name for path in (folder / "f").iterdir()} == {"app.py", "pyproject.toml"}, done.output
    called = CliRunner().invoke(app, ["call", "--local", "f", "greet", "name=Ada", "times=2"])
    assert '"Hello Ada, Hello Ada"' in called.stdout, called.output


def test_a_cluster_has_the_deploy_files(folder: Path) -> None:
    done = init("cluster", "c")
    assert done.exit_code == 0 and "docker compose" in done.output
    names = {
        str(path.relative_to(folder / "c" / "deploy")) for path in (folder / "c").rglob("*") if path.is_file()
    }
    assert {"compose.yaml", "nats/users.conf", "nomad/stoker.nomad.hcl", "grafana/stoker.json"} <= names
    there = {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file()}
    assert names == there - {".env"}


@pytest.mark.parametrize("kind", list(KINDS))
def test_nothing_is_overwritten(kind: str) -> None:
    assert init(kind, "x").exit_code == 0
    again = init(kind, "x")
    assert again.exit_code == 2 and "is there already" in again.stderr


@pytest.mark.parametrize("arguments", [(), ("chart",)])
def test_what_there_is_is_said(arguments: tuple[str, ...]) -> None:
    done = init(*arguments)
    assert done.exit_code == 2
    assert all(f"stoker init {kind}" in done.stderr for kind in KINDS)


@pytest.mark.parametrize("before", [("--nats",), ("streams", "--nats")])
def test_the_call_of_before_makes_streams_and_says_what_it_is_called_now(before: tuple[str, ...]) -> None:
    done = init(*before, f"nats://127.0.0.1:{free_port()}", "--wait-s", "0")
    assert done.exit_code == 2
    assert "stoker install-streams" in done.stderr and "no NATS server listens" in done.stderr
    assert "waiting for it, 0 s at most" in done.stderr


def test_so_does_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_NATS", f"nats://127.0.0.1:{free_port()}")
    monkeypatch.setenv("STOKER_WAIT_S", "0")
    assert "no NATS server listens" in init().stderr
    assert init("chat").exit_code == 0
