"""The `stoker` command."""

from stoker.cli import (
    bench,
    chaos,
    fleet,
    functions,
    installation,
    keys,
    look,
    quarantine,
    record,
    replay,
    schedules,
    serve,
    simulate,
    work,
)
from stoker.cli.app import app

__all__ = ["app", "main"]

_GROUPS = (
    serve,
    simulate,
    installation,
    look,
    fleet,
    functions,
    work,
    schedules,
    bench,
    chaos,
    keys,
    quarantine,
    record,
    replay,
)  # importing them registers their commands


def main() -> None:
    app()
