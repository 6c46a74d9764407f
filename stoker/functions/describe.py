"""What a project has, as JSON: `python -P -m stoker.functions.describe FOLDER`.

The project is imported in this process of its own, and in no other that serves anybody.
"""

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from stoker.functions.project import BadProject, Project, load_project, model_classes
from stoker.functions.signature import Function


def described(project: Project) -> dict[str, Any]:
    """Functions with their schemas and needs, models with their URLs and classes."""
    classes = model_classes(project)
    return {
        "folder": str(project.manifest.folder),
        "debug": project.manifest.is_debug,
        "models": {key: {"url": url, "kind": classes[key]} for key, url in project.manifest.models.items()},
        "functions": [_function(function) for function in project.functions.values()],
    }


def _function(function: Function) -> dict[str, Any]:
    needs = function.declaration.requirements
    return {
        "name": function.name,
        "description": (function.call.__doc__ or "").strip(),
        "input_schema": _schema(function.payload),
        "output_schema": _schema(function.result),
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
        project = load_project(Path(sys.argv[1]).resolve())
    except BadProject as error:
        sys.stderr.write(f"{error}\n")
        return 2
    with answer:
        answer.write(msgspec.json.encode(described(project)).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
