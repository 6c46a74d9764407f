"""What calls leave behind: child processes, also those that were orphaned, and threads of the project's code.

What a call itself has forked or started is noted with it (`watch`), and ended with it: a forked child holds all
that its process had open, so that others would wait for it. The rest (orphans, what C code has started) is
found through /proc, as the host adopts the orphans of its descendants (`adopt_orphans`). What was there before
the first of the calls that run together stays: whose the rest is cannot be told while several run, so it is
looked for when the last of them has ended. Threads that run code of libraries are
the libraries' own business; one that runs code of the project cannot be ended from outside.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

CHILD_SUBREAPER = 36
"""prctl: orphans among the descendants become children of this process."""
THREAD_GRACE_S = 0.2
"""How long threads of a call may take to end when it has."""
POLL_S = 0.01
QUIET_LOOKS = 3
"""So often in a row nothing must have been found."""
MAX_LOOKS = 50
"""How often it is looked whether a process that was ended has forked another before."""


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


def is_child(pid: int) -> bool:
    """Whether this is a child that runs; one that has ended is waited for."""
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


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


def marked(marker: str, session: int = 0) -> list[int]:
    """The processes whose environment has this line, which children have from their parents, or which are of
    this session: in the moment in which a process becomes another program it has no environment.
    """
    found: list[int] = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, of_session = (
                (place / "stat").read_text(errors="replace").rpartition(")")[2].split()[:4]
            )
            is_own = marker.encode() in (place / "environ").read_bytes().split(b"\0")
            if state != "Z" and (is_own or (session and int(of_session) == session)):
                found.append(int(place.name))
    return found


def end_marked(marker: str, session: int) -> None:
    """End all of these, and what they were about to fork."""
    quiet = 0
    for _ in range(MAX_LOOKS):
        left = marked(marker, session)
        end_processes(left)
        quiet = 0 if left else quiet + 1
        if quiet == QUIET_LOOKS:
            return
        time.sleep(POLL_S)


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
        self._started: dict[int, str] = {}

    def watch(self, current: Callable[[], str]) -> None:
        """From now on note what `os.fork` and `subprocess` start. current: the call that the code is of."""
        fork, execute = os.fork, subprocess.Popen._execute_child  # type: ignore[attr-defined]  # not in typeshed

        def noted_fork() -> int:
            pid = fork()
            if pid:
                self._started[pid] = current()
            return pid

        def noted_execute(popen: "subprocess.Popen[bytes]", *args: object, **named: object) -> None:
            execute(popen, *args, **named)
            self._started[popen.pid] = current()

        os.fork = noted_fork
        subprocess.Popen._execute_child = noted_execute  # type: ignore[attr-defined]  # not in typeshed

    def note(self) -> None:
        """A call begins and no other runs: what is here now is not what it leaves behind."""
        self._processes = set(descendants(os.getpid())) if has_children() else set()
        self._threads = set(threading.enumerate())

    def end_children_of(self, call: str) -> int:
        """End what a call has started itself and what that has started; how many processes."""
        own = [pid for pid, whose in list(self._started.items()) if whose == call]
        for pid in own:
            del self._started[pid]
        running = [pid for pid in own if has_children() and is_child(pid)]
        return self._end([one for pid in running for one in (pid, *descendants(pid))])

    def end_children(self) -> int:
        """End what calls have started; how many processes."""
        self._started.clear()
        count = 0
        for _ in range(MAX_LOOKS):  # one that was about to fork is seen the next time
            if not has_children():
                break
            left = [pid for pid in descendants(os.getpid()) if pid not in self._processes]
            if not left:
                break
            count += self._end(left)
        return count

    @staticmethod
    def _end(left: list[int]) -> int:
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
            if frame.f_code.co_filename.startswith(self._folder):  # type: ignore[attr-defined]  # a frame
                return True
            frame = frame.f_back  # type: ignore[attr-defined]  # a frame
        return False
