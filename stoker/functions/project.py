"""A function project at work: its modules imported, its functions read, what they need looked after."""

import importlib.util
import inspect
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from stoker.functions.importing import import_project
from stoker.functions.loading import class_name
from stoker.functions.manifest import BadProject, Manifest, read_manifest
from stoker.functions.sdk import MARK, Declaration, Src
from stoker.functions.signature import BadSignature, Function, read_function

__all__ = ["BadProject", "Manifest", "Project", "load_project", "model_classes", "place_of", "read_manifest"]


@dataclass(frozen=True, slots=True)
class Project:
    """An imported project."""

    manifest: Manifest
    functions: dict[str, Function]


def load_project(folder: Path) -> Project:
    """Import a project's modules and read its functions. Raises BadProject."""
    manifest = read_manifest(folder)
    functions: dict[str, Function] = {}
    for module in import_project(manifest):
        for function in _declared(module):
            known = functions.setdefault(function.name, function)
            here, there = place_of(function), place_of(known)
            if here != there:
                raise BadProject(
                    f"{here}: a function {function.name!r} is there already, at {there}; "
                    'give one another name: @worker_function(name="…")'
                )
    if not functions:
        listed = ", ".join(manifest.modules)
        raise BadProject(
            f"{folder}: no @worker_function in {listed}; [tool.stoker] of pyproject.toml may name other modules"
        )
    for function in functions.values():
        _check(manifest, function)
    return Project(manifest, functions)


def place_of(function: Function) -> str:
    """Its file and line."""
    code = inspect.unwrap(function.call).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def _is_function(value: Any) -> bool:
    return callable(value) and isinstance(getattr(value, MARK, None), Declaration)


def _declared(module: ModuleType) -> list[Function]:
    """The functions of a module, also those that it has from another."""
    return [_read(value) for value in vars(module).values() if _is_function(value)]


def _read(call: Any) -> Function:
    try:
        return read_function(call)
    except BadSignature as error:
        code = inspect.unwrap(call).__code__
        raise BadProject(f"{code.co_filename}:{code.co_firstlineno}: {error}") from error


def _check(manifest: Manifest, function: Function) -> None:
    """Fixed keys exist, and libraries are installed."""
    keys = ", ".join(sorted(manifest.models)) or "none"
    where = f"{place_of(function)}: {function.name}"
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
