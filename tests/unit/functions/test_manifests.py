"""pyproject.toml of a function project: what it says, and what is refused with the key and the remedy."""

from pathlib import Path
from typing import Any

import pytest

from stoker.functions.project import BadProject, read_manifest
from stoker.schemas.catalog import NEEDS_GPU, FunctionModel
from stoker.services.catalog.documents import ConfigurationError
from stoker.services.catalog.functions import (
    Described,
    ProjectDescription,
    Weights,
    models_of,
    read_project,
    read_projects,
)


def manifest(folder: Path, text: str) -> Path:
    (folder / "app.py").write_text("")
    (folder / "pyproject.toml").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tool = 3\n", "tool must be a table, not 3"),
        ("[tool]\nstoker = 'x'\n", "tool.stoker must be a table, not 'x'"),
        ("[tool]\ncozy = 1\n", "tool.cozy must be a table, not 1"),
        ("[tool.stoker]\nmodels = 'x'\n", "tool.stoker.models must be a table, not 'x'"),
        ("[tool.cozy]\nmodels = [1]\n", "tool.cozy.models must be a table, not [1]"),
        ("[tool.stoker]\nmodules = 'app'\n", "tool.stoker.modules must be a list of module names, not 'app'"),
        ("[tool.stoker]\nmodules = [1]\n", "tool.stoker.modules must be a list of module names, not [1]"),
        ("[tool.stoker]\ndebug = 'false'\n", "tool.stoker.debug must be true or false, not 'false'"),
        ("[tool.stoker]\ndebug = 1\n", "tool.stoker.debug must be true or false, not 1"),
        ("[tool.stoker]\nzzz = 1\n", "tool.stoker has no 'zzz'; known are: debug, models, modules"),
        ("[tool.stoker.models]\nx = true\n", "models.x must be a model id, not True"),
        ("[tool.stoker\n", "not valid TOML"),
        ("a = 1\na = 2\n", "not valid TOML"),
    ],
)
def test_a_wrong_key_is_named_with_the_file(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadProject) as refused:
        read_manifest(manifest(tmp_path, text))
    assert str(refused.value).startswith(f"{tmp_path}/pyproject.toml: ")
    assert says in str(refused.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (manifest(tmp_path, "") / "pyproject.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadProject, match="not valid TOML"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[project]\nname = 'x'\n", "[tool.ruff]\nline-length = 3\n", "[tool.stoker]\n"]
)
def test_a_project_that_says_nothing_of_us_has_every_module_and_no_model(tmp_path: Path, text: str) -> None:
    found = read_manifest(manifest(tmp_path, text))
    assert (found.folder, found.modules, found.models, found.is_debug) == (tmp_path, ("app",), {}, False)


def test_modules_are_the_files_that_are_no_tests_and_no_tools(tmp_path: Path) -> None:
    for name in ("b", "a", "test_a", "conftest", "setup", "not-a-name", "1st"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "package").mkdir()
    assert read_manifest(tmp_path).modules == ("a", "b")


def test_modules_that_are_named_are_the_only_ones(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("")
    found = read_manifest(manifest(tmp_path, "[tool.stoker]\nmodules = ['app', 'pkg.inner']\ndebug = true\n"))
    assert (found.modules, found.is_debug) == (("app", "pkg.inner"), True)


def test_a_folder_without_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadProject, match="there is no Python file in this folder"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("owner/name", "hf://owner/name"),
        ("hf://owner/name", "hf://owner/name"),
        ("s3://bucket/name", "s3://bucket/name"),
        ("./m", "file://{folder}/m"),
        ("../m", "file://{parent}/m"),
        ("/abs/m", "file:///abs/m"),
        ("file://./m", "file://{folder}/m"),
        ("file:///abs/m", "file:///abs/m"),
        ("~/m", "file:///home/somebody/m"),
    ],
)
def test_a_model_id_is_on_the_hub_or_relative_to_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, url: str
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    found = read_manifest(manifest(tmp_path, f"[tool.stoker.models]\nx = '{written}'\n"))
    assert found.models == {"x": url.format(folder=tmp_path, parent=tmp_path.parent)}


def test_our_own_table_wins_over_the_other(tmp_path: Path) -> None:
    text = "[tool.cozy.models]\nx = 'a/b'\ny = 'a/c'\n[tool.stoker.models]\nx = 'd/e'\n"
    assert read_manifest(manifest(tmp_path, text)).models == {"x": "hf://d/e", "y": "hf://a/c"}


def described(name: str = "f", **changes: Any) -> Described:
    plain: dict[str, Any] = {
        "name": name, "description": "", "input_schema": {}, "output_schema": {}, "streams": False, "models": (),
        "concurrency": 1, "timeout_s": 60.0, "memory": "", "vram": "", "gpu": False, "cpu": 0.0,
    }  # fmt: skip
    return Described(**(plain | changes))


