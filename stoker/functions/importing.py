"""Importing a project's modules under their own names, in the process that is there for them.

The standard library comes first: a `types.py` of the project is no `types` to anybody. Then the project, before
everything that is installed, so that a `schemas.py` or `services/` of its own meets nobody's. Where files at
the top of the folder import each other by a dot, the folder is a package of its own name.
"""

import importlib
import sys
import traceback
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

from stoker.functions.layout import has_python, imports_siblings, is_marked, package_name
from stoker.functions.manifest import BadProject, Manifest


class ProjectFinder(MetaPathFinder):
    """Finds the modules of one project, before what is installed and after the standard library."""

    def __init__(self, manifest: Manifest) -> None:
        self._roots = [str(root) for root in manifest.roots]
        self._packages = {package_name(root): root for root in manifest.roots}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or fullname in sys.stdlib_module_names or fullname == "stoker":
            return None
        found = PathFinder.find_spec(fullname, self._roots)
        if found is not None and found.loader is not None:
            return found
        if found is not None and (spread := self._without_init(fullname, found)) is not None:
            return spread
        root = self._packages.get(fullname)
        return _as_package(fullname, root) if root is not None else None

    def _without_init(self, name: str, found: ModuleSpec) -> ModuleSpec | None:
        """A folder without `__init__.py`: a package if it has Python and nothing installed has its name."""
        if not any(has_python(Path(place)) for place in found.submodule_search_locations or ()):
            return None
        elsewhere = PathFinder.find_spec(name)
        if elsewhere is None:
            return found
        if elsewhere.loader is not None:
            return None
        return PathFinder.find_spec(name, [*self._roots, *sys.path])


def _as_package(name: str, folder: Path) -> ModuleSpec | None:
    start = folder / "__init__.py"
    if start.exists():
        return spec_from_file_location(name, start, submodule_search_locations=[str(folder)])
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return spec


def import_project(manifest: Manifest) -> list[ModuleType]:
    """Its modules, imported. Raises BadProject with file, line and what to do."""
    if manifest.roots:
        sys.meta_path.insert(0, ProjectFinder(manifest))
        _add_to_path([str(root) for root in manifest.roots])
    importlib.invalidate_caches()
    names = [_import_name(manifest, name) for name in manifest.modules]
    names += [package_name(root) for root in manifest.roots if (root / "__init__.py").exists()]
    return [_import(manifest, name) for name in dict.fromkeys(names) if name]


def _add_to_path(roots: list[str]) -> None:
    """Behind the standard library and before what is installed: for processes that a function starts."""
    places = [index for index, entry in enumerate(sys.path) if "-packages" in entry]
    at = places[0] if places else len(sys.path)
    sys.path[at:at] = [root for root in roots if root not in sys.path]


def _import_name(manifest: Manifest, name: str) -> str:
    """What a module is imported as; "" for one that only stands in the way of the standard library's."""
    root = next((root for root in manifest.roots if (root / f"{name}.py").exists()), None)
    if root is None:
        return name
    if name in sys.stdlib_module_names:
        return f"{package_name(root)}.{name}" if is_marked(root / f"{name}.py") else ""
    is_of_package = (root / "__init__.py").exists() or imports_siblings(root / f"{name}.py")
    return f"{package_name(root)}.{name}" if is_of_package else name


def _import(manifest: Manifest, name: str) -> ModuleType:
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise BadProject(_said(manifest, name, error)) from error
    places = {
        Path(place).resolve() for place in (module.__file__ or "", *getattr(module, "__path__", ())) if place
    }
    folders = [root.resolve() for root in (*manifest.roots, manifest.folder)]
    if not any(place.is_relative_to(folder) for place in places for folder in folders):
        raise BadProject(
            f"{manifest.folder}: the module {name!r} has the name of one that is in use already "
            f"({module.__file__ or 'built in'}); rename it"
        )
    return module


def _said(manifest: Manifest, name: str, error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if str(manifest.folder) in frame.filename]
    where = f"{own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else f"{manifest.folder}: {name}"
    remedy = ""
    missing = error.name if isinstance(error, ImportError) else None
    top = (missing or "").partition(".")[0]
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}"
    elif top in sys.stdlib_module_names and any((root / f"{top}.py").exists() for root in manifest.roots):
        remedy = f"; {top!r} is the standard library's: rename {top}.py, or write `from .{top} import …`"
    elif isinstance(error, ModuleNotFoundError) and top:
        remedy = _remedy(manifest, top, missing or "")
    return f"{where}: {type(error).__name__}: {error}{remedy}"


def _remedy(manifest: Manifest, top: str, missing: str) -> str:
    """What to do about a module that is not there."""
    if any((root / top).exists() or (root / f"{top}.py").exists() for root in manifest.roots):
        return f"; {top} is of this project, and there is no {missing} in it"
    if top in manifest.modules:
        return f"; modules in pyproject.toml names {top}, and there is no {top}.py and no folder {top}"
    return f"; install it into this environment: pip install {top}, or add it to dependencies in pyproject.toml"
