"""The `stoker` command."""

from stoker.cli import fleet, look, serve, work
from stoker.cli.app import app

__all__ = ["app", "main"]

_GROUPS = (serve, look, fleet, work)  # importing them registers their commands


def main() -> None:
    app()
