"""How a project's files lie, found out without importing them.

Modules are imported from `src/` where there is one, and from the project's folder: those in which
`worker_function` or `register_loader` stands, at the top or in packages (with `__init__.py` or without). Where
it stands in none, every file at the top is imported: it may have functions from elsewhere. Tests, virtual
environments, other projects in it and hidden folders are left out.
"""

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

NOT_MODULES = ("setup", "conftest", "__init__", "__main__")
NOT_PACKAGES = frozenset(
    {"tests", "test", "docs", "build", "dist", "venv", "env", "node_modules", "__pycache__", "site-packages"}
)
NOT_OURS = ("pyvenv.cfg", "pyproject.toml")
"""A folder with one of these is a virtual environment, or a project of its own."""
MARK_WORDS = ("worker_function", "register_loader")
MAX_FOLDERS = 1000
"""Of a project that are looked into; a home folder given by mistake has more."""
MAX_SOURCE_BYTES = 1_000_000
"""Of a module that is searched for functions."""


def roots_of(folder: Path) -> tuple[Path, ...]:
    """The folders that a project's modules are imported from, the first one first."""
    source = folder / "src"
    return (source, folder) if source.is_dir() and not (source / "__init__.py").exists() else (folder,)


def modules_in(roots: tuple[Path, ...]) -> tuple[str, ...]:
    """The names of the modules that may have functions, as they are imported."""
    found: dict[str, None] = {}
    for root in roots:
        for place in _folders(root):
            if not any(other != root and other in (place, *place.parents) for other in roots[:1]):
                found.update(dict.fromkeys(_marked(root, place)))
    if not found:
        files = (file for root in roots for file in sorted(root.glob("*.py")) if _is_module(file))
        found.update(dict.fromkeys(file.stem for file in files))
    return tuple(found)


def source_files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Files of a project whose change is a change of the project."""
    places = _folders(folder)
    return sorted({file for place in places for pattern in patterns for file in place.glob(pattern)})


def source_folders(folder: Path) -> list[Path]:
    """The folders of a project in which a change may be one of its source."""
    return list(_folders(folder))


def _is_module(file: Path) -> bool:
    name = file.stem
    return name.isidentifier() and name not in NOT_MODULES and not name.startswith("test_")


def _folders(root: Path) -> Iterator[Path]:
    """A folder, and those below it that may be packages."""
    for count, (place, below, _) in enumerate(os.walk(root)):
        if count >= MAX_FOLDERS:
            return
        below[:] = sorted(name for name in below if _may_be_package(Path(place) / name))
        yield Path(place)


def _may_be_package(folder: Path) -> bool:
    is_named = folder.name.isidentifier() and folder.name not in NOT_PACKAGES
    return is_named and not any((folder / name).exists() for name in NOT_OURS)


def _marked(root: Path, package: Path) -> Iterator[str]:
    """The modules of one folder in which functions may be."""
    parts = package.relative_to(root).parts
    for file in sorted(package.glob("*.py")):
        if not is_marked(file):
            continue
        if file.stem == "__init__" and parts:
            yield ".".join(parts)
        elif _is_module(file):
            yield ".".join((*parts, file.stem))


def is_marked(file: Path) -> bool:
    """Whether a module may declare functions, or say how models are loaded."""
    source = source_of(file)
    return any(word in source for word in MARK_WORDS)


def source_of(file: Path) -> str:
    """The text of a module, "" where it cannot be read."""
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            return opened.read(MAX_SOURCE_BYTES)
    except OSError:
        return ""


def imports_siblings(file: Path) -> bool:
    """Whether a module imports its neighbours by a dot, as only a module of a package may."""
    try:
        tree = ast.parse(source_of(file))
    except (SyntaxError, ValueError, RecursionError):  # the import will say so, with its place
        return False
    return any(isinstance(node, ast.ImportFrom) and node.level > 0 for node in ast.walk(tree))


def package_name(folder: Path) -> str:
    """The name of a folder as a package: its own, as far as that can be one."""
    name = re.sub(r"\W", "_", folder.name) or "project"
    if name[0].isdigit():
        name = f"_{name}"
    return f"{name}_project" if name in sys.stdlib_module_names or name == "stoker" else name


def has_python(folder: Path) -> bool:
    """Whether there is a module somewhere below a folder: it may be a package without an `__init__.py`."""
    return any(next(place.glob("*.py"), None) is not None for place in _folders(folder))
