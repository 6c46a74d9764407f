"""What is said of workers' memory."""

from typing import Any


def over_limit(worker: dict[str, Any]) -> str:
    """In words, that the models of a worker take more than it has; "" where they do not."""
    used, total = worker.get("memory_used_bytes", 0) / 1e6, worker.get("memory_total_bytes", 0) / 1e6
    if used <= total:
        return ""
    models = ", ".join(worker.get("vram_models", ())) or "what is loaded"
    return f"{worker['worker']}: {models}: {used:.0f} MB, more than the {total:.0f} MB that it has (--memory)"
