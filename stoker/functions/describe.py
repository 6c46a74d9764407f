"""What a project has, as JSON: `python -P -m stoker.functions.describe PROJECT`.

The project is imported in this process of its own, and in no other that serves anybody.
"""

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from stoker.functions.payload_check import PayloadCheck
from stoker.functions.payload_types import describe_type
from stoker.functions.project import BadProject, Project, load_project, model_classes, place_of
from stoker.functions.signature import Function


def described(project: Project) -> dict[str, Any]:
    """Functions with their schemas and needs, models with their URLs and classes."""
    classes = model_classes(project)
    return {
        "folder": project.manifest.project,
        "debug": project.manifest.is_debug,
        "models": {key: {"url": url, "kind": classes[key]} for key, url in project.manifest.models.items()},
        "functions": [_function(function) for function in project.functions.values()],
    }


def _function(function: Function) -> dict[str, Any]:
    needs = function.declaration.requirements
    input_type, output_type = _types(function)
    return {
        "name": function.name,
        "description": (function.call.__doc__ or "").strip(),
        "input_schema": _schema(function.payload),
        "output_schema": _schema(function.result),
        "input_type": input_type,
        "output_type": output_type,
        "streams": function.streams,
        "models": [
            {"parameter": one.parameter, "src": one.ref.src.value, "name": one.ref.name}
            for one in function.models
        ],
        "concurrency": needs.concurrency,
        "timeout_s": needs.timeout_s,
        "memory": needs.memory,
        "vram": needs.vram,
        "gpu": needs.gpu,
        "cpu": needs.cpu,
    }


def _types(function: Function) -> tuple[Any, Any]:
    """What goes in and what comes out (payload_types.py), as builtins. Raises BadProject where it cannot."""
    try:
        found = describe_type(function.payload)
        PayloadCheck(found).misfit({})  # what cannot be built anew is heard here
        return msgspec.to_builtins(found), msgspec.to_builtins(describe_type(function.result))
    except TypeError as error:
        where = f"{place_of(function)}: {function.name}"
        raise BadProject(f"{where}: {error}; use a type that msgspec reads from JSON") from error


def _schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """A JSON Schema that stands alone."""
    (reference,), components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    name = str(reference.get("$ref", "")).rpartition("/")[2]
    schema = dict(components.pop(name, reference))
    return schema | ({"$defs": components} if components else {})


def main() -> int:
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(
        os.open(os.devnull, os.O_WRONLY), 1
    )  # what the project prints, now or at its end, is no description
    try:
        found = described(load_project(Path(sys.argv[1])))
    except BadProject as error:
        sys.stderr.write(f"{error}\n")
        return 2
    with answer:
        answer.write(msgspec.json.encode(found).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
