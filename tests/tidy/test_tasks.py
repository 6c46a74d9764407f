"""Every task has an owner: what makes a task stands in services/process/tasks.py, and here are the exceptions."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.tidy.test_budgets import SOURCES

MAKES_TASKS = {
    "create_task",
    "ensure_future",
    "gather",
    "run_coroutine_threadsafe",
    "TaskGroup",
}
"""anyio's own groups may be made anywhere: their tasks end with their block."""
REASONED = {
    "services/gateway/edge/exchange.py": "hot path: every slow request watches for its client to go away",
    "services/worker/engines/text/http_stream.py": "connections of a server that is unloaded end by themselves",
    "services/records/parts.py": "a generator reads ahead: no group may stay open while what it gives is used",
    "services/worker/runner/runner.py": "hot path: every run is a task",
    "stoker/functions/calls.py": "as the host, beside which it stands",
    "stoker/functions/context.py": "its gather makes jobs, no tasks",
    "stoker/functions/local_calls.py": "as the host: the loop of one call on a terminal owns them",
    "stoker/functions/host.py": "the SDK's host stands alone in the environment of a user's project",
}
"""Files that may make tasks themselves, and why."""


def calls(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in MAKES_TASKS:
                found.append(f"line {node.lineno}: {name}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_task_without_an_owner(path: Path) -> None:
    if str(path.relative_to(ROOT)) in REASONED:
        assert calls(path), "an exception that is not needed any more"
    else:
        assert calls(path) == []
