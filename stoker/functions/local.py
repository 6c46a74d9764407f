"""A call in this very process, without a server: for debugging."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from stoker.functions.calling import call, read_payload
from stoker.functions.context import ActionContext, SavedFile
from stoker.functions.errors import FatalError, ValidationError
from stoker.functions.loading import class_name, load_model
from stoker.functions.project import Project, load_project
from stoker.functions.sdk import Src
from stoker.functions.signature import Function


def run_local(
    folder: Path,
    name: str,
    payload: dict[str, Any],
    report: Callable[[int, int], None] = lambda step, steps: None,
    item: Callable[[Any], None] = lambda item: None,
) -> tuple[Any, list[SavedFile]]:
    """The result of a function as builtins, and the files that it saved.

    Models must lie on this machine. Raises what the function raises, BadProject, ValidationError, FatalError.
    """
    project = load_project(folder)
    function = project.functions.get(name)
    if function is None:
        raise FatalError(f"there is no function {name!r}; there are {', '.join(sorted(project.functions))}")
    read = read_payload(function, payload)
    models = {
        one.parameter: load_model(class_name(one.kind), _path(project, key))
        for one, key in _keys(project, function, read)
    }
    context = ActionContext(report=report)
    result = asyncio.run(call(function, context, read, models, lambda one: item(msgspec.to_builtins(one))))
    return msgspec.to_builtins(result), context.files


def _keys(project: Project, function: Function, payload: msgspec.Struct) -> list[tuple[Any, str]]:
    found: list[tuple[Any, str]] = []
    for one in function.models:
        key = one.ref.name if one.ref.src is Src.FIXED else getattr(payload, one.ref.name)
        if key not in project.manifest.models:
            known = ", ".join(sorted(project.manifest.models))
            raise ValidationError(f"{one.ref.name}: {key!r} is not a model of this project; keys are: {known}")
        found.append((one, key))
    return found


def _path(project: Project, key: str) -> Path:
    url = project.manifest.models[key]
    if url.startswith("file://"):
        return Path(url.removeprefix("file://"))
    return Path(url.removeprefix("hf://"))  # from_pretrained finds it in the hub's cache by its name
