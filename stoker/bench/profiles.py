"""What the processes of a system on this machine did while it was asked: CPU, context switches, flame graphs.

py-spy reads a process from outside and slows it down by a few per cent. The NATS server is no Python process:
of it there is CPU alone.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from stoker.servers import announced, background_data, data_folder

RATE = "200"
"""Looks a second."""
BEGIN_S = 0.3
"""What cannot be read is refused by then."""
WRITE_S = 30.0


class NoProfile(Exception):
    """The message says why there is none, and what to do."""


@dataclass(frozen=True, slots=True)
class Use:
    """Of one process, for all requests. cpu_s: seconds. graph: "" where there is none."""

    process: str
    cpu_s: float
    switches: int
    graph: str


@dataclass(slots=True)
class Profile:
    """What was found when the block of `profiling` has ended."""

    uses: list[Use] = field(default_factory=list)


def processes_of(url: str) -> dict[str, psutil.Process]:
    """The processes, by name, of the `stoker up` here that answers at this address. Raises NoProfile."""
    for data in (data_folder(), background_data()):
        found = announced(data)
        if found is not None and found[0] == url.rstrip("/"):
            return _processes(data)
    raise NoProfile(f"{url} is not a `stoker up` of this folder: set STOKER_DATA to its --data, on its machine")


def _processes(data: Path) -> dict[str, psutil.Process]:
    found: dict[str, psutil.Process] = {}
    for file in [*sorted(data.glob("*.pid")), data / "nats" / "pid"]:
        try:
            process = psutil.Process(int(file.read_text()))
        except (OSError, ValueError, psutil.NoSuchProcess):
            continue
        name = "nats" if file.name == "pid" else file.stem
        found[name] = process
        if name.startswith("worker"):
            for number, child in enumerate(process.children(), start=1):
                found[f"{name}.runner" if number == 1 else f"{name}.runner-{number}"] = child
    return found


@contextmanager
def profiling(processes: Mapping[str, psutil.Process], folder: Path) -> Iterator[Profile]:
    """Watch these processes during the block; flame graphs are written into `folder`. Raises NoProfile."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    spy = shutil.which("py-spy", path=path)
    if spy is None:
        raise NoProfile("flame graphs need py-spy: pip install 'stoker[bench]'")
    folder.mkdir(parents=True, exist_ok=True)
    graphs = {name: folder / f"{name}.svg" for name in processes if name != "nats"}
    spies = {name: _spy(spy, processes[name].pid, graph) for name, graph in graphs.items()}
    profile = Profile()
    try:
        time.sleep(BEGIN_S)
        for name, watching in spies.items():
            if watching.poll() is not None:
                reason = (watching.stderr.read() if watching.stderr else b"").decode(errors="replace").strip()
                raise NoProfile(f"py-spy cannot read {name}; it may have to be root: {reason[-300:]}")
        before = {name: _used(process) for name, process in processes.items()}
        yield profile
        for name, process in processes.items():
            cpu_s, switches = _used(process)
            graph = str(graphs.get(name, ""))
            profile.uses.append(Use(name, cpu_s - before[name][0], switches - before[name][1], graph))
    finally:
        for watching in spies.values():
            if watching.poll() is None:
                watching.send_signal(signal.SIGINT)  # it writes what it has seen
        for watching in spies.values():
            watching.communicate(timeout=WRITE_S)


def _spy(spy: str, pid: int, graph: Path) -> subprocess.Popen[bytes]:
    words = [spy, "record", "--nonblocking", "--rate", RATE, "--output", str(graph), "--pid", str(pid)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _used(process: psutil.Process) -> tuple[float, int]:
    """CPU seconds and context switches of a process so far; of one that has ended none."""
    try:
        times = process.cpu_times()
        return times.user + times.system, switches_of(process)
    except psutil.NoSuchProcess:
        return 0.0, 0


def switches_of(process: psutil.Process) -> int:
    """Context switches of the threads that a process has now."""
    return sum(_switches(thread.id) for thread in process.threads())


def _switches(thread: int) -> int:
    """Of one thread: what is counted under a process's own number is its first thread alone."""
    try:
        found = psutil.Process(thread).num_ctx_switches()
    except psutil.NoSuchProcess:
        return 0
    return int(found.voluntary + found.involuntary)
