"""From configuration files to a catalog and the workers to start. Nothing starts half-configured.

What a document is, its content says: `modes:` and `model_root:` make a modes file (modes.py), `kind: Model` a
model of many specs (multi_spec.py), `kind: ResourceProfile` or `resourceProfiles:` hardware (profiles.py);
`models:`, `workers:`, `handlers:` and `styles:` are Stoker's own short form (short_form.py).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from stoker.schemas import wire
from stoker.schemas.catalog import Model, ResourceProfile, Style
from stoker.services.bus.sizes import MAX_SPEC_BYTES
from stoker.services.catalog import functions, multi_spec, profiles
from stoker.services.catalog.documents import ConfigurationError, Document, check_keys, convert, read, shown
from stoker.services.catalog.engines import colliding, odd
from stoker.services.catalog.modes import is_modes_file, legacy_mode, read_modes, read_styles
from stoker.services.catalog.short_form import ENGINE_FEATURES, read_handler, read_model
from stoker.services.catalog.sizes import read_size

MAX_WORKERS = 64
NOTHING_IN_IT = "there is nothing in it; write {} if that is meant, or leave the key out"
"""A file that is cut off behind a key must not mean that all of it was removed."""


WORKER_ENGINES = (*ENGINE_FEATURES, "function", "custom")
"""What a worker may offer."""


class WorkerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `workers:`: what `stoker up` starts by itself.

    profile: of the hardware, as models name it. count: how many. memory: for loaded models, as bytes or 512MB.
    ram: for models that are parked there; 0 is none. engines: the only ones that they offer.
    """

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
    profiles: tuple[ResourceProfile, ...] = ()
    default_mode: str = ""
    warnings: tuple[str, ...] = ()

    def handlers(self) -> tuple[str, ...]:
        """The functions that custom jobs may call."""
        return tuple(model.name for model in self.models if model.specs[0].engine == "custom")


_TOP_KEYS = ("models", "workers", "handlers", "styles", profiles.KEY)
_KINDS = (multi_spec.KIND, profiles.KIND)


@dataclass(slots=True)
class _Reading:
    """What has been read so far."""

    environment: Mapping[str, str]
    models: dict[str, Model] = field(default_factory=dict)
    workers: list[WorkerEntry] = field(default_factory=list)
    styles: list[Style] = field(default_factory=list)
    profiles: dict[str, ResourceProfile] = field(default_factory=dict)
    default_mode: str = ""
    warnings: list[str] = field(default_factory=list)

    def add(self, document: Document, model: Model, *path: str | int) -> None:
        if model.name in self.models:
            raise document.place(*path).error("a model of this name is there already")
        try:
            wire.decode(Model, wire.encode(model))
        except wire.UnreadableMessage as error:
            raise document.place(*path).error(f"services could not read it: {error}") from error
        for spec in model.specs:
            size = len(wire.encode(spec))
            if size > MAX_SPEC_BYTES:
                message = f"the spec {spec.name!r} has {size} bytes; it may have {MAX_SPEC_BYTES}"
                raise document.place(*path).error(message)
        self.models[model.name] = model

    def take(self, document: Document) -> None:
        if is_modes_file(document):
            self._take_modes(document)
        elif isinstance(document.content, dict) and "kind" in document.content:
            self._take_kind(document)
        else:
            self._take_short_form(document)

    def _take_kind(self, document: Document) -> None:
        match document.content["kind"]:
            case multi_spec.KIND:
                self.add(document, multi_spec.model_document(document, self.warnings), "metadata", "name")
            case profiles.KIND:
                self._add_profile(document, profiles.profile_document(document), "metadata", "name")
            case other:
                raise document.place("kind").error(
                    f"unknown kind {shown(other)}; there are {', '.join(_KINDS)}"
                )

    def _add_profile(self, document: Document, profile: ResourceProfile, *path: str | int) -> None:
        if profile.name in self.profiles:
            raise document.place(*path).error("a profile of this name is there already")
        self.profiles[profile.name] = profile

    def _take_short_form(self, document: Document) -> None:
        check_keys(document, (), document.content, _TOP_KEYS)
        for name, entry in _mapping(document, "models").items():
            self.add(document, read_model(document, name, entry), "models", name)
        for index, entry in enumerate(_sequence(document, "handlers")):
            self.add(document, read_handler(document, index, entry), "handlers", index)
        for index, entry in enumerate(_sequence(document, "workers")):
            self.workers.append(_worker(document, index, entry))
        for name, entry in _mapping(document, profiles.KEY).items():
            path = (profiles.KEY, name)
            self._add_profile(document, profiles.read_profile(document, path, name, entry), *path)
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


