"""Environments of projects: who gets one, that it is built once, and what is said when it cannot be."""

import fcntl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stoker.functions.environments import OWN, READY, VARIABLE, Environment, environment_of
from stoker.functions.local import run_apart
from stoker.functions.manifest import BadProject
from stoker.functions.requirements import is_met, name_of, stamp_of
from tests.conftest import wait_for
from tests.fixtures import wheels


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "environments"
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


def plain(folder: Path, about: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "app.py").write_text("")
    (folder / "pyproject.toml").write_text(f'[project]\nname = "p"\nversion = "1"\n{about}\n')
    return folder


@pytest.mark.parametrize(
    ("specifier", "fits"),
    [
        ("", True), (">=3.11", True), (">=3.12", False), (">3.11", False), (">3.11.2", True), ("<3.12", True),
        ("<3.11", False), ("<3.11.9", True), ("<=3.11", True), ("==3.11.*", True), ("==3.11", True), ("==3.12.*", False),
        ("==3.*", True), ("!=3.11", False), ("!=3.11.4", True), ("!=2.*", True), ("~=3.11", True), ("~=3.10", True),
        ("~=3.12", False), ("~=3.11.2", True), ("~=3.10.2", False), (">=3.11, <4", True), (">=3", True), ("nonsense", False),
    ],
)  # fmt: skip
def test_whether_a_python_fits(specifier: str, fits: bool) -> None:
    assert is_met(specifier, (3, 11)) is fits


def test_the_name_of_a_requirement_and_the_stamp_of_a_file(tmp_path: Path) -> None:
    assert [name_of(one) for one in ("Pillow[x]>=11", "a_b.c", " torch ; x", "")] == [
        "pillow",
        "a-b-c",
        "torch",
        "",
    ]
    file = wheels.wheel(tmp_path, "1")
    before = stamp_of(f"tinything @ file://{file}", tmp_path)
    file.write_bytes(b"other")
    assert before != stamp_of(f"tinything @ file://{file}", tmp_path) != ""
    (tmp_path / "setup.py").write_text("")
    assert stamp_of(f"here @ file://{tmp_path}", tmp_path) != ""
    assert stamp_of("pillow", tmp_path) == stamp_of("x @ https://somewhere/x.whl", tmp_path) == ""


def test_who_asks_for_nothing_runs_in_stokers_own(tmp_path: Path, root: Path) -> None:
    for about in ("", "dependencies = []", 'dependencies = ["stoker"]\nrequires-python = ">=3.11"'):
        assert environment_of(plain(tmp_path / "p", about)) == OWN
    assert OWN.command("m", "a") == [sys.executable, "-P", "-u", "-m", "m", "a"]
    assert not root.exists()


def test_two_projects_with_different_versions_of_a_package_live_beside_each_other(
    tmp_path: Path, root: Path
) -> None:
    one, two = (
        wheels.project(tmp_path / name, version, name) for name, version in (("a", "1.0"), ("b", "2.0"))
    )
    said: list[str] = []
    first, _ = run_apart(one, "a", {}, say=said.append)
    second, _ = run_apart(two, "b", {})
    assert (first["version"], second["version"]) == ("1.0", "2.0")
    assert first["prefix"] != second["prefix"]
    assert Path(first["prefix"]).parent == root
    assert "installing tinything @ file://" in said[0]
    assert "its environment is ready after" in said[-1]
    said.clear()
    assert environment_of(one, said.append).python == f"{first['prefix']}/bin/python"
    assert said == [], "it is built once"


def test_only_the_sdk_and_msgspec_are_lent_to_an_environment(tmp_path: Path) -> None:
    environment = environment_of(wheels.project(tmp_path / "a", "1.0", "a"))
    shared = Path(environment.shared)
    assert sorted(str(path.relative_to(shared)) for path in shared.glob("*/*") if path.parent.name == "stoker") == [
        "stoker/__init__.py", "stoker/functions",
    ]  # fmt: skip
    assert sorted(path.name for path in shared.iterdir()) == ["msgspec", "stoker"]
    asked = subprocess.run(
        [environment.python, "-P", "-c", "import httpx"], capture_output=True, text=True, check=False
    )
    assert "No module named 'httpx'" in asked.stderr
    again = environment_of(wheels.project(tmp_path / "b", "2.0", "b"))
    assert again.shared == environment.shared


