"""What a function project's pyproject.toml says, and what its folder says where that is silent.

[project]
dependencies = ["pillow>=11"]      # installed into an environment of the project's own
requires-python = ">=3.11"

[tool.stoker]                      # optional
modules = ["app"]                  # default: see layout.py
debug = true                       # callers see tracebacks

[tool.stoker.models]               # or [tool.cozy.models]
sdxl-base = "stabilityai/stable-diffusion-xl-base-1.0"
local = "file://./checkpoints/tiny"

Read without importing anything of the project.
"""

import importlib.util
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from stoker.functions.layout import modules_in, roots_of

KNOWN_KEYS = ("debug", "models", "modules")


class BadProject(Exception):
    """A project that cannot be served; says where and what to do."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """models: key → URL. roots: the folders that its modules are imported from, () for an installed package."""

    folder: Path
    modules: tuple[str, ...]
    models: dict[str, str]
    is_debug: bool
    roots: tuple[Path, ...] = ()
    dependencies: tuple[str, ...] = ()
    requires_python: str = ""

    @property
    def project(self) -> str:
        """What reads it again: the folder, or the installed module's name."""
        return str(self.folder) if self.roots else self.modules[0]


def located(project: Path) -> Path:
    """A project as it is found from any folder: an absolute path, or the name of an installed module."""
    return project if is_module_name(project) else project.absolute()


def is_module_name(path: Path) -> bool:
    """Whether what was given as a project is the name of an installed module, such as `package.module`."""
    names = str(path).split(".")
    if path.exists() or not all(name.isidentifier() for name in names):
        return False
    return _found(names[0]) is not None


def read_manifest(folder: Path) -> Manifest:
    """Of a folder, or of an installed module by its name. Raises BadProject with the place of what is wrong."""
    if is_module_name(folder):
        return Manifest(_installed(str(folder)), (str(folder),), {}, False)
    if not folder.is_dir():
        raise BadProject(
            f"{folder}: there is no such folder; nor is a module of this name installed in Stoker's environment"
        )
    path = folder / "pyproject.toml"
    content: Mapping[str, Any] = {}
    if path.exists():
        try:
            content = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadProject(f"{path}: not valid TOML: {error}") from error
    stoker = _table(path, content, "tool", "stoker")
    models: dict[str, str] = {}
    for name in ("cozy", "stoker"):
        for key, value in _table(path, content, "tool", name, "models").items():
            if not isinstance(value, str):
                raise BadProject(f"{path}: models.{key} must be a model id, not {value!r}")
            models[key] = _url(folder, value)
    unknown = sorted(set(stoker) - set(KNOWN_KEYS))
    if unknown:
        raise BadProject(f"{path}: tool.stoker has no {unknown[0]!r}; known are: {', '.join(KNOWN_KEYS)}")
    is_debug = stoker.get("debug", False)
    if not isinstance(is_debug, bool):
        raise BadProject(f"{path}: tool.stoker.debug must be true or false, not {is_debug!r}")
    roots = roots_of(folder)
    named = _texts(path, stoker, "tool.stoker", "modules", "module names")
    modules = named or modules_in(roots)
    if not modules:
        raise BadProject(
            f"{folder}: there is no Python file in this folder, in its src folder, or in a package there with "
            "@worker_function; modules in [tool.stoker] of pyproject.toml names them where they lie elsewhere"
        )
    about = _table(path, content, "project")
    python = about.get("requires-python", "")
    if not isinstance(python, str):
        raise BadProject(f"{path}: project.requires-python must be a text such as '>=3.11', not {python!r}")
    dependencies = _texts(path, about, "project", "dependencies", "requirements")
    return Manifest(folder, modules, models, is_debug, roots, dependencies, python)


def _found(top: str) -> ModuleSpec | None:
    """An installed module or package, not imported; None where there is none."""
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None


def _installed(name: str) -> Path:
    """The folder that an installed module, or the top package of it, lies in."""
    spec = _found(name.partition(".")[0])
    assert spec is not None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin or ".").parent


def _texts(path: Path, table: Mapping[str, Any], name: str, key: str, what: str) -> tuple[str, ...]:
    found = table.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise BadProject(f"{path}: {name}.{key} must be a list of {what}, not {found!r}")
    return tuple(found)


def _table(path: Path, content: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """A table, empty where it is not there. Raises BadProject when something else stands in its place."""
    found: Any = content
    for index, key in enumerate(keys, 1):
        found = found.get(key, {})
        if not isinstance(found, Mapping):
            raise BadProject(f"{path}: {'.'.join(keys[:index])} must be a table, not {found!r}")
    table: Mapping[str, Any] = found
    return table


def _url(folder: Path, value: str) -> str:
    """A model id as a URL: `owner/name` is on the hub, a path is relative to the project."""
    if value.startswith("file://"):
        value = value.removeprefix("file://")
    elif "://" in value:
        return value
    elif not value.startswith((".", "/", "~")):
        return f"hf://{value}"
    path = Path(value).expanduser()
    return f"file://{path if path.is_absolute() else (folder / path).resolve()}"
