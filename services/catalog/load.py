"""From configuration files to a catalog and the workers to start. Nothing starts half-configured.

What a document is, its content says: `modes:` and `model_root:` make a modes file (modes.py), `models:`,
`workers:`, `handlers:` and `styles:` are Stoker's own short form (short_form.py).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from schemas.catalog import Model, Style
from services.catalog.documents import ConfigurationError, Document, check_keys, convert, read, shown
from services.catalog.modes import is_modes_file, legacy_mode, read_modes, read_styles
from services.catalog.short_form import read_handler, read_model

MAX_WORKERS = 64


class WorkerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `workers:`: what `stoker up` starts by itself. memory, ram: bytes, or 512MB."""

    profile: str = "cpu"
    count: int = 1
    memory: str | int = ""
    ram: str | int = 0
    engines: tuple[str, ...] = ()


@dataclass(slots=True)
class Configuration:
    """What a set of files says. warnings: what is odd, but no error."""

    models: tuple[Model, ...] = ()
    workers: tuple[WorkerEntry, ...] = ()
    default_mode: str = ""
    warnings: tuple[str, ...] = ()

    def handlers(self) -> tuple[str, ...]:
        """The functions that custom jobs may call."""
        return tuple(model.name for model in self.models if "Function" in model.features)


_TOP_KEYS = ("models", "workers", "handlers", "styles")


@dataclass(slots=True)
class _Reading:
    """What has been read so far."""

    environment: Mapping[str, str]
    models: dict[str, Model] = field(default_factory=dict)
    workers: list[WorkerEntry] = field(default_factory=list)
    styles: list[Style] = field(default_factory=list)
    default_mode: str = ""
    warnings: list[str] = field(default_factory=list)

    def add(self, document: Document, model: Model, *path: str | int) -> None:
        if model.name in self.models:
            raise document.place(*path).error("a model of this name is there already")
        self.models[model.name] = model

    def take(self, document: Document) -> None:
        if is_modes_file(document):
            self._take_modes(document)
            return
        check_keys(document, (), document.content, _TOP_KEYS)
        for name, entry in _mapping(document, "models").items():
            self.add(document, read_model(document, name, entry), "models", name)
        for index, entry in enumerate(_sequence(document, "handlers")):
            self.add(document, read_handler(document, index, entry), "handlers", index)
        for index, entry in enumerate(_sequence(document, "workers")):
            self.workers.append(_worker(document, index, entry))
        self.styles += read_styles(document, document.file.parent)

    def _take_modes(self, document: Document) -> None:
        if self.default_mode:
            raise document.place("modes").error("a second modes file; write all modes into one")
        found = read_modes(document, self.environment)
        for model in found.models:
            self.add(document, model, "modes", model.name)
        self.default_mode = found.default_mode
        self.styles += found.styles
        self.warnings += found.warnings


def load(paths: Sequence[Path], environment: Mapping[str, str] = os.environ) -> Configuration:
    """Read files and folders. Raises ConfigurationError at the first thing that is wrong."""
    reading = _Reading(environment)
    for document in (document for path in paths for file in files_of(path) for document in read(file)):
        reading.take(document)
    legacy = legacy_mode(environment) if not reading.default_mode else None
    if legacy is not None and legacy.name not in reading.models:
        reading.models[legacy.name] = legacy
        reading.default_mode = legacy.name
        reading.warnings.append("no modes.yaml: MODEL_ROOT and MODEL make one mode; a modes.yaml makes more")
    styles = tuple(reading.styles)
    models = [
        msgspec.structs.replace(model, styles=styles) if "ImageGeneration" in model.features else model
        for model in reading.models.values()
    ]
    return Configuration(tuple(models), tuple(reading.workers), reading.default_mode, tuple(reading.warnings))


def files_of(path: Path) -> list[Path]:
    """The configuration files that a path means. Raises ConfigurationError for a folder without any."""
    if path.is_dir():
        found = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
        if not found:
            raise ConfigurationError(f"{path}: there is no .yaml file in this folder")
        return found
    return [path]


def _mapping(document: Document, key: str) -> dict[str, Any]:
    value = document.content.get(key) or {}
    if not isinstance(value, dict):
        raise document.place(key).error(f"must be a mapping, not {shown(value)}")
    return value


def _sequence(document: Document, key: str) -> list[Any]:
    value = document.content.get(key) or []
    if not isinstance(value, list):
        raise document.place(key).error(f"must be a list, not {shown(value)}")
    return value


def _worker(document: Document, index: int, entry: Any) -> WorkerEntry:
    worker: WorkerEntry = convert(document, ("workers", index), entry, WorkerEntry)
    if not 0 <= worker.count <= MAX_WORKERS:
        raise document.place("workers", index, "count").error(f"must be 0 to {MAX_WORKERS}")
    return worker
