"""From configuration files to a catalog and the workers to start. Nothing starts half-configured.

Reads Stoker's own short form (`models:`, `workers:`). What a document is, its content says.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from schemas.catalog import DEFAULT_SPEC, Adapter, Feature, Model, Spec
from schemas.subjects import BadName, check_name
from services.catalog.documents import ConfigurationError, Document, check_keys, read

ENGINE_FEATURES: dict[str, tuple[Feature, ...]] = {
    "llamacpp": ("TextGeneration", "TextEmbedding"),
    "diffusers": ("ImageGeneration",),
    "synthetic": ("TextGeneration",),
}
IMAGE_DEFAULTS = {
    "width", "height", "num_inference_steps", "guidance_scale", "negative_prompt",
}  # fmt: skip
TEXT_DEFAULTS = {"max_tokens", "temperature", "top_p", "top_k", "min_p", "repeat_penalty"}
MAX_WORKERS = 64


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `models:`."""

    engine: str
    url: str = ""
    features: tuple[Feature, ...] = ()
    defaults: dict[str, Any] = {}
    options: dict[str, Any] = {}
    adapters: dict[str, str] = {}
    profile: str = ""
    memory: int | str = 0
    slots: int = 0
    run_timeout_s: float = 600.0


class WorkerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `workers:`: what `stoker up` starts by itself. memory, ram: sizes such as 512MB."""

    profile: str = "cpu"
    count: int = 1
    memory: str = ""
    ram: str = "0"
    engines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a set of files says."""

    models: tuple[Model, ...]
    workers: tuple[WorkerEntry, ...]


_TOP_KEYS = ("models", "workers")


def load(paths: Sequence[Path]) -> Configuration:
    """Read files and folders. Raises ConfigurationError at the first thing that is wrong."""
    models: dict[str, Model] = {}
    workers: list[WorkerEntry] = []
    for document in (document for path in paths for file in _files(path) for document in read(file)):
        check_keys(document, (), document.content, _TOP_KEYS)
        for name, entry in _mapping(document, "models").items():
            place = document.place("models", name)
            if name in models:
                raise place.error("a model of this name is there already")
            models[name] = _model(document, name, entry)
        for index, entry in enumerate(_sequence(document, "workers")):
            workers.append(_worker(document, index, entry))
    return Configuration(tuple(models.values()), tuple(workers))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
        if not found:
            raise ConfigurationError(f"{path}: there is no .yaml file in this folder")
        return found
    return [path]


def _mapping(document: Document, key: str) -> dict[str, Any]:
    value = document.content.get(key) or {}
    if not isinstance(value, dict):
        raise document.place(key).error(f"must be a mapping, not {value!r}")
    return value


def _sequence(document: Document, key: str) -> list[Any]:
    value = document.content.get(key) or []
    if not isinstance(value, list):
        raise document.place(key).error(f"must be a list, not {value!r}")
    return value


def _convert(document: Document, path: tuple[str | int, ...], entry: Any, kind: type[Any]) -> Any:
    check_keys(document, path, entry, kind.__struct_fields__)
    try:
        return msgspec.convert(entry, kind)
    except msgspec.ValidationError as error:
        message, _, at = str(error).partition(" - at `$")
        field = at.rstrip("`").lstrip(".").split(".")[0].split("[")[0]
        raise document.place(*path, *([field] if field else [])).error(message) from error


def _worker(document: Document, index: int, entry: Any) -> WorkerEntry:
    worker: WorkerEntry = _convert(document, ("workers", index), entry, WorkerEntry)
    if not 0 <= worker.count <= MAX_WORKERS:
        raise document.place("workers", index, "count").error(f"must be 0 to {MAX_WORKERS}")
    return worker


def _model(document: Document, name: str, entry: Any) -> Model:
    path = ("models", name)
    try:
        check_name(name)
    except BadName as error:
        raise document.place(*path).error(str(error)) from error
    given: ModelEntry = _convert(document, path, entry, ModelEntry)
    engine = given.engine.lower()
    if engine not in ENGINE_FEATURES:
        known = ", ".join(sorted(ENGINE_FEATURES))
        raise document.place(*path, "engine").error(f"unknown engine {given.engine!r}; there are {known}")
    features = given.features or ENGINE_FEATURES[engine]
    known_defaults = IMAGE_DEFAULTS if "ImageGeneration" in features else set[str]()
    known_defaults = known_defaults | (TEXT_DEFAULTS if "TextGeneration" in features else set[str]())
    check_keys(document, (*path, "defaults"), given.defaults, known_defaults)
    if not given.url and engine != "synthetic":
        raise document.place(*path).error("missing required field: url")
    url = _absolute(document.file, given.url)
    spec = Spec(
        name=DEFAULT_SPEC,
        engine=engine,
        url=url,
        profile=given.profile,
        options=given.options,
        adapters=tuple(
            Adapter(name=adapter, url=_absolute(document.file, where))
            for adapter, where in given.adapters.items()
        ),
        size_bytes=_size(url),
        memory_bytes=_bytes(document, path, given.memory),
        slots=given.slots,
    )
    return Model(
        name=name,
        features=features,
        specs=(spec,),
        defaults=given.defaults,
        run_timeout_s=given.run_timeout_s,
        created_at=int(time.time()),
    )


def _absolute(file: Path, url: str) -> str:
    """Relative paths are relative to the file they stand in."""
    if not url or ("://" in url and not url.startswith("file://")):
        return url
    local = Path(url.removeprefix("file://")).expanduser()
    return f"file://{local if local.is_absolute() else (file.parent / local).resolve()}"


def _size(url: str) -> int:
    """Bytes of local weights; 0 where they are elsewhere or not there (a warning comes at load)."""
    path = Path(url.removeprefix("file://"))
    if not url.startswith("file://") or not path.exists():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def _bytes(document: Document, path: tuple[str | int, ...], memory: int | str) -> int:
    if isinstance(memory, int):
        return memory
    number, unit = memory[:-2].strip(), memory[-2:].upper()
    if unit not in _UNITS or not number.replace(".", "", 1).isdigit():
        raise document.place(*path, "memory").error(f"{memory!r} is not a size; write 512MB or 2GB")
    return int(float(number) * _UNITS[unit])
