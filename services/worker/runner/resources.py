"""What this process takes of the machine, as psutil and torch measure it."""

import sys
from typing import Any

import psutil

from stoker.schemas.workers import Resources

_process = psutil.Process()
_process.cpu_percent()  # the first call only starts the clock


def measure(engine: dict[str, float] | None = None) -> Resources:
    """Processor, memory, the GPU where torch is loaded and sees one, and an engine's own figures."""
    torch: Any = sys.modules.get("torch")
    cpu, rss = _process.cpu_percent(), int(_process.memory_info().rss)
    if torch is None or not torch.cuda.is_available():
        return Resources(cpu, rss, engine=engine or {})
    free, total = torch.cuda.mem_get_info()
    try:
        utilization = float(torch.cuda.utilization())
    except (ImportError, RuntimeError):  # needs nvidia-ml-py
        utilization = None
    return Resources(
        cpu_percent=cpu,
        rss_bytes=rss,
        gpu_allocated_bytes=torch.cuda.memory_allocated(),
        gpu_reserved_bytes=torch.cuda.memory_reserved(),
        gpu_total_bytes=total,
        gpu_used_bytes=total - free,
        gpu_utilization_percent=utilization,
        engine=engine or {},
    )
