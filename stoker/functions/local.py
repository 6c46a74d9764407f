"""A call on this machine without a server: for debugging.

    python -P -m stoker.functions.local PROJECT DESCRIPTOR

runs it in a process of its own (`run_apart`), in the project's environment and under nobody else's modules, but
with this terminal: a breakpoint works. `run_local` is the same in this very process.
"""

import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from stoker.functions.assets import SavedFile
from stoker.functions.calling import read_payload
from stoker.functions.context import ActionContext
from stoker.functions.environments import environment_of
from stoker.functions.errors import (
    CallFailed as ChildFailed,
)
from stoker.functions.errors import (
    FatalError,
    FunctionError,
    ValidationError,
    kind_of,
    message_of,
)
from stoker.functions.file_inputs import with_files_named
from stoker.functions.frames import Frames, frame
from stoker.functions.loading import class_name, load_model
from stoker.functions.local_calls import LocalCalls
from stoker.functions.messages import (
    MAX_FRAME_BYTES,
    Call,
    CallDone,
    CallFailed,
    CallItem,
    CallProgress,
    FromHost,
    HostReady,
    Message,
    ToHost,
    file_of,
)
from stoker.functions.payload_check import PayloadCheck
from stoker.functions.payload_types import describe_type
from stoker.functions.project import BadProject, Project, load_project
from stoker.functions.sdk import Src
from stoker.functions.signature import Function

READ_BYTES = 256 * 1024
Report = Callable[[int, int], None]
Item = Callable[[Any], None]


def run_apart(
    project: Path,
    name: str,
    payload: dict[str, Any],
    report: Report = lambda step, steps: None,
    item: Item = lambda item: None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Any, list[SavedFile]]:
    """As run_local, in a process of the project's own environment. Raises BadProject, FunctionError."""
    environment = environment_of(project, say)
    ours, theirs = socket.socketpair()
    command = environment.command("stoker.functions.local", str(project), str(theirs.fileno()))
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        ours.sendall(frame(Call("", "local", name, payload)))
        frames = Frames(FromHost, MAX_FRAME_BYTES)
        while chunk := ours.recv(READ_BYTES):
            for message in frames.feed(chunk):
                match message:
                    case CallProgress():
                        report(message.step, message.steps)
                    case CallItem():
                        item(msgspec.json.decode(message.item))
                    case HostReady(error=error) if error:
                        raise BadProject(error)
                    case CallFailed():
                        raise FunctionError(message.message)
                    case CallDone():
                        files = [
                            SavedFile(one.name, one.content_type, one.content, size_bytes=one.size_bytes)
                            for one in message.files
                        ]
                        return msgspec.json.decode(message.result), files
    raise FatalError(f"the function ended its process with status {process.returncode}")


def run_local(
    folder: Path,
    name: str,
    payload: dict[str, Any],
    report: Report = lambda step, steps: None,
    item: Item = lambda item: None,
) -> tuple[Any, list[SavedFile]]:
    """The result of a function as builtins, and the files that it saved.

    Models must lie on this machine. Raises what the function raises, BadProject, ValidationError, FatalError.
    """
    project = load_project(folder)

    def find(wanted: str) -> Function:
        if wanted not in project.functions:
            known = ", ".join(sorted(project.functions))
            raise FatalError(f"there is no function {wanted!r}; there are {known}; models need a server")
        return project.functions[wanted]

    function = find(name)
    payload = with_files_named(describe_type(function.payload), payload)
    if reason := _misfit(function, payload):
        raise ValidationError(reason)
    read = read_payload(function, payload)
    models = _models(project, function, read)
    context = ActionContext(report=report)
    calls = LocalCalls(find, partial(_models, project), _misfit)
    result = calls.run(function, read, models, context, lambda one: item(msgspec.to_builtins(one)))
    return msgspec.to_builtins(result), context.files


def _misfit(function: Function, payload: dict[str, Any]) -> str:
    """Why a payload does not fit; "" where it does."""
    wrong = PayloadCheck(describe_type(function.payload)).misfit(payload)
    if wrong is None:
        return ""
    return f"{wrong.field}: {wrong.reason}" if wrong.field else wrong.reason


def _models(project: Project, function: Function, payload: msgspec.Struct) -> dict[str, Any]:
    """The models that a call is given, by parameter. Raises ValidationError, CannotLoad."""
    return {
        one.parameter: load_model(class_name(one.kind), _path(project, key))
        for one, key in _keys(project, function, payload)
    }


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


def _asked(connection: socket.socket) -> Call:
    """The one call that this process is there for."""
    frames = Frames(ToHost, MAX_FRAME_BYTES)
    while chunk := connection.recv(READ_BYTES):
        for message in frames.feed(chunk):
            if isinstance(message, Call):
                return message
    raise ConnectionError("nothing was asked")


def main() -> None:
    project, connection = Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    asked = _asked(connection)

    def send(message: Message) -> None:
        connection.sendall(frame(message))

    try:
        result, files = run_local(
            project, asked.function, asked.payload,
            lambda step, steps: send(CallProgress("", step, steps)),
            lambda one: send(CallItem("", msgspec.json.encode(one))),
        )  # fmt: skip
    except BadProject as error:
        send(HostReady(str(error)))
    except (FunctionError, ChildFailed) as error:
        send(CallFailed("", kind_of(error), message_of(error, with_trace=False)))
    else:
        saved = tuple(map(file_of, files))
        send(CallDone("", msgspec.json.encode(result), saved))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
