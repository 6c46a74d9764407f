"""How much of the machine a process may use: control groups of both versions, as the kernel writes them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from stoker.services.process.machine import Machine
from tests.conftest import ROOT

GB = 1024**3
ALL, AVAILABLE, CORES = 64 * GB, 50 * GB, 16


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(total=ALL, available=AVAILABLE)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def made(folder: Path, own: str, files: dict[str, str]) -> Machine:
    (folder / "own").write_text(own)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")
    return Machine(folder / "own", folder)


V2 = "0::/kube/pod/app\n"
V1 = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n0::/\n"
NONE_V1 = "9223372036854771712"


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        (V2, {"kube/pod/app/cpu.max": "200000 100000"}, 2),
        (V2, {"kube/pod/app/cpu.max": "max 100000"}, CORES),
        (V2, {"kube/pod/app/cpu.max": "max 100000", "kube/pod/cpu.max": "450000 100000"}, 5),
        (V2, {"kube/pod/app/cpu.max": "10000 100000"}, 1),
        (V2, {"kube/pod/app/cpu.max": "9900000 100000"}, CORES),
        ("0::/\n", {"cpu.max": "150000 50000"}, 3),
        (V2, {"cpu.max": "300000 100000"}, 3),
        (V2, {}, CORES),
        ("", {}, CORES),
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "200000", "cpu/docker/abc/cpu.cfs_period_us": "100000"}, 2),
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "-1", "cpu/docker/abc/cpu.cfs_period_us": "100000"}, CORES),
        (
            V1,
            {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"},
            4,
        ),  # as a container sees it
        (V1, {"cpu/cpu.cfs_quota_us": "400000"}, CORES),
        (V1, {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "0"}, CORES),
    ],
)
def test_processors_are_those_of_the_narrowest_group(
    tmp_path: Path, own: str, files: dict[str, str], cores: int
) -> None:
    machine = made(tmp_path, own, files)
    assert machine.processors() == cores
    assert machine.threads() == ({} if cores == CORES else {"OMP_NUM_THREADS": str(cores)})


def test_processors_that_a_process_is_bound_to_are_those_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = made(tmp_path, V2, {"kube/pod/app/cpu.max": "600000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 7}, raising=False)
    assert machine.processors() == 2 and machine.threads() == {}
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert machine.processors() == 4
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.processors() == 1


def test_who_has_said_how_many_threads_there_are_is_not_overruled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert made(tmp_path, V2, {"kube/pod/app/cpu.max": "200000 100000"}).threads() == {}


@pytest.mark.parametrize(
    ("own", "files", "memory", "left"),
    [
        (V2, {"kube/pod/app/memory.max": f"{8 * GB}", "kube/pod/app/memory.current": f"{3 * GB}"}, 8, 5),
        (
            V2,
            {
                "kube/pod/app/memory.max": f"{8 * GB}",
                "kube/pod/app/memory.current": f"{7 * GB}",
                "kube/pod/app/memory.stat": f"anon {1 * GB}\ninactive_file {6 * GB}\nactive_file 5",
            },
            8,
            7,
        ),
        (V2, {"kube/pod/app/memory.max": "max", "kube/pod/app/memory.current": "5"}, 64, 50),
        (
            V2,
            {
                "kube/pod/app/memory.max": f"{8 * GB}",
                "kube/pod/app/memory.current": "0",
                "kube/memory.max": f"{16 * GB}",
                "kube/memory.current": f"{14 * GB}",
            },
            8,
            2,
        ),
        (V2, {"kube/pod/app/memory.max": f"{8 * GB}", "kube/pod/app/memory.current": f"{9 * GB}"}, 8, 0),
        (V2, {"kube/pod/app/memory.max": f"{80 * GB}", "kube/pod/app/memory.current": "0"}, 64, 50),
        (V2, {}, 64, 50),
        (
            V1,
            {
                "memory/docker/abc/memory.limit_in_bytes": f"{4 * GB}",
                "memory/docker/abc/memory.usage_in_bytes": f"{3 * GB}",
                "memory/docker/abc/memory.stat": f"inactive_file 7\ntotal_inactive_file {1 * GB}",
            },
            4,
            2,
        ),
        (V1, {"memory/memory.limit_in_bytes": f"{4 * GB}", "memory/memory.usage_in_bytes": f"{1 * GB}"}, 4, 3),
        (V1, {"memory/docker/abc/memory.limit_in_bytes": NONE_V1}, 64, 50),
        ("", {"memory.max": f"{1 * GB}"}, 64, 50),
    ],
)
def test_memory_is_that_of_the_narrowest_group_and_files_in_it_can_be_had_back(
    tmp_path: Path, own: str, files: dict[str, str], memory: int, left: int
) -> None:
    machine = made(tmp_path, own, files)
    assert (machine.memory_bytes() / GB, machine.memory_left_bytes() / GB) == (memory, left)


@pytest.fixture
def group() -> Iterator[list[Path]]:
    """A group of this machine's kernel, of the first version, with one processor and 512 MB."""
    own = Path("/proc/self/cgroup").read_text() if Path("/proc/self/cgroup").exists() else ""
    names = {line.split(":")[1]: line.split(":")[2].lstrip("/") for line in own.splitlines()}
    made: list[Path] = []
    try:
        for controller, values in (
            ("cpu", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"}),
            ("memory", {"memory.limit_in_bytes": str(GB // 2)}),
        ):
            found = next((name for name in names if controller in name.split(",")), None)
            if found is None or os.geteuid():
                pytest.skip("makes groups as root, of the first version")
            folder = Path("/sys/fs/cgroup", controller, names[found], f"stoker-test-{os.getpid()}")
            try:
                folder.mkdir()
                made.append(folder)
                for file, value in values.items():
                    (folder / file).write_text(value)
            except OSError as error:
                pytest.skip(f"no groups can be made here: {error}")
        yield made
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def test_a_process_in_a_real_group_sees_its_bounds(group: list[Path]) -> None:
    script = (
        "from stoker.services.process.machine import Machine\n"
        "from stoker.services.process.devices import find_device\n"
        "machine = Machine()\n"
        "print(machine.processors(), machine.memory_bytes(), machine.memory_left_bytes(), find_device().memory_bytes)"
    )

    def enter() -> None:
        for folder in group:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=enter, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    cores, memory, left, device = map(int, done.stdout.split())
    assert (cores, memory) == (1, GB // 2)
    assert 0 < left < memory
    assert device <= 0.7 * memory
