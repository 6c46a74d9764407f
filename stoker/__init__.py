"""Stoker keeps models hot. What a program imports: the function SDK, the client, custom jobs.

Each name is imported when it is asked for (PEP 562): the command line needs none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stoker.client import AsyncClient, Client
    from stoker.functions import (
        ActionContext,
        Asset,
        AuthError,
        CallFailed,
        FatalError,
        FileRef,
        ModelRef,
        ModelRefSource,
        ResourceError,
        ResourceRequirements,
        RetryableError,
        Src,
        ValidationError,
        register_loader,
        worker_function,
    )
    from stoker.worker_pool import CustomJob, JobFailed, WorkerPool, get_worker_pool

__all__ = [
    "ActionContext",
    "Asset",
    "AsyncClient",
    "AuthError",
    "CallFailed",
    "Client",
    "CustomJob",
    "FatalError",
    "FileRef",
    "JobFailed",
    "ModelRef",
    "ModelRefSource",
    "ResourceError",
    "ResourceRequirements",
    "RetryableError",
    "Src",
    "ValidationError",
    "WorkerPool",
    "get_worker_pool",
    "register_loader",
    "worker_function",
]

_HOMES = {
    "AsyncClient": "stoker.client",
    "Client": "stoker.client",
    "CustomJob": "stoker.worker_pool",
    "JobFailed": "stoker.worker_pool",
    "WorkerPool": "stoker.worker_pool",
    "get_worker_pool": "stoker.worker_pool",
}
"""Where a name is; every other one is in stoker.functions."""


def __getattr__(name: str) -> Any:
    """Import what is asked for, and keep it."""
    if name not in __all__:
        raise AttributeError(f"module 'stoker' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOMES.get(name, "stoker.functions")), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