def load(
    paths: Sequence[Path],
    environment: Mapping[str, str] = os.environ,
    projects: Sequence[Path] = (),
) -> Configuration:
    """Read files, folders and function projects. Raises ConfigurationError at the first thing that is wrong.

    Blanks around values of the environment mean nothing, and a blank value is none.
    """
    environment = {name: value.strip() for name, value in environment.items() if value.strip()}
    try:
        return _load(paths, environment, projects)
    except ConfigurationError:
        raise
    except (OSError, ValueError, TypeError, RecursionError) as error:  # a file that went, half of a character
        shown_paths = ", ".join(str(path) for path in (*paths, *projects))
        raise ConfigurationError(f"{shown_paths}: cannot be taken in: {error}") from error


def _load(paths: Sequence[Path], environment: Mapping[str, str], projects: Sequence[Path]) -> Configuration:
    reading = _Reading(environment)
    for document in (document for path in paths for file in files_of(path) for document in read(file)):
        reading.take(document)
    for folder, found in zip(projects, functions.read_projects(projects), strict=True):
        for model in found:
            if model.name in reading.models:
                raise ConfigurationError(f"{folder}: a model {model.name!r} is there already")
            reading.models[model.name] = model
    legacy = legacy_mode(environment) if not reading.default_mode else None
    if legacy is not None and legacy.name not in reading.models:
        reading.models[legacy.name] = legacy
        reading.default_mode = legacy.name
        reading.warnings.append("no modes.yaml: MODEL_ROOT and MODEL make one mode; a modes.yaml makes more")
    styles = tuple(reading.styles)
    if two := colliding(reading.models):
        raise ConfigurationError(two)
    models: list[Model] = []
    for model in reading.models.values():
        reading.warnings += odd(model)
        launched, warnings = multi_spec.with_launchers(model, reading.profiles)
        reading.warnings += warnings
        has_styles = "ImageGeneration" in model.features
        models.append(msgspec.structs.replace(launched, styles=styles) if has_styles else launched)
    return Configuration(
        models=tuple(models),
        workers=tuple(reading.workers),
        profiles=tuple(reading.profiles.values()),
        default_mode=reading.default_mode,
        warnings=tuple(reading.warnings),
    )


def files_of(path: Path) -> list[Path]:
    """The configuration files that a path means. Raises ConfigurationError for a folder without any.

    Hidden files of a folder mean nothing: editors keep their own there.
    """
    if path.is_dir():
        found = sorted(
            one for one in (*path.glob("*.yaml"), *path.glob("*.yml")) if not one.name.startswith(".")
        )
        if not found:
            raise ConfigurationError(f"{path}: there is no .yaml file in this folder", None, str(path))
        return found
    return [path]


def _mapping(document: Document, key: str) -> dict[str, Any]:
    value = document.content.get(key, {})
    if value is None:
        raise document.place(key).error(NOTHING_IN_IT.format("{}"))
    if not isinstance(value, dict):
        raise document.place(key).error(f"must be a mapping, not {shown(value)}")
    return value


def _sequence(document: Document, key: str) -> list[Any]:
    value = document.content.get(key, [])
    if value is None:
        raise document.place(key).error(NOTHING_IN_IT.format("[]"))
    if not isinstance(value, list):
        raise document.place(key).error(f"must be a list, not {shown(value)}")
    return value


def _worker(document: Document, index: int, entry: Any) -> WorkerEntry:
    worker: WorkerEntry = convert(document, ("workers", index), entry, WorkerEntry)
    if not 0 <= worker.count <= MAX_WORKERS:
        raise document.place("workers", index, "count").error(f"must be 0 to {MAX_WORKERS}")
    for key, size in (("memory", worker.memory), ("ram", worker.ram)):
        if size:
            read_size(document, ("workers", index, key), size)
    return msgspec.structs.replace(worker, engines=_engines(document, index, worker.engines))


def _engines(document: Document, index: int, named: Sequence[str]) -> tuple[str, ...]:
    """As workers call them. Raises ConfigurationError."""
    for number, name in enumerate(named):
        if name.lower() not in WORKER_ENGINES:
            known = ", ".join(WORKER_ENGINES)
            place = document.place("workers", index, "engines", number)
            raise place.error(f"unknown engine {name!r}; there are {known}")
    return tuple(name.lower() for name in named)
