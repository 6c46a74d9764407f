"""What benchmarks are told on the command line, and how they end when they are cut short."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType


def positive(text: str) -> int:
    """A type of argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


positive.__name__ = "whole number from 1 on"  # as argparse calls it where one is wrong


def existing(text: str) -> Path:
    """The same for a path, which is made absolute."""
    if not (found := Path(text).absolute()).exists():
        raise argparse.ArgumentTypeError(f"{text} is not there")
    return found


def numbers(description: str | None, default: Sequence[int], most: int | None = None) -> tuple[int, ...]:
    """Whole numbers from 1 on, `most` of them at most; the default where none is given. Ends the process with
    status 2 where one is wrong.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("number", nargs="*", type=positive, help=f"default: {' '.join(map(str, default))}")
    found = tuple(parser.parse_args().number)
    if most is not None and len(found) > most:
        parser.error(f"at most {most} numbers, not {len(found)}")
    return found or tuple(default)


def paths(description: str | None, least: int, most: int | None = None) -> list[Path]:
    """Files or folders, absolute. Ends the process with status 2 where one is not there, or there are too few
    or too many.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", nargs="*", type=existing)
    found: list[Path] = parser.parse_args().path
    if not least <= len(found) <= (len(found) if most is None else most):
        parser.error(f"{len(found)} paths are given; see --help")
    return found


def nothing(description: str | None) -> None:
    """Of a benchmark that is told nothing. Ends the process with status 2 where something is given."""
    argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()


def end_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The hook of exceptions that nobody handles: Ctrl-C is no fault of the benchmark."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
