"""What bench.images puts into runners by PYTHONPATH: when the device began and ended something, in JSON lines.

`$STOKER_IMAGE_PROBE` names the file that they are appended to. Each line: what (`step`: a denoising network,
`text`: a text encoder, `decode`: a decoder), when it began and ended, in seconds of the monotonic clock; the
device was waited for before both.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

WATCHED = {
    "diffusers.models.unets.unet_2d_condition": (("UNet2DConditionModel", "forward", "step"),),
    "diffusers.models.autoencoders.autoencoder_kl": (("AutoencoderKL", "decode", "decode"),),
    "transformers.models.clip.modeling_clip": (
        ("CLIPTextModel", "forward", "text"),
        ("CLIPTextModelWithProjection", "forward", "text"),
    ),
}


def _wait() -> None:
    torch: Any = sys.modules["torch"]
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _timed(what: str, inner: Callable[..., Any], lines: Any) -> Callable[..., Any]:
    def call(*args: Any, **given: Any) -> Any:
        _wait()
        began = time.monotonic()
        result = inner(*args, **given)
        _wait()
        lines.write(json.dumps([what, began, time.monotonic()]) + "\n")
        return result

    return call


class _Watching(importlib.abc.MetaPathFinder):
    """Lets others find a module, and changes its classes once it is loaded."""

    def __init__(self, path: str) -> None:
        self._lines = open(path, "a", buffering=1)  # noqa: SIM115, PTH123  as long as the process lives

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in WATCHED:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            for kind, method, what in WATCHED[name]:
                owner = getattr(module, kind)
                setattr(owner, method, _timed(what, getattr(owner, method), self._lines))

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # of this one module
        return spec


if "stoker.services.worker.runner" in sys.orig_argv and (path := os.environ.get("STOKER_IMAGE_PROBE")):
    sys.meta_path.insert(0, _Watching(path))
