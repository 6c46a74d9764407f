"""The device that models of this machine are on: its first GPU, else its processors."""

import platform
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass

from stoker.services.process.machine import Machine

RAM_SHARE = 0.7
"""Of the memory there is, the share that models may take where there is no GPU, unless said otherwise."""
LOOK_S = 10.0


@dataclass(frozen=True, slots=True)
class Device:
    """name: for people. memory_bytes: what models may take of it."""

    name: str
    memory_bytes: int
    is_gpu: bool


def find_device() -> Device:
    """The first GPU that the driver lists, else the processors."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
        with suppress(
            OSError, subprocess.SubprocessError, ValueError, IndexError
        ):  # of a driver that does not work
            listed = subprocess.run(query, capture_output=True, text=True, timeout=LOOK_S, check=True)
            name, mebibytes = listed.stdout.splitlines()[0].rsplit(",", 1)
            return Device(name.strip(), int(mebibytes) * 1024**2, is_gpu=True)
    processor = platform.processor() or platform.machine()
    return Device(f"cpu ({processor})", int(Machine().memory_bytes() * RAM_SHARE), is_gpu=False)
