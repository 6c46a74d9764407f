"""What a server process takes of the device's memory, in bytes: the budget of a worker is device memory.

On a GPU the driver says it for each process (`nvidia-smi --query-compute-apps`). On a CPU the memory is RAM:
what vLLM sets aside for its KV cache, which it touches only as it fills, and the weights.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping

import psutil

QUERY = ("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
QUERY_TIMEOUT_S = 10.0
KV_CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
"""GiB that vLLM reserves for its KV cache on a CPU."""
DEFAULT_KV_CACHE_GIB = 4.0


def family_of(pid: int) -> list[int]:
    """A process and all that it has started; none when it is gone."""
    try:
        root = psutil.Process(pid)
        return [pid, *(child.pid for child in root.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def used_by(pids: Iterable[int], listed: str) -> int:
    """Bytes that the driver's list gives to these processes; lines are `pid, MiB`."""
    wanted = set(pids)
    total = 0
    for line in listed.splitlines():
        pid, _, mebibytes = line.partition(",")
        if pid.strip().isdecimal() and int(pid) in wanted and mebibytes.strip().isdecimal():
            total += int(mebibytes) * 1024**2
    return total


def on_cpu(weights_bytes: int, env: Mapping[str, str]) -> int:
    """Bytes of RAM that a server on a CPU is given: its KV cache and its weights."""
    try:
        gibibytes = float(env.get(KV_CACHE_VARIABLE, DEFAULT_KV_CACHE_GIB))
    except ValueError:
        gibibytes = DEFAULT_KV_CACHE_GIB
    return weights_bytes + int(gibibytes * 1024**3)


def device_bytes(pid: int, weights_bytes: int, env: Mapping[str, str]) -> int:
    """Bytes of device memory that a server and its children take now. env: of the server, beside our own."""
    if shutil.which(QUERY[0]):
        listed = subprocess.run(QUERY, capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False)
        if listed.returncode == 0 and (used := used_by(family_of(pid), listed.stdout)):
            return used
    return on_cpu(weights_bytes, {**os.environ, **env})
