"""The `stoker` command. Which commands there are, the table says (stoker/cli/commands.py)."""

from stoker.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    app()
