"""What calls leave behind: child processes, also those that were orphaned, and threads of the project's code.

Children are found through /proc; the host adopts orphans of its descendants (`adopt_orphans`), so none is
missed. What was there before the first of the calls that run together stays: whose the rest is cannot be told
while several run, so it is looked for when the last of them has ended. Threads that run code of libraries are
the libraries' own business; one that runs code of the project cannot be ended from outside.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

CHILD_SUBREAPER = 36
"""prctl: orphans among the descendants become children of this process."""
THREAD_GRACE_S = 0.2
"""How long threads of a call may take to end when it has."""
POLL_S = 0.01


def adopt_orphans() -> None:
    """From now on descendants whose parent ends are children of this process."""
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(CHILD_SUBREAPER, 1)


def has_children() -> bool:
    """Whether this process has any child, ended ones that nobody has waited for included."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def descendants(pid: int) -> list[int]:
    """The processes below a process, parents first. O(processes of the machine)."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = place.read_text(errors="replace").rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(place.parent.name))
    found: list[int] = []
    looked_at = [pid]
    while looked_at:
        below = children.get(looked_at.pop(), [])
        found += below
        looked_at += below
    return found


def marked(marker: str) -> list[int]:
    """The processes whose environment has this line, which children have from their parents."""
    found: list[int] = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if marker.encode() in place.read_bytes().split(b"\0"):
                found.append(int(place.parent.name))
    return found


def end_processes(pids: list[int]) -> None:
    """End them at once."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


class Leftovers:
    """What was there before calls began. folder: of the project."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder.resolve()) + os.sep
        self._processes: set[int] = set()
        self._threads: set[threading.Thread] = set()

    def note(self) -> None:
        """A call begins and no other runs: what is here now is not what it leaves behind."""
        self._processes = set(descendants(os.getpid())) if has_children() else set()
        self._threads = set(threading.enumerate())

    def end_children(self) -> int:
        """End what calls have started; how many processes."""
        if not has_children():
            return 0
        left = [pid for pid in descendants(os.getpid()) if pid not in self._processes]
        end_processes(left)
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        return len(left)

    def stubborn_threads(self) -> list[str]:
        """The names of threads that run code of the project and do not end."""
        deadline = time.monotonic() + THREAD_GRACE_S
        while (left := self._threads_left()) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return left

    def _threads_left(self) -> list[str]:
        frames = sys._current_frames()
        return [
            thread.name
            for thread in threading.enumerate()
            if thread not in self._threads and self._runs_project(frames.get(thread.ident or 0))
        ]

    def _runs_project(self, frame: object) -> bool:
        while frame is not None:
            if frame.f_code.co_filename.startswith(self._folder):  # type: ignore[attr-defined]
                return True
            frame = frame.f_back  # type: ignore[attr-defined]
        return False
