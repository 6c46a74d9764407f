"""The `stoker` command. Which commands there are, the table says (stoker/cli/commands.py).

It may be started without a standard input, output or error, with one whose encoding lacks what is to be said,
or whose disk is full; and be given what is no text. None of that is a traceback.
"""

import contextlib
import errno
import os
import sys

import typer

from stoker.cli.app import app

__all__ = ["app", "main"]

OF_FILES = {
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT,
    errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
}  # fmt: skip
"""Errors of the system that say enough: of a path that was given, or of where the output goes."""


def main() -> None:
    _complete_streams()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except UnicodeError as error:
        _end(f"what was given is no text in {getattr(error, 'encoding', 'UTF-8').upper()}")
    except OSError as error:
        if error.errno not in OF_FILES:
            raise
        _end(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))


def _complete_streams() -> None:
    """What is closed is like /dev/null, and what an encoding lacks is shown as `?`."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    sys.stdin = sys.stdin or open(0, encoding="utf-8")  # noqa: SIM115 (for the whole life)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")  # noqa: SIM115 (for the whole life)
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8")  # noqa: SIM115 (for the whole life)
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="replace")


def _end(message: str) -> None:
    """Say what is wrong, where that can be, and end with 1. What could not be written is given up."""
    with contextlib.suppress(OSError):
        typer.echo(f"stoker: {message}", err=True)
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what waits there would fail once more at the exit
    sys.exit(1)
