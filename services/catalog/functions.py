"""Function projects as models: every function, and every model that functions are given.

A project is imported by a process of its own (stoker.functions.describe), never by a service.
"""

import hashlib
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from stoker.functions.environments import environment_of
from stoker.functions.layout import source_files
from stoker.functions.manifest import BadProject, Manifest, located, read_manifest
from stoker.schemas.catalog import DEFAULT_SPEC, NEEDS_GPU, Function, FunctionModel, Model, Spec
from stoker.services.catalog.documents import ConfigurationError
from stoker.services.catalog.files import size_bytes, stamp
from stoker.services.catalog.sizes import parse_size
from stoker.services.process.logs import get_logger

log = get_logger("configuration")

ENGINE = "function"
DESCRIBE_TIMEOUT_S = 120.0
PROJECTS_AT_A_TIME = 4
WATCHED = ("*.py", "*.toml")


class Weights(msgspec.Struct, frozen=True):
    """A model of a project. kind: the class that it is loaded as, "" where nothing uses it."""

    url: str
    kind: str


class Described(msgspec.Struct, frozen=True):
    """A function as its project describes it."""

    name: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    streams: bool
    models: tuple[FunctionModel, ...]
    concurrency: int
    timeout_s: float
    memory: str
    vram: str
    gpu: bool
    cpu: float
    input_type: dict[str, Any] = {}
    output_type: dict[str, Any] = {}


class ProjectDescription(msgspec.Struct, frozen=True):
    """What stoker.functions.describe prints."""

    folder: str
    debug: bool
    models: dict[str, Weights]
    functions: tuple[Described, ...]


_described: dict[str, tuple[str, ProjectDescription]] = {}
"""By the project, with its version: one that has not changed is not imported again."""


def read_projects(folders: Sequence[Path]) -> list[list[Model]]:
    """The models of several projects, a few of them read at a time. Raises ConfigurationError."""
    with ThreadPoolExecutor(PROJECTS_AT_A_TIME) as threads:
        return list(threads.map(read_project, folders))


def read_project(folder: Path) -> list[Model]:
    """The models of a function project. Raises ConfigurationError with where and what is wrong."""
    place = located(folder)
    try:
        version = _version(read_manifest(place))
        known, found = _described.get(str(place), ("", None))
        if found is None or known != version:
            found = _describe(place)
            _described[str(place)] = version, found
    except BadProject as error:
        raise ConfigurationError(str(error)) from error
    return models_of(found, version)


def _describe(place: Path) -> ProjectDescription:
    """What a process of the project's own says of it. Raises BadProject."""

    def say(line: str) -> None:
        log.info("project.environment", project=place.name, said=line)

    command = environment_of(place, say).command("stoker.functions.describe", str(place))
    try:
        done = subprocess.run(command, capture_output=True, timeout=DESCRIBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise BadProject(f"{place}: importing it took longer than {DESCRIBE_TIMEOUT_S:g} s") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise BadProject(said[-1] if said else f"{place}: importing it failed")
    return msgspec.json.decode(done.stdout, type=ProjectDescription)


def _version(manifest: Manifest) -> str:
    """Changes when a file of the project does."""
    digest = hashlib.blake2b(digest_size=6)
    for file in source_files(manifest.folder, WATCHED):
        digest.update(str(file.relative_to(manifest.folder)).encode() + file.read_bytes())
    return digest.hexdigest()


def models_of(project: ProjectDescription, version: str) -> list[Model]:
    """One model per function, and one per key that a function may be given."""
    limit = max((_bytes(one.memory) for one in project.functions), default=0)
    options: dict[str, Any] = {"project": project.folder, "version": version, "memory_limit": limit}
    keys = tuple(project.models)
    found = [_function(one, options | _gpu([one]), keys) for one in project.functions]
    using = {key: [one for one in project.functions if _may_use(one, key)] for key in keys}
    for key, weights in project.models.items():
        if using[key]:
            reserved = max(_bytes(one.vram) for one in using[key])
            spec = Spec(
                name=DEFAULT_SPEC,
                engine=ENGINE,
                url=weights.url,
                options=options | _gpu(using[key]) | {"key": key, "kind": weights.kind, "reserved": reserved},
                size_bytes=size_bytes(weights.url),
                stamp=stamp(weights.url),
                memory_bytes=reserved,
                slots=min(one.concurrency for one in using[key]),
            )
            found.append(Model(name=key, features=("Weights",), specs=(spec,)))
    return found


def _gpu(functions: list[Described]) -> dict[str, Any]:
    """Placement keeps what needs a GPU off workers without one."""
    return {NEEDS_GPU: True} if any(one.gpu for one in functions) else {}


def _may_use(function: Described, key: str) -> bool:
    return any(one.src == "payload" or one.name == key for one in function.models)


def _bytes(size: str) -> int:
    try:
        return parse_size(size) if size else 0
    except ValueError as error:
        raise ConfigurationError(f"ResourceRequirements: {error}") from error


def _function(one: Described, options: dict[str, Any], keys: tuple[str, ...]) -> Model:
    return Model(
        name=one.name,
        features=("Function",),
        specs=(Spec(name=DEFAULT_SPEC, engine=ENGINE, url="", options=options, slots=one.concurrency),),
        run_timeout_s=one.timeout_s,
        function=Function(
            input_schema=one.input_schema,
            output_schema=one.output_schema,
            input_type=one.input_type,
            output_type=one.output_type,
            description=one.description,
            streams=one.streams,
            models=one.models,
            keys=keys if one.models else (),
        ),
    )
