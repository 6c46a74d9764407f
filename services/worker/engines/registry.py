"""Every engine by name. Importing one imports its libraries, so that happens only when it is used.

Engines of one family live in one process (services/worker/runner/runners.py), which they can end. Text is one
family: its engines are small in this process or have servers of their own. What draws, what hears and what
users and operators wrote have theirs.
"""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from stoker.schemas.workers import EngineCapability
from stoker.services.worker.engines.base import Engine, EngineError

VLLM_VARIABLE = "STOKER_VLLM"
"""Names the `vllm` command where it is neither beside this Python nor on the PATH."""


def vllm_command() -> str | None:
    """The `vllm` command, or None."""
    if named := os.environ.get(VLLM_VARIABLE):
        return named
    beside = Path(sys.executable).parent / "vllm"
    return str(beside) if beside.exists() else shutil.which("vllm")


def _library(name: str, extra: str) -> Callable[[], str]:
    return lambda: "" if find_spec(name) is not None else f"pip install 'stoker[{extra}]'"


def _vllm() -> str:
    return "" if vllm_command() else f"install vLLM, or set {VLLM_VARIABLE} to its command"


def _ollama() -> str:
    is_there = os.environ.get("OLLAMA_HOST") or shutil.which("ollama")
    return "" if is_there else "install ollama, or set OLLAMA_HOST to a server's address"


def _nothing() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """module: has a function `create`. family: the engines that share its process. missing: what to do to have
    the engine here; "" when it is.
    """

    module: str
    family: str
    missing: Callable[[], str] = _nothing


ENGINES: dict[str, EngineEntry] = {
    "llamacpp": EngineEntry(
        "stoker.services.worker.engines.text.llamacpp", "text", _library("xllamacpp", "llamacpp")
    ),
    "diffusers": EngineEntry(
        "stoker.services.worker.engines.images.diffusers", "images", _library("diffusers", "diffusers")
    ),
    "spandrel": EngineEntry(
        "stoker.services.worker.engines.images.spandrel", "images", _library("spandrel", "superres")
    ),
    "whisper": EngineEntry(
        "stoker.services.worker.engines.audio.whisper", "audio", _library("faster_whisper", "audio")
    ),
    "vllm": EngineEntry("stoker.services.worker.engines.text.vllm", "text", _vllm),
    "ollama": EngineEntry("stoker.services.worker.engines.text.ollama", "text", _ollama),
    "openai": EngineEntry("stoker.services.worker.engines.text.openai", "remote"),
    "function": EngineEntry("stoker.services.worker.engines.functions.function", "functions"),
    "custom": EngineEntry("stoker.services.worker.engines.functions.custom", "functions"),
    "synthetic": EngineEntry("stoker.services.worker.engines.synthetic", "synthetic"),
}


def family_of(engine: str) -> str:
    """The family of an engine; one that is not in the table is a family of its own."""
    entry = ENGINES.get(engine)
    return entry.family if entry is not None else engine


def engines_of(family: str) -> frozenset[str]:
    """The engines of a family."""
    return frozenset(name for name, entry in ENGINES.items() if entry.family == family) or frozenset({family})


HANDLERS_VARIABLE = "STOKER_HANDLERS"
"""Where the runner finds the functions that custom jobs may call."""
DEVICE = "device"
"""The lane of engines that take the whole device: one job of any of them at a time, in order of arrival."""

CAPABILITIES: dict[str, EngineCapability] = {
    "llamacpp": EngineCapability(4, 2, ("TextGeneration", "TextEmbedding")),
    "diffusers": EngineCapability(1, 1, ("ImageGeneration", "SuperResolution"), lane=DEVICE),
    "spandrel": EngineCapability(1, 1, ("SuperResolution",), lane=DEVICE),
    "whisper": EngineCapability(1, 1, ("SpeechToText",)),
    "vllm": EngineCapability(256, 0, ("TextGeneration", "TextEmbedding")),
    "ollama": EngineCapability(4, 2, ("TextGeneration", "TextEmbedding")),
    "openai": EngineCapability(256, 0, ("TextGeneration", "TextEmbedding"), is_elsewhere=True),
    "function": EngineCapability(1, 1, ("Function", "Weights")),
    "custom": EngineCapability(1, 1, ("Function",), lane=DEVICE),
    "synthetic": EngineCapability(256, 0, ("TextGeneration", "ImageGeneration")),
}


def installed() -> dict[str, EngineCapability]:
    """The engines that can be used here, without importing them."""
    return {name: CAPABILITIES[name] for name, entry in ENGINES.items() if not entry.missing()}


def create(name: str) -> Engine:
    """Import and make an engine. Raises EngineError when it is unknown or not installed."""
    entry = ENGINES.get(name)
    if entry is None:
        raise EngineError(f"unknown engine {name!r}; there are {', '.join(sorted(ENGINES))}")
    if remedy := entry.missing():
        raise EngineError(f"engine {name} is not installed: {remedy}")
    make: Callable[[EngineCapability], Engine] = import_module(entry.module).create
    return make(CAPABILITIES[name])