def test_a_half_built_environment_is_built_again(tmp_path: Path) -> None:
    project = wheels.project(tmp_path / "a", "1.0", "a")
    found = Path(environment_of(project).python).parent.parent
    (found / READY).unlink()
    (found / "leftover").touch()
    assert Path(environment_of(project).python).exists()
    assert (found / READY).exists()
    assert not (found / "leftover").exists()


def test_one_builds_and_the_others_wait(tmp_path: Path, root: Path) -> None:
    project = wheels.project(tmp_path / "a", "1.0", "a")
    found = Path(environment_of(project).python).parent.parent
    (found / READY).unlink()
    said: list[str] = []
    results: list[Environment] = []
    with (root / f"{found.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=lambda: results.append(environment_of(project, said.append)))
        waiting.start()
        wait_for(lambda: bool(said), 10, "that it says that it waits")
        (found / READY).touch()
    waiting.join(10)
    assert said == [f"{project}: another process installs its dependencies; waiting"]
    assert len(results) == 1


def test_what_cannot_be_installed_is_said_with_the_installers_words(tmp_path: Path, root: Path) -> None:
    project = plain(tmp_path / "p", 'dependencies = ["gone @ file:///nowhere/gone-1.0-py3-none-any.whl"]')
    with pytest.raises(
        BadProject, match=r"p/pyproject\.toml: its dependencies cannot be installed: .*gone"
    ) as refused:
        environment_of(project)
    assert "\n" not in str(refused.value)
    assert not list(root.glob(f"*/{READY}"))


def test_a_folder_that_cannot_be_written_is_named_with_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "below"))
    with pytest.raises(
        BadProject, match=r"cannot be made in .*/file/below.*; STOKER_ENVIRONMENTS names another"
    ):
        environment_of(plain(tmp_path / "p", 'dependencies = ["x"]'))


def test_an_installer_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.functions.environments.BUILD_TIMEOUT_S", 0.05)
    monkeypatch.setattr("stoker.functions.environments._commands", lambda *_: [["sleep", "60"]])
    with pytest.raises(BadProject, match="its dependencies cannot be installed: status -9"):
        environment_of(plain(tmp_path / "p", 'dependencies = ["x"]'))


def test_environments_can_be_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    said: list[str] = []
    assert environment_of(plain(tmp_path / "p", 'dependencies = ["x"]'), said.append) == OWN
    assert said == [
        f"{tmp_path}/p: its dependencies are not installed, environments are off (--no-environments)"
    ]
    with pytest.raises(
        BadProject, match=r"requires-python is '>=3\.99', this is .*environments of projects are off"
    ):
        environment_of(plain(tmp_path / "p", 'requires-python = ">=3.99"'))


@pytest.fixture
def no_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.functions.environments._uv", lambda: "")


@pytest.mark.usefixtures("no_uv")
def test_another_python_is_found_by_uv_only(tmp_path: Path) -> None:
    with pytest.raises(BadProject, match=r"requires-python is '>=3\.99' and this is .*pip install uv"):
        environment_of(plain(tmp_path / "p", 'requires-python = ">=3.99"'))


@pytest.mark.slow  # pip takes five seconds
@pytest.mark.usefixtures("no_uv")
def test_without_uv_pip_installs(tmp_path: Path) -> None:
    assert run_apart(wheels.project(tmp_path / "a", "3.0", "a"), "a", {})[0]["version"] == "3.0"


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ("dependencies = 'x'", "project.dependencies must be a list of requirements, not 'x'"),
        ("requires-python = 3", "project.requires-python must be a text such as '>=3.11', not 3"),
    ],
)
def test_what_pyproject_says_wrongly_is_named(tmp_path: Path, about: str, says: str) -> None:
    with pytest.raises(BadProject) as refused:
        environment_of(plain(tmp_path / "p", about))
    assert says in str(refused.value)
