"""The `stoker` command."""

from stoker.cli import look, serve, work
from stoker.cli.app import app

__all__ = ["app", "main"]

_GROUPS = (serve, look, work)  # importing them registers their commands


def main() -> None:
    app()
