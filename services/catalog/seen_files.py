"""Whether files have changed: by what they resolve to, and by what is in them, never by their names.

A path of a configuration may be a symbolic link, or lie in a folder that is one: Kubernetes swaps the link
`..data` of a ConfigMap, and no file of the configuration's name is touched. So a file is seen as the device and
inode that it resolves to, its size, its time of change, and a hash of its content.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from stoker.functions.layout import source_files, source_folders
from stoker.services.catalog.documents import MAX_FILE_BYTES, ConfigurationError
from stoker.services.catalog.functions import WATCHED
from stoker.services.catalog.load import files_of

AWAY = -1
MAX_LINKS = 16
"""Symbolic links of one path that are followed to the folders that they lie in."""
MAX_PROJECT_FOLDERS = 200
"""Of a function project that tell of changes at once; those in others are seen when the files are looked at."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One file as it is now. size: bytes; -1 where there is no file. content: a hash of it. is_source: it
    belongs to a function project, whose files may be empty.
    """

    path: str
    device: int = 0
    inode: int = 0
    size: int = AWAY
    changed_ns: int = 0
    content: str = ""
    is_source: bool = False

    @property
    def may_be_unfinished(self) -> bool:
        """Whether it is as editors leave a file for a moment before they write: empty, or away."""
        return self.size <= 0 and not self.is_source


State = tuple[Seen, ...]


Folders = frozenset[tuple[Path, int]]


def look(paths: Iterable[Path], projects: Iterable[Path] = ()) -> State:
    """The files that these paths mean, as they are now. What cannot be read is seen as not there."""
    found: list[Seen] = []
    for path in paths:
        found += [_seen(file) for file in _files_in(path) or [path]]
    for folder in projects:
        found += [replace(_seen(file), is_source=True) for file in source_files(folder, WATCHED)]
    return tuple(found)


def _seen(path: Path) -> Seen:
    try:
        found = path.stat()
        if S_ISDIR(found.st_mode):  # one without files, or where a file was
            return Seen(str(path))
        content = _hash(path) if S_ISREG(found.st_mode) else ""
    except OSError:
        return Seen(str(path))
    return Seen(str(path), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, content)


def _hash(path: Path) -> str:
    """Of what a configuration may have at most, and a little: more is refused whatever it is."""
    with path.open("rb") as file:
        return hashlib.blake2b(file.read(MAX_FILE_BYTES + 1), digest_size=16).hexdigest()


def folders(paths: Sequence[Path], projects: Sequence[Path] = ()) -> Folders:
    """The folders in which a change may be one of these paths, each with its inode: one that was made anew
    under the same name is another. For a link: its own folder, that of what it names, and so on.
    """
    found = {place for project in projects for place in source_folders(project)[:MAX_PROJECT_FOLDERS]}
    for path in paths:
        files = _files_in(path)
        found.update(folder for file in (path, *files) for folder in _on_the_way(file))
        if path.is_dir():
            found.add(path.resolve())
    return frozenset((folder, inode) for folder in found if (inode := _inode(folder)))


def _files_in(path: Path) -> list[Path]:
    try:
        return files_of(path)
    except (ConfigurationError, OSError):
        return []


def _on_the_way(path: Path) -> Iterable[Path]:
    """The folder of a path, and those of the links that lead from it to the file."""
    for _ in range(MAX_LINKS):
        yield path.parent
        yield path.parent.resolve()
        try:
            path = path.parent / path.readlink()
        except OSError:  # no link
            return


def _inode(folder: Path) -> int:
    try:
        return folder.stat().st_ino if folder.is_dir() else 0
    except OSError:
        return 0
