"""Stoker keeps models hot. What a program imports: the function SDK, the client, custom jobs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from stoker.client import AsyncClient, Client
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


def __getattr__(name: str) -> Any:
    """What needs an HTTP library, which functions and workers do without: imported when it is asked for."""
    for home in ("stoker.client", "stoker.worker_pool"):
        if name in __all__ and hasattr(module := import_module(home), name):
            return getattr(module, name)
    raise AttributeError(f"module 'stoker' has no attribute {name!r}")
