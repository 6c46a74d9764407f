"""A function project: a folder with a pyproject.toml that names models, and modules with functions.

[tool.stoker]                      # optional
modules = ["app"]                  # default: every .py file beside pyproject.toml
debug = true                       # callers see tracebacks

[tool.stoker.models]               # or [tool.cozy.models]
sdxl-base = "stabilityai/stable-diffusion-xl-base-1.0"
local = "file://./checkpoints/tiny"
"""

import importlib
import importlib.util
import sys
import tomllib
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from stoker.functions.loading import class_name
from stoker.functions.sdk import MARK, Src
from stoker.functions.signature import BadSignature, Function, read_function

NOT_MODULES = ("setup", "conftest")


class BadProject(Exception):
    """A project that cannot be served; says where and what to do."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What pyproject.toml says. models: key → URL."""

    folder: Path
    modules: tuple[str, ...]
    models: dict[str, str]
    is_debug: bool


def read_manifest(folder: Path) -> Manifest:
    """Raises BadProject with the place of what is wrong."""
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
    unknown = sorted(set(stoker) - {"models", "modules", "debug"})
    if unknown:
        raise BadProject(f"{path}: tool.stoker has no {unknown[0]!r}; known are: debug, models, modules")
    named, is_debug = stoker.get("modules", []), stoker.get("debug", False)
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise BadProject(f"{path}: tool.stoker.modules must be a list of module names, not {named!r}")
    if not isinstance(is_debug, bool):
        raise BadProject(f"{path}: tool.stoker.debug must be true or false, not {is_debug!r}")
    modules = tuple(named) or _all_modules(folder)
    if not modules:
        raise BadProject(f"{folder}: there is no Python file in this folder")
    return Manifest(folder, modules, models, is_debug)


def _table(path: Path, content: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """A table, empty where it is not there. Raises BadProject when something else stands in its place."""
    found: Any = content
    for index, key in enumerate(keys, 1):
        found = found.get(key, {})
        if not isinstance(found, Mapping):
            raise BadProject(f"{path}: {'.'.join(keys[:index])} must be a table, not {found!r}")
    table: Mapping[str, Any] = found
    return table


def _all_modules(folder: Path) -> tuple[str, ...]:
    names = sorted(file.stem for file in folder.glob("*.py") if file.stem.isidentifier())
    return tuple(name for name in names if name not in NOT_MODULES and not name.startswith("test_"))


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


@dataclass(frozen=True, slots=True)
class Project:
    """An imported project."""

    manifest: Manifest
    functions: dict[str, Function]


def load_project(folder: Path) -> Project:
    """Import a project's modules and read its functions. Raises BadProject."""
    manifest = read_manifest(folder)
    sys.path.insert(0, str(folder))
    functions: dict[str, Function] = {}
    for name in manifest.modules:
        module = _import(folder, name)
        for function in _declared(module):
            if function.name in functions:
                raise BadProject(f"{module.__file__}: a function {function.name!r} is there already")
            functions[function.name] = function
    if not functions:
        listed = ", ".join(f"{name}.py" for name in manifest.modules)
        raise BadProject(f"{folder}: no @worker_function in {listed}")
    for function in functions.values():
        _check(manifest, function)
    return Project(manifest, functions)


def _import(folder: Path, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if str(folder) in frame.filename]
        where = f"{own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else name
        remedy = ""
        if isinstance(error, ModuleNotFoundError) and error.name:
            remedy = f"; install it into this environment: pip install {error.name.partition('.')[0]}"
        if isinstance(error, SyntaxError):
            where = f"{error.filename}:{error.lineno}"
        raise BadProject(f"{where}: {type(error).__name__}: {error}{remedy}") from error


def _declared(module: ModuleType) -> list[Function]:
    found = [
        value for value in vars(module).values()
        if hasattr(value, MARK) and getattr(value, "__module__", "") == module.__name__
    ]  # fmt: skip
    try:
        return [read_function(call) for call in found]
    except BadSignature as error:
        raise BadProject(f"{module.__file__}: {error}") from error


def _check(manifest: Manifest, function: Function) -> None:
    """Fixed keys exist, and libraries are installed."""
    keys = ", ".join(sorted(manifest.models)) or "none"
    where = f"{function.call.__code__.co_filename}: {function.name}"
    for injected in function.models:
        if injected.ref.src is Src.FIXED and injected.ref.name not in manifest.models:
            raise BadProject(
                f"{where}: parameter {injected.parameter} needs the model {injected.ref.name!r}; "
                f"pyproject.toml has {keys}"
            )
        if not manifest.models:
            raise BadProject(f"{where}: pyproject.toml has no [tool.stoker.models]")
    for library in function.declaration.requirements.libraries:
        if importlib.util.find_spec(library) is None:
            raise BadProject(f"{where} needs {library}: pip install {library}")


def model_classes(project: Project) -> dict[str, str]:
    """The class of every model key, `module:Class`; "" where no function uses the key."""
    classes: dict[str, str] = dict.fromkeys(project.manifest.models, "")
    for function in project.functions.values():
        for injected in function.models:
            keys = [injected.ref.name] if injected.ref.src is Src.FIXED else list(classes)
            for key in keys:
                classes[key] = classes[key] or class_name(injected.kind)
    return classes
