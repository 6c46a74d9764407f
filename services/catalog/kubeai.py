"""What KubeAI's `kind: Model` documents have beside ours: engines that are served by one of here, files for the
engine's server, and fields that mean something in Kubernetes only. Those are taken, and named in a warning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from stoker.schemas.catalog import Feature, SpecFile
from stoker.services.catalog.documents import Document

MAX_FILES = 10
MAX_PATH_CHARS = 1024
SERVER_ENGINES = ("vllm", "ollama")
"""Engines with a server of their own, which takes `args` and `env`; these may name files."""
WITHOUT_MEANING = {
    "cacheProfile": "each worker keeps the weights that it has fetched",
    "image": "the container is that of the resource profile (`image` there)",
    "envFrom": "no Secret or ConfigMap is read here; write `env`, or `env` of the resource profile",
    "jsonPatches": "there is no Pod to change",
    "priority": "requests have priorities here (`priority` of a request), models have none",
    "priorityClassName": "requests have priorities here (`priority` of a request), models have none",
}
"""Fields of KubeAI, and why nothing comes of them."""


@dataclass(frozen=True, slots=True)
class OtherEngine:
    """Who serves an engine that is not here. features: of a model that names none."""

    name: str
    features: tuple[Feature, ...]


OTHER_ENGINES = ("Infinity", "FasterWhisper")
"""Engines of KubeAI that are not here; `other_engine` says what serves them."""


def other_engine(engine: str, url: str) -> OtherEngine | None:
    """Who serves KubeAI's Infinity and FasterWhisper; None for every other name. In any case of letters."""
    match engine.lower():
        case "infinity":
            is_gguf = url.lower().endswith(".gguf")
            return OtherEngine("llamacpp" if is_gguf else "vllm", ("TextEmbedding",))
        case "fasterwhisper":
            return OtherEngine("whisper", ("SpeechToText",))
    return None


class FileEntry(msgspec.Struct, frozen=True):
    """A text file for the engine's server. path: absolute, as its `args` or `env` name it."""

    path: str
    content: str


class KubeAiFields(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Fields of a spec that KubeAI's documents have beside ours. None: not written.

    files: text files that args and env may name. autoscalingDisabled: run as many as `replicas` says. replicas:
    both bounds, where autoscalingDisabled is true.
    cacheProfile, image, envFrom, jsonPatches, priority, priorityClassName: of KubeAI; nothing comes of them.
    """

    files: tuple[FileEntry, ...] = ()
    replicas: int | None = None
    autoscaling_disabled: bool = False
    cache_profile: str | None = None
    image: str | None = None
    env_from: list[dict[str, Any]] | None = None
    json_patches: list[dict[str, Any]] | None = None
    priority: int | str | None = None
    priority_class_name: str | None = None


def read_files(
    document: Document, path: tuple[str | int, ...], files: tuple[FileEntry, ...]
) -> tuple[SpecFile, ...]:
    """The files of a spec. path: of the spec. Raises ConfigurationError for paths that cannot be."""
    if len(files) > MAX_FILES:
        raise document.place(*path, "files").error(f"at most {MAX_FILES} files, not {len(files)}")
    seen: set[str] = set()
    for index, file in enumerate(files):
        place = document.place(*path, "files", index, "path")
        parts = file.path.split("/")
        if parts[0] or len(parts) < 2 or any(part in ("", ".", "..") for part in parts[1:]):
            raise place.error(f"must be a whole path such as /config/template.jinja, not {file.path!r}")
        if ":" in file.path or "\0" in file.path or len(file.path) > MAX_PATH_CHARS:
            raise place.error(f"has no colon, and at most {MAX_PATH_CHARS} characters")
        if file.path in seen:
            raise place.error(f"a file {file.path!r} is there already")
        seen.add(file.path)
    return tuple(SpecFile(file.path, file.content) for file in files)


def replica_bounds(given: KubeAiFields, least: int, most: int | None) -> tuple[int, int | None]:
    """minReplicas and maxReplicas: without autoscaling both are `replicas`, or minReplicas, and 1 at least."""
    if not given.autoscaling_disabled:
        return least, most
    fixed = max(given.replicas if given.replicas is not None else least, 1)
    return fixed, fixed


def warnings_of(where: str, written: Mapping[str, Any], engine: str, other: OtherEngine | None) -> list[str]:
    """What of a spec's fields nothing comes of. where: model and spec. engine: of here. other: if mapped."""
    found = [
        f"{where}: {name} is left out: {why}" for name, why in WITHOUT_MEANING.items() if written.get(name)
    ]
    is_fixed = bool(written.get("autoscalingDisabled"))
    if written.get("replicas") is not None and not is_fixed:
        found.append(
            f"{where}: replicas is left out: the autoscaler decides; write minReplicas, or with it "
            "autoscalingDisabled: true"
        )
    if is_fixed and written.get("replicas") == 0:
        found.append(
            f"{where}: replicas: 0 is taken for 1: a model that is not to run is left out of the catalog"
        )
    if written.get("files") and engine not in SERVER_ENGINES:
        found.append(f"{where}: files is left out: the engine {engine} reads none beside its weights")
    if written.get("args") and (other is not None or engine not in SERVER_ENGINES):
        reads = "options" if other is None else f"options, as it is {engine} here that serves it"
        found.append(f"{where}: args is left out: the engine {written['engine']} takes {reads}")
    if written.get("env") and engine not in SERVER_ENGINES:
        found.append(f"{where}: env is left out: the engine {engine} has no server of its own")
    return found
