"""Folders of attempts on this machine's disk: files that calls take, and files that they save.

Each attempt that wants one has a folder of its own, which is made by who first writes there and removed when
the attempt is gone. All lie in one folder of this process, below TMPDIR, which is locked for as long as the
process lives: what a process that was killed has left is removed by the next one that starts.
"""

import fcntl
import itertools
import os
import shutil
import tempfile
import weakref
from pathlib import Path

PREFIX = "stoker-attempts-"
LOCK = "lock"


class Scratch:
    """The folders of one worker process; nothing is made on the disk before one is asked for.

    They are removed with this object, at the latest when the process ends.
    """

    def __init__(self) -> None:
        self._base: Path | None = None
        self._numbers = itertools.count(1)

    def folder(self) -> str:
        """A place for a new folder, which is not made yet. Raises OSError."""
        if self._base is None:
            _remove_abandoned(Path(tempfile.gettempdir()))
            self._base = Path(tempfile.mkdtemp(prefix=PREFIX))
            lock = os.open(self._base / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            weakref.finalize(self, _remove, self._base, lock)
        return str(self._base / str(next(self._numbers)))


def _remove(base: Path, lock: int) -> None:
    shutil.rmtree(base, ignore_errors=True)
    os.close(lock)


def _remove_abandoned(place: Path) -> None:
    """What workers have left that do not live any more: nobody has their lock."""
    for folder in place.glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # another user's, or one that is being made
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # it lives
        finally:
            os.close(lock)
