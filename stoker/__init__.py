"""Stoker keeps models hot. What a program imports: the function SDK, the client, custom jobs."""

from stoker.client import AsyncClient, CallFailed, Client
from stoker.functions import (
    ActionContext,
    AuthError,
    FatalError,
    FileRef,
    ModelRef,
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
    "AsyncClient",
    "AuthError",
    "CallFailed",
    "Client",
    "CustomJob",
    "FatalError",
    "FileRef",
    "JobFailed",
    "ModelRef",
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
