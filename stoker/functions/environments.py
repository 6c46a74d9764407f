"""Environments of projects: what `dependencies` and `requires-python` of pyproject.toml ask for.

Each is installed once. An environment's folder is named after a hash of the dependencies and the Python
version, so two projects that ask for the same share one, and a changed list makes another. It is built under a
lock (of this machine's workers and gateways one builds, the others wait), by uv where there is one and else by
venv and pip; the file READY is written last, and a folder without it is built again. A project that asks for
nothing, and whose `requires-python` this Python meets, runs in Stoker's own environment.

STOKER_ENVIRONMENTS says where they lie; `off` turns them off.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from stoker.functions.manifest import BadProject, Manifest, read_manifest
from stoker.functions.requirements import is_met, name_of, stamp_of
from stoker.functions.shared_code import shared_code

VARIABLE = "STOKER_ENVIRONMENTS"
OFF = "off"
DEFAULT_FOLDER = Path("~/.cache/stoker/environments")
READY = "stoker-ready"
BUILD_TIMEOUT_S = 3600.0
SHOWN_LINES = 12
"""Of what an installer says last when it fails."""
OLDEST_PYTHON = (3, 11)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Environment:
    """python: the interpreter. shared: the folder with what of Stoker a host needs; "" in Stoker's own."""

    python: str
    shared: str = ""

    def command(self, module: str, *arguments: str) -> list[str]:
        """What runs a module of stoker.functions in it."""
        if not self.shared:
            return [self.python, "-P", "-u", "-m", module, *arguments]
        start = (
            f"import runpy, sys; sys.path.append({self.shared!r}); "
            f"runpy.run_module({module!r}, None, '__main__', True)"
        )
        return [self.python, "-P", "-u", "-c", start, *arguments]


OWN = Environment(sys.executable)


def environment_of(project: Path, say: Say = lambda line: None) -> Environment:
    """The environment of a project, built where it is not there yet. Raises BadProject with what went wrong."""
    manifest = read_manifest(project)
    version = sys.version_info[:2]
    wanted = tuple(one for one in manifest.dependencies if name_of(one) != "stoker")
    is_fit = is_met(manifest.requires_python, version)
    if not wanted and is_fit:
        return OWN
    where = os.environ.get(VARIABLE, "")
    if where == OFF:
        if not is_fit:
            raise BadProject(
                f"{manifest.folder}/pyproject.toml: requires-python is {manifest.requires_python!r}, this is "
                f"{version[0]}.{version[1]}, and environments of projects are off (--no-environments)"
            )
        say(f"{manifest.folder}: its dependencies are not installed, environments are off (--no-environments)")
        return OWN
    root = Path(where or DEFAULT_FOLDER).expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
        return _built(root, manifest, wanted, "" if is_fit else manifest.requires_python, say)
    except OSError as error:
        reason = f"its environment cannot be made in {root}: {error}; {VARIABLE} names another folder"
        raise BadProject(f"{manifest.folder}: {reason}") from error


def _built(root: Path, manifest: Manifest, wanted: tuple[str, ...], python: str, say: Say) -> Environment:
    own = "{}.{}".format(*sys.version_info[:2])
    if python:  # its msgspec is for another Python than ours
        import msgspec

        wanted += (
            () if any(name_of(one) == "msgspec" for one in wanted) else (f"msgspec=={msgspec.__version__}",)
        )
    stamps = sorted((one, stamp_of(one, manifest.folder)) for one in wanted)
    asked = json.dumps([stamps, python or own, sys.platform, sys.implementation.cache_tag])
    folder = root / hashlib.blake2b(asked.encode(), digest_size=10).hexdigest()
    interpreter = folder / "bin" / "python"
    if not (folder / READY).exists():
        with _locked(root / f"{folder.name}.lock", manifest, say):
            if not (folder / READY).exists():
                _build(folder, manifest, wanted, python, say)
    return Environment(str(interpreter), str(shared_code(root, with_msgspec=not python)))


@contextmanager
def _locked(path: Path, manifest: Manifest, say: Say) -> Any:
    """One process at a time; the lock is gone with its process."""
    with path.open("w") as file:
        _lock(file, manifest, say)
        yield


def _lock(file: IO[str], manifest: Manifest, say: Say) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"{manifest.folder}: another process installs its dependencies; waiting")
        fcntl.flock(file, fcntl.LOCK_EX)


def _build(folder: Path, manifest: Manifest, wanted: tuple[str, ...], python: str, say: Say) -> None:
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    say(f"{manifest.folder}: installing {', '.join(wanted) or 'Python ' + python} into {folder}")
    for command in _commands(folder, manifest, wanted, python):
        _run(command, manifest, say)
    found = subprocess.run(
        [folder / "bin" / "python", "-c", "import sys; print(*sys.version_info[:2])"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    version = tuple(int(part) for part in found.stdout.split())
    if version < OLDEST_PYTHON:
        shutil.rmtree(folder, ignore_errors=True)
        raise BadProject(
            f"{manifest.folder}/pyproject.toml: requires-python {manifest.requires_python!r} asks for a Python "
            f"older than {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]}, on which Stoker's functions do not run"
        )
    (folder / READY).write_text("\n".join(wanted))
    say(f"{manifest.folder}: its environment is ready after {time.monotonic() - began:.1f} s")


def _commands(folder: Path, manifest: Manifest, wanted: tuple[str, ...], python: str) -> list[list[str]]:
    """What makes the environment, one after the other. Raises BadProject."""
    interpreter = str(folder / "bin" / "python")
    if uv := _uv():
        made = [[uv, "venv", "--python", python or sys.executable, str(folder)]]
        return made + ([[uv, "pip", "install", "--python", interpreter, *wanted]] if wanted else [])
    if python:
        raise BadProject(
            f"{manifest.folder}/pyproject.toml: requires-python is {python!r} and this is "
            f"{'{}.{}'.format(*sys.version_info[:2])}; pip install uv, which finds other Pythons"
        )
    made = [[sys.executable, "-m", "venv", str(folder)]]
    return made + ([[interpreter, "-m", "pip", "install", *wanted]] if wanted else [])


def _uv() -> str:
    """The path of uv, "" where there is none."""
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.exists() else shutil.which("uv") or ""


def _run(command: list[str], manifest: Manifest, say: Say) -> None:
    """Run an installer in the project's folder; what it says is handed on. Raises BadProject."""
    lines: list[str] = []
    with subprocess.Popen(
        command, cwd=manifest.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        limit = threading.Timer(BUILD_TIMEOUT_S, process.kill)
        limit.start()
        try:
            for line in process.stdout:
                lines = [*lines[-SHOWN_LINES:], line.rstrip()]
                say(line.rstrip())
            status = process.wait()
        finally:
            limit.cancel()
    if status:
        said = re.sub(r"\s+", " ", " ".join(lines)).strip()
        reason = said or f"status {status}"
        raise BadProject(f"{manifest.folder}/pyproject.toml: its dependencies cannot be installed: {reason}")