def test_every_function_is_a_model_and_every_model_that_one_may_use() -> None:
    fixed = (FunctionModel("pipe", "fixed", "big"),)
    project = ProjectDescription(
        "/p", False, {"big": Weights("hf://a/b", "m:K"), "unused": Weights("hf://a/c", "")},
        (described("draw", models=fixed, concurrency=3, vram="2GB", timeout_s=5.0), described("say", streams=True)),
    )  # fmt: skip
    draw, say, big = models_of(project, "v1")
    assert (draw.name, draw.run_timeout_s, draw.specs[0].slots) == ("draw", 5.0, 3)
    assert draw.function is not None and say.function is not None
    assert (draw.function.keys, say.function.keys, say.function.streams) == (("big", "unused"), (), True)
    assert (big.name, big.features, big.specs[0].url, big.specs[0].slots) == (
        "big",
        ("Weights",),
        "hf://a/b",
        3,
    )
    assert big.specs[0].memory_bytes == 2 * 10**9
    assert big.specs[0].options["kind"] == "m:K"


def test_a_key_of_the_payload_may_be_any_model_of_the_project() -> None:
    chooses = described("f", models=(FunctionModel("m", "payload", "key"),), vram="1GB")
    more = described("g", models=(FunctionModel("m", "fixed", "a"),), vram="3GB", concurrency=4)
    project = ProjectDescription(
        "/p", False, {"a": Weights("/a", "k:K"), "b": Weights("/b", "k:K")}, (chooses, more)
    )
    a, b = models_of(project, "v")[2:]
    assert [(one.name, one.specs[0].memory_bytes, one.specs[0].slots) for one in (a, b)] == [
        ("a", 3 * 10**9, 1),
        ("b", 10**9, 1),
    ]


def test_what_needs_a_gpu_says_so_and_what_does_not_is_silent() -> None:
    needs = described("f", gpu=True, models=(FunctionModel("m", "fixed", "a"),))
    project = ProjectDescription("/p", False, {"a": Weights("/a", "k:K")}, (needs, described("g")))
    f, g, a = models_of(project, "v")
    assert [NEEDS_GPU in one.specs[0].options for one in (f, g, a)] == [True, False, True]


def test_the_memory_limit_of_a_project_is_its_hungriest_functions() -> None:
    project = ProjectDescription("/p", False, {}, (described("f", memory="1GB"), described("g", memory="3GiB")))
    assert {one.specs[0].options["memory_limit"] for one in models_of(project, "v")} == {3 * 1024**3}


@pytest.mark.parametrize("field", ["memory", "vram"])
def test_a_size_that_is_none_is_an_error_of_the_requirements(field: str) -> None:
    one = described(models=(FunctionModel("m", "fixed", "a"),), **{field: "lots"})
    with pytest.raises(ConfigurationError, match="ResourceRequirements: 'lots' is not a size; write 512MB"):
        models_of(ProjectDescription("/p", False, {"a": Weights("/a", "k:K")}, (one,)), "v")


CODE = """
import atexit, sys, msgspec
from stoker import ActionContext, worker_function
print("imported", end="")
atexit.register(print, "goodbye")
class P(msgspec.Struct):
    n: int
@worker_function()
def f(ctx: ActionContext, payload: P) -> P: ...
"""


def test_what_a_project_prints_does_not_get_into_its_description(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(CODE)
    [model] = read_project(tmp_path)
    assert model.name == "f"
    before = model.specs[0].options["version"]
    (tmp_path / "app.py").write_text(CODE + "# changed\n")
    [model] = read_project(tmp_path)
    assert model.specs[0].options["version"] != before


def test_a_project_that_cannot_be_imported_is_a_configuration_error_with_the_last_word(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import atexit; atexit.register(print, 'x')\nraise RuntimeError('broken here')\n"
    )
    with pytest.raises(ConfigurationError, match=r"app\.py:2: .*RuntimeError: broken here"):
        read_project(tmp_path)


def test_a_project_that_has_not_changed_is_not_imported_again(tmp_path: Path) -> None:
    imported = tmp_path / "imported.txt"
    (tmp_path / "pkg").mkdir()
    more = f"open({str(imported)!r}, 'a').write('x')\nfrom pkg import other\n"
    (tmp_path / "app.py").write_text(more + CODE)
    (tmp_path / "pkg" / "other.py").write_text("")
    [[before]] = read_projects([tmp_path])
    assert read_projects([tmp_path]) == [[before]]
    assert imported.read_text() == "x"
    (tmp_path / "pkg" / "other.py").write_text("# a change in a package\n")
    [[after]] = read_projects([tmp_path])
    assert (imported.read_text(), after != before) == ("xx", True)


def test_one_of_several_projects_that_is_wrong_is_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "app.py").write_text(CODE if name == "a" else "import nothing_like_this\n")
    with pytest.raises(ConfigurationError, match=r"b/app\.py:1: .*nothing_like_this"):
        read_projects([tmp_path / "a", tmp_path / "b"])
    assert read_projects([]) == []


def test_a_payload_that_cannot_be_read_from_json_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("class Thing: ...\n" + CODE.replace("n: int", "n: Thing"))
    with pytest.raises(
        ConfigurationError, match=r"app\.py:9: f: P\.n is of Thing, which cannot be read from JSON"
    ):
        read_project(tmp_path)


def test_what_goes_in_and_out_travels_as_a_description(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(CODE)
    [model] = read_project(tmp_path)
    assert model.function is not None
    field = {"name": "n", "type": {"kind": "plain", "name": "int"}, "is_required": True}
    described = {"type": {"kind": "object", "name": "P"}, "objects": {"P": {"fields": [field]}}}
    assert model.function.input_type == model.function.output_type == described
