"""Files of a spec: written once, by their content, and called by where they are."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.schemas.catalog import Spec, SpecFile
from stoker.services.worker.models.spec_files import VARIABLE, files_folder, placed


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "files"))
    return tmp_path / "files"


def spec(*files: SpecFile, args: tuple[str, ...] = (), **env: str) -> Spec:
    return Spec("s", "vllm", "hf://o/n", args=args, env=env, files=files)


def test_args_and_env_name_where_the_file_is() -> None:
    given = spec(
        SpecFile("/config/t.jinja", "{{ x }}\r\n"),
        args=(
            "--chat-template=/config/t.jinja",
            "--template",
            "/config/t.jinja",
            "--a=b",
            "/config/t.jinja.old",
        ),
        TEMPLATE="/config/t.jinja",
        OTHER="x",
    )
    args, env = placed(given)
    place = Path(env["TEMPLATE"])
    assert place.read_bytes() == b"{{ x }}\r\n" and place.name == "t.jinja"
    assert args == (f"--chat-template={place}", "--template", str(place), "--a=b", "/config/t.jinja.old")
    assert env["OTHER"] == "x"


def test_the_same_files_lie_in_one_place_and_others_elsewhere(folder: Path) -> None:
    first = placed(spec(SpecFile("/a/b", "x"), F="/a/b"))
    assert placed(spec(SpecFile("/a/b", "x"), F="/a/b")) == first
    second = placed(spec(SpecFile("/a/b", "y"), F="/a/b"))
    assert [Path(env["F"]).read_text() for _, env in (first, second)] == ["x", "y"]
    assert len(list(folder.iterdir())) == 2
    assert [path for path in folder.rglob("*") if path.name.startswith("tmp")] == []


def test_without_files_nothing_is_written(folder: Path) -> None:
    assert placed(spec(args=("--x",), A="b")) == (("--x",), {"A": "b"})
    assert not folder.exists()


def test_nobody_else_reads_them(folder: Path) -> None:
    placed(spec(SpecFile("/a", "secret")))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_was_changed_is_written_again() -> None:
    _, env = placed(spec(SpecFile("/a", "right"), F="/a"))
    Path(env["F"]).write_text("wrong")
    placed(spec(SpecFile("/a", "right"), F="/a"))
    assert Path(env["F"]).read_text() == "right"


def test_a_folder_of_somebody_else_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = os.getuid()
    folder.mkdir()
    monkeypatch.setattr("os.getuid", lambda: mine + 1)
    with pytest.raises(PermissionError, match=VARIABLE):
        placed(spec(SpecFile("/a", "x")))


def test_it_is_a_folder_of_this_user_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    assert files_folder().name == f"stoker-files-{os.getuid()}"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"])))
def test_the_content_is_kept_to_the_byte(content: str) -> None:
    _, env = placed(spec(SpecFile("/a", content), F="/a"))
    assert Path(env["F"]).read_bytes() == content.encode()
