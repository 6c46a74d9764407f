"""The function SDK: your own Python, with models injected, run where they are hot.

This package imports nothing else of Stoker, so that it can live in any environment and never meets your own
modules.
"""

from stoker.functions.assets import Asset, FileRef
from stoker.functions.context import ActionContext
from stoker.functions.errors import (
    AuthError,
    CallFailed,
    Cancelled,
    FatalError,
    FunctionError,
    ResourceError,
    RetryableError,
    ValidationError,
)
from stoker.functions.loading import register_loader
from stoker.functions.sdk import ModelRef, ModelRefSource, ResourceRequirements, Src, worker_function

__all__ = [
    "ActionContext",
    "Asset",
    "AuthError",
    "CallFailed",
    "Cancelled",
    "FatalError",
    "FileRef",
    "FunctionError",
    "ModelRef",
    "ModelRefSource",
    "ResourceError",
    "ResourceRequirements",
    "RetryableError",
    "Src",
    "ValidationError",
    "register_loader",
    "worker_function",
]
