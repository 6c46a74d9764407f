"""What modules a project has, under which names they are imported, and what is said of those that are not."""

import sys
from pathlib import Path

import pytest

from stoker.functions.layout import package_name, source_files, source_folders
from stoker.functions.local import run_apart
from stoker.functions.manifest import is_module_name, located, read_manifest
from stoker.functions.project import BadProject, load_project

pytestmark = pytest.mark.usefixtures("own_imports")

HEAD = """\
import msgspec
from stoker import ActionContext, worker_function
class In(msgspec.Struct):
    n: int = 1
"""
FUNCTION = "@worker_function()\ndef {}(ctx: ActionContext, payload: In) -> In:\n    return In({})\n"


def write(folder: Path, **files: str) -> Path:
    """Files by their paths, with __ for / and without .py."""
    for name, text in files.items():
        file = folder / (name.replace("__", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def function(name: str, value: str = "payload.n", before: str = "") -> str:
    return before + HEAD + FUNCTION.format(name, value)


def names(folder: Path) -> list[str]:
    return sorted(load_project(folder).functions)


def test_modules_are_the_files_at_the_top_and_those_of_packages_with_functions(tmp_path: Path) -> None:
    write(
        tmp_path, plain="", pkg__main=function("a"), pkg__other="", pkg__deep__inner=function("b"),
        tests__helper=function("c"), pkg__test_it=function("d"), venv__lib=function("e"),
    )  # fmt: skip
    (tmp_path / "own").mkdir()
    write(tmp_path / "own", mod=function("f"))
    (tmp_path / "own" / "pyvenv.cfg").write_text("")
    assert read_manifest(tmp_path).modules == ("pkg.main", "pkg.deep.inner")
    assert [place.name for place in source_folders(tmp_path)][1:] == ["pkg", "deep"]
    assert len(source_files(tmp_path, ("*.py",))) == 5


def test_a_tool_beside_the_functions_is_not_imported(tmp_path: Path) -> None:
    write(tmp_path, noxfile="import nothing_like_nox\n", app=function("a"), loaders="# register_loader\n")
    assert read_manifest(tmp_path).modules == ("app", "loaders")
    other = write(tmp_path / "other", noxfile="import nothing_like_nox\n", src__app__main=function("b"))
    (other / "pyproject.toml").write_text("")
    assert read_manifest(other).modules == ("app.main",)
    assert names(tmp_path) == ["a"], "the other project in its folder is none of its own"


def test_where_no_file_has_functions_of_its_own_all_at_the_top_are_imported(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", given=function("g"))
    sys.path.append(str(tmp_path / "elsewhere"))
    write(tmp_path / "here", one="from given import g\n", two="")
    assert read_manifest(tmp_path / "here").modules == ("one", "two")
    assert names(tmp_path / "here") == ["g"]


def test_a_src_folder_is_the_root_of_its_packages(tmp_path: Path) -> None:
    write(tmp_path, src__app__main=function("a", before="from app.more import X\n"), src__app__more="X = 1\n")
    manifest = read_manifest(tmp_path)
    assert (manifest.modules, manifest.roots) == (("app.main",), (tmp_path / "src", tmp_path))
    assert names(tmp_path) == ["a"]


def test_a_package_without_init_wins_over_ours_and_gives_way_to_what_is_installed(tmp_path: Path) -> None:
    write(
        tmp_path,
        services__mine="X = 2\n",
        msgspec__readme="",
        app=function("a", "X", "from services.mine import X\n"),
    )
    assert run_apart(tmp_path, "a", {})[0] == {"n": 2}


def test_a_folder_of_data_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml" / "weights.bin").write_bytes(b"")
    write(tmp_path, app=function("a", before="import yaml\nyaml.safe_load\n"))
    assert names(tmp_path) == ["a"]


def test_a_folder_that_is_a_package_itself_has_its_own_name(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    write(
        folder,
        __init__="from .main import buy\n",
        main=function("buy", before="from shop.more import X\n"),
        more="X = 1\n",
    )
    (folder / "__init__.py").write_text("from .main import buy\n")
    project = load_project(folder)
    assert (sorted(project.functions), project.functions["buy"].call.__module__) == (["buy"], "shop.main")


def test_a_module_with_the_standard_librarys_name_has_its_functions_and_shadows_nothing(tmp_path: Path) -> None:
    write(
        tmp_path,
        statistics=function("mean"),
        app=function("a", before="import statistics\nstatistics.median\n"),
    )
    project = load_project(tmp_path)
    assert project.functions["mean"].call.__module__ == f"{package_name(tmp_path)}.statistics"
    assert sorted(project.functions) == ["a", "mean"]


def test_the_same_function_in_two_modules_is_one_and_two_of_a_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, one=function("f"), two="from one import f\n")
    assert names(tmp_path) == ["f"]
    other = write(tmp_path / "other", three=function("g"), four=function("g"))
    with pytest.raises(BadProject, match=r"three\.py:5: a function 'g' is there already, at .*four\.py:5"):
        load_project(other)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"app": "from types import Mine\n"}, "app.py:1: from types import Mine: ImportError"),
        (
            {"app": "from types import Mine\n", "types": "Mine = 1\n"},
            "rename types.py, or write `from .types import …`",
        ),
        ({"app": "import util.none\n", "util": ""}, "util is of this project, and there is no util.none in it"),
        (
            {"app": "import nothing_here\n"},
            "pip install nothing_here, or add it to dependencies in pyproject.toml",
        ),
        ({"app": "def (:\n"}, "app.py:1: SyntaxError"),
        ({"msgspec": HEAD}, "the module 'msgspec' has the name of one that is in use already"),
        ({"app": "x = 1\n"}, "no @worker_function in app"),
        (
            {"app": HEAD + "@worker_function()\ndef f(ctx: ActionContext) -> In: ...\n"},
            "app.py:5: f: exactly one",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_a_remedy(
    tmp_path: Path, files: dict[str, str], says: str
) -> None:
    with pytest.raises(BadProject) as refused:
        load_project(write(tmp_path, **files))
    assert says in str(refused.value)


def test_a_module_that_pyproject_names_and_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.stoker]\nmodules = ["absent"]\n')
    with pytest.raises(
        BadProject, match=r"modules in pyproject\.toml names absent, and there is no absent\.py"
    ):
        load_project(tmp_path)


def test_an_installed_module_is_a_project(tmp_path: Path) -> None:
    write(tmp_path, store__main=function("sell"), store__more="")
    sys.path.insert(0, str(tmp_path))
    manifest = read_manifest(Path("store.main"))
    assert (manifest.project, manifest.folder, manifest.roots) == ("store.main", tmp_path / "store", ())
    assert (located(Path("store.main")), located(Path("a/b"))) == (Path("store.main"), Path("a/b").absolute())
    assert names(Path("store.main")) == ["sell"]
    assert not is_module_name(Path("no_such_module_at_all"))
    with pytest.raises(BadProject, match="nor is a module of this name installed in Stoker's environment"):
        read_manifest(Path("no_such_module_at_all"))


def test_the_name_of_a_folder_as_a_package() -> None:
    found = [package_name(Path(name)) for name in ("shop", "my-shop", "3d", "types", "stoker", "a.b")]
    assert found == ["shop", "my_shop", "_3d", "types_project", "stoker_project", "a_b"]
