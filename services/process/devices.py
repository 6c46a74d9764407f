"""The device that models of this machine are on: its first GPU, several that one model spans, or processors."""

import os
import platform
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass

from stoker.services.process.machine import Machine

RAM_SHARE = 0.7
"""Of the memory there is, the share that models may take where there is no GPU, unless said otherwise."""
QUERY = ["nvidia-smi", "--query-gpu=index,uuid,memory.total,name", "--format=csv,noheader,nounits"]
QUERY_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Device:
    """name: for people. memory_bytes: what models may take of it."""

    name: str
    memory_bytes: int
    is_gpu: bool


def find_device(gpus: int = 1) -> Device:
    """The first so many GPUs that the driver lists and CUDA_VISIBLE_DEVICES leaves, else the processors."""
    with suppress(OSError, subprocess.SubprocessError, ValueError):  # of a driver that does not work
        if found := _visible()[:gpus]:
            memory = sum(mebibytes for _, mebibytes in found) * 1024**2
            name = found[0][0]
            return Device(name if len(found) == 1 else f"{len(found)} x {name}", memory, is_gpu=True)
    processor = platform.processor() or platform.machine()
    return Device(f"cpu ({processor})", int(Machine().memory_bytes() * RAM_SHARE), is_gpu=False)


def _visible() -> list[tuple[str, int]]:
    """Name and memory (MiB) of each GPU, in the order in which CUDA counts them. Raises OSError, ValueError,
    SubprocessError.
    """
    if not shutil.which(QUERY[0]):
        return []
    listed = subprocess.run(QUERY, capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=True).stdout
    rows = [tuple(part.strip() for part in line.split(",", 3)) for line in listed.splitlines()]
    cards = [(index, uuid, (name, int(mebibytes))) for index, uuid, mebibytes, name in rows]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [card for *_, card in cards]
    named = [one.strip() for one in chosen.split(",") if one.strip()]
    found = [card for one in named for index, uuid, card in cards if index == one or uuid.startswith(one)]
    is_none = not named or named[0] == "-1"
    return found if found or is_none else [card for *_, card in cards]  # a part of a card has a name of its own
