"""Bringing a model into memory for a function: `from_pretrained`, or a loader registered for its class."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Loader = Callable[[Path], Any]

_loaders: dict[type[Any], Loader] = {}


class CannotLoad(Exception):
    """A model could not be loaded; says why and what to do."""


def register_loader(kind: type[Any], loader: Loader) -> None:
    """Load models of a class (and of its subclasses) with `loader(path)`."""
    _loaders[kind] = loader


def class_name(kind: Any) -> str:
    """`module:Class` of what a parameter is annotated with."""
    return f"{kind.__module__}:{kind.__qualname__}"


def load_model(name: str, path: Path) -> Any:
    """The model at a path, as an instance of the class `module:Class`. Raises CannotLoad."""
    module, _, qualified = name.partition(":")
    try:
        kind: Any = importlib.import_module(module)
        for part in qualified.split("."):
            kind = getattr(kind, part)
    except (ImportError, AttributeError) as error:
        raise CannotLoad(f"{name} cannot be imported: {error}") from error
    for known, loader in reversed(_loaders.items()):
        if isinstance(kind, type) and issubclass(kind, known):
            return loader(path)
    if hasattr(kind, "from_pretrained"):
        model = kind.from_pretrained(path)
        if hasattr(model, "set_progress_bar_config"):
            model.set_progress_bar_config(disable=True)
        return _on_device(model)
    raise CannotLoad(f"{name} has no from_pretrained; register_loader({qualified}, …) says how to load it")


def _on_device(model: Any) -> Any:
    """On the GPU where torch sees one."""
    import sys

    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and hasattr(model, "to"):
        return model.to("cuda")
    return model
