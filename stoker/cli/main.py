"""The `stoker` command."""

from stoker.cli import bench, fleet, functions, keys, look, serve, work
from stoker.cli.app import app

__all__ = ["app", "main"]

_GROUPS = (serve, look, fleet, functions, work, bench, keys)  # importing them registers their commands


def main() -> None:
    app()
