"""`stoker backup` of a system at work, and `stoker restore` into a folder where nothing was."""

import re
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from tests.conftest import System, wait_for

CONFIG = """\
models:
  quick: {engine: synthetic, options: {tokens: 4}, slots: 4}
  slow: {engine: synthetic, options: {tokens: 40, token_interval_s: 0.05}, slots: 1}
workers:
  - {count: 1, memory: 512MB, engines: [synthetic]}
"""


def stoker(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-P", "-m", "stoker", *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, check=False, input=given)


class Asking(threading.Thread):
    """Hands in jobs without a pause. accepted: those that were acknowledged."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self._system = system
        self.accepted: list[str] = []
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.is_set():
            self.accepted.append(self._system.submit("quick", f"job {len(self.accepted)}"))


@pytest.mark.slow
def test_a_system_at_work_goes_on_elsewhere_from_its_backup(tmp_path: Path) -> None:
    first = System(tmp_path / "first", CONFIG)
    asking = Asking(first)
    try:
        first.wait_ready()
        file = httpx.post(
            f"{first.url}/v1/files",
            files={"file": ("a.txt", b"content of a file")},
            data={"purpose": "user_data"},
        ).json()
        asking.start()
        wait_for(lambda: len(asking.accepted) > 50, 30, "jobs")
        ended = {job: first.ended(job)["result"] for job in asking.accepted[:20]}
        waiting = [first.submit("slow", f"{number}") for number in range(8)]
        accepted = list(asking.accepted)
        made = stoker("backup", str(tmp_path / "kept"), "--data", str(first.data))
        assert made.returncode == 0, made.stderr
        told = re.search(rb"STOKER_JOBS: (\d+) messages", made.stderr)
        assert told is not None and int(told[1]) >= 2  # there were jobs that waited
        piped = stoker("backup", "-", "--data", str(first.data))
        assert piped.returncode == 0, piped.stderr
        assert len(asking.accepted) > len(accepted)  # it went on meanwhile
        with Path("/dev/full").open("wb") as full:
            command = [sys.executable, "-P", "-m", "stoker", "backup", "-", "--data", str(first.data)]
            broken = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
        assert broken.returncode == 1 and b"broken off, and there is no archive: [Errno 28]" in broken.stderr
        assert b"Traceback" not in broken.stderr
        [archive] = (tmp_path / "kept").iterdir()
        assert made.stdout.decode().strip() == str(archive) and archive.stat().st_mode & 0o077 == 0
        running = stoker("restore", str(archive), "--force", "--data", str(first.data))
        assert running.returncode == 2 and b"nothing was changed: another NATS server" in running.stderr
    finally:
        asking.is_over.set()
        asking.join()
        first.stop()
    folder = tmp_path / "second"
    cut = stoker("restore", "-", "--data", str(folder / "data"), given=piped.stdout[:4000])
    assert cut.returncode == 2 and b"nothing was changed: the archive" in cut.stderr
    restored = stoker("restore", "-", "--data", str(folder / "data"), given=piped.stdout)
    assert restored.returncode == 0, restored.stderr
    again = stoker("restore", str(archive), "--data", str(folder / "data"))
    assert again.returncode == 2 and b"the system is not empty" in again.stderr
    forced = stoker("restore", str(archive), "--force", "--data", str(folder / "data"))
    assert forced.returncode == 0 and b"restored; the services can be started" in forced.stdout
    second = System(folder, CONFIG)
    try:
        second.wait_ready()
        for job in accepted + waiting:
            assert second.ended(job, 60)["status"] == "completed", job
        for job, result in ended.items():
            assert second.job(job)["result"] == result
        content = httpx.get(f"{second.url}/v1/files/{file['id']}/content")
        assert content.content == b"content of a file"
        assert second.ended(second.submit("quick"))["status"] == "completed"
    finally:
        second.stop()
