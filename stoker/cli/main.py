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
    replay,
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
    bench,
    chaos,
    keys,
    quarantine,
    replay,
)  # importing them registers their commands


def main() -> None:
    app()
