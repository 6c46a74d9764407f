"""Text files that a spec gives its engine's server (chat templates, configurations), on this machine's disk.

They lie in a folder that is named by their content, so that no other spec changes them, and another load of the
same spec finds them there. What `args` and `env` call them is replaced by where they are.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from stoker.schemas.catalog import Spec

VARIABLE = "STOKER_FILES_FOLDER"
"""Names the folder, where it is not one of this user's in the folder for temporary files."""


def files_folder() -> Path:
    """Where the files of specs are kept."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path(tempfile.gettempdir()) / f"stoker-files-{os.getuid()}"


def placed(spec: Spec) -> tuple[tuple[str, ...], dict[str, str]]:
    """args and env of a spec, with its files written and called by where they are.

    Blocks: run it in a thread. Raises OSError where they cannot be written.
    """
    if not spec.files:
        return spec.args, spec.env
    name = hashlib.sha256(msgspec.json.encode(spec.files)).hexdigest()[:32]
    base = files_folder()
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    if base.stat().st_uid != os.getuid():
        raise PermissionError(f"{base} belongs to somebody else; name another folder by {VARIABLE}")
    folder = base / name
    there = {file.path: str(folder / file.path.lstrip("/")) for file in spec.files}
    for file in spec.files:
        _write(Path(there[file.path]), file.content)
    args = tuple(_replaced(one, there) for one in spec.args)
    return args, {key: _replaced(value, there) for key, value in spec.env.items()}


def _write(path: Path, content: str) -> None:
    """Write a file, whole or not at all, even where another worker of this machine does the same."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as opened:
        opened.write(content)
    Path(beside).replace(path)


def _replaced(text: str, there: Mapping[str, str]) -> str:
    """A text with the paths in it replaced: it is one, or has one behind the = of an option."""
    head, mark, tail = text.partition("=")
    if text in there:
        return there[text]
    return f"{head}={there[tail]}" if mark and tail in there else text
