"""Every engine by name. Importing one imports its libraries, so that happens only when it is used."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from schemas.workers import EngineCapability
from services.worker.engines.base import Engine, EngineError

ENGINES: dict[str, tuple[str, str, str]] = {
    # name: (module with a function `create`, library it needs, extra that installs it)
    "llamacpp": ("services.worker.engines.llamacpp", "xllamacpp", "llamacpp"),
    "diffusers": ("services.worker.engines.diffusers", "diffusers", "diffusers"),
    "spandrel": ("services.worker.engines.spandrel", "spandrel", "superres"),
    "custom": ("services.worker.engines.custom", "", ""),
    "synthetic": ("services.worker.engines.synthetic", "", ""),
}

HANDLERS_VARIABLE = "STOKER_HANDLERS"
"""Where the runner finds the functions that custom jobs may call."""
DEVICE = "device"
"""The lane of engines that take the whole device: one job of any of them at a time, in order of arrival."""

CAPABILITIES: dict[str, EngineCapability] = {
    "llamacpp": EngineCapability(4, 2, ("TextGeneration", "TextEmbedding")),
    "diffusers": EngineCapability(1, 1, ("ImageGeneration", "SuperResolution"), lane=DEVICE),
    "spandrel": EngineCapability(1, 1, ("SuperResolution",), lane=DEVICE),
    "custom": EngineCapability(1, 1, ("Function",), lane=DEVICE),
    "synthetic": EngineCapability(256, 0, ("TextGeneration", "ImageGeneration")),
}


def installed() -> dict[str, EngineCapability]:
    """The engines whose libraries are here, without importing them."""
    return {
        name: CAPABILITIES[name]
        for name, (_, library, _) in ENGINES.items()
        if not library or find_spec(library) is not None
    }


def create(name: str) -> Engine:
    """Import and make an engine. Raises EngineError when it is unknown or not installed."""
    if name not in ENGINES:
        raise EngineError(f"unknown engine {name!r}; there are {', '.join(sorted(ENGINES))}")
    module, library, extra = ENGINES[name]
    if library and find_spec(library) is None:
        raise EngineError(f"engine {name} is not installed: pip install 'stoker[{extra}]'")
    make: Callable[[EngineCapability], Engine] = import_module(module).create
    return make(CAPABILITIES[name])
