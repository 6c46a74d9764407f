"""The device that models of this machine are on: its first GPU, several that one model spans, or processors."""

import os
import platform
import subprocess
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


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU. uuid: as CUDA_VISIBLE_DEVICES and Docker take it."""

    uuid: str
    name: str
    memory_bytes: int


def find_device(gpus: int = 1) -> Device:
    """The first so many GPUs that there are for this process, else the processors."""
    if found := cards()[:gpus]:
        name = found[0].name
        memory = sum(card.memory_bytes for card in found)
        return Device(name if len(found) == 1 else f"{len(found)} x {name}", memory, is_gpu=True)
    processor = platform.processor() or platform.machine()
    return Device(f"cpu ({processor})", int(Machine().memory_bytes() * RAM_SHARE), is_gpu=False)


def cards() -> list[Card]:
    """The GPUs that the driver lists and CUDA_VISIBLE_DEVICES leaves, in the order in which CUDA counts them;
    none where there is no driver, or none that works.
    """
    try:
        listed = subprocess.run(
            QUERY, capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=True
        ).stdout
        rows = [tuple(part.strip() for part in line.split(",", 3)) for line in listed.splitlines()]
        found = [(index, Card(uuid, name, int(mebibytes) * 1024**2)) for index, uuid, mebibytes, name in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [card for _, card in found]
    named = [one.strip() for one in chosen.split(",") if one.strip()]
    if not named or named[0] == "-1":
        return []
    visible = [card for one in named for index, card in found if index == one or card.uuid.startswith(one)]
    return visible or [card for _, card in found]  # a part of a card has a name of its own
