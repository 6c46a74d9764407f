"""YAML with places: every value knows its file and line, and errors say the closest known key."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from stoker.services.catalog.yaml_nodes import Lines, WrongAt, composed, plain

MAX_FILE_BYTES = 4 * 1024 * 1024
SHOWN_CHARS = 80
IGNORED = "x-"
"""How a key at the top of a document begins that is there for its anchors only."""


class ConfigurationError(ValueError):
    """Something in the configuration is wrong; the message begins with file and line, where they are known.

    field: the path of keys in the file. line: 0 where none is meant.
    """

    def __init__(self, message: str, field: str | None = None, file: str = "", line: int = 0) -> None:
        super().__init__(message)
        self.field = field
        self.file = file
        self.line = line


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands. line: 0 for the file as a whole."""

    file: Path
    line: int = 0
    field: str = ""

    def error(self, message: str) -> ConfigurationError:
        at = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        said = at + (f"{self.field}: " if self.field else "") + message
        return ConfigurationError(said, self.field or None, str(self.file), self.line)


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: plain values, and the line of each path of keys."""

    file: Path
    content: Any
    lines: Lines

    def place(self, *path: str | int) -> Place:
        """Where a value stands, or where its parent does when it is not there itself."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        field = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")
        return Place(self.file, self.lines.get(known, 1), field)


class EmptyFile(ConfigurationError):
    """There is nothing in the file: an editor leaves it so for a moment before it writes."""


def read(file: Path) -> list[Document]:
    """Every document of a file. Raises ConfigurationError when it cannot be read or is not YAML, EmptyFile."""
    text = _text(file)
    try:
        documents = _documents(file, text)
    except WrongAt as error:
        raise Place(file, error.line).error(str(error)) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Place(file, line).error(f"not valid YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Place(file, line).error("not valid YAML: a control character") from error
    except yaml.YAMLError as error:
        raise Place(file).error(f"not valid YAML: {error}") from error
    if not documents:  # that must not empty the catalog
        raise EmptyFile(f"{file}: there is nothing in it", None, str(file))
    return documents


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise Place(file).error(f"larger than {MAX_FILE_BYTES} bytes; is this a configuration?")
        return content.decode()
    except OSError as error:
        raise Place(file).error(error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise Place(file).error(f"not a text file ({error.reason})") from error


def _documents(file: Path, text: str) -> list[Document]:
    """The documents that say something. Raises WrongAt, yaml.YAMLError."""
    documents: list[Document] = []
    for node in composed(text):
        lines: Lines = {}
        content = plain(node, lines, IGNORED)
        if content is not None and content != {} and content != []:
            documents.append(Document(file, content, lines))
    return documents


def shown(value: Any) -> str:
    """A value as an error shows it: short."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def check_keys(document: Document, path: tuple[str | int, ...], value: Any, known: Iterable[str]) -> None:
    """Raise ConfigurationError for the first unknown key of a mapping, or when it is none."""
    names = sorted(known)
    if not isinstance(value, dict):
        raise document.place(*path).error(f"must be a mapping of {', '.join(names)}, not {shown(value)}")
    for key in value:
        if key not in names:
            close = difflib.get_close_matches(key, names, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(names)}"
            raise document.place(*path, key).error(f"unknown key; {hint}")


def convert(document: Document, path: tuple[str | int, ...], entry: Any, kind: type[Any]) -> Any:
    """An entry as its Struct. Raises ConfigurationError with the place of what is wrong."""
    check_keys(document, path, entry, kind.__struct_encode_fields__)
    try:
        return msgspec.convert(entry, kind)
    except msgspec.ValidationError as error:
        message, _, at = str(error).partition(" - at `$")
        field = at.rstrip("`").lstrip(".").split(".")[0].split("[")[0]
        raise document.place(*path, *([field] if field else [])).error(message) from error
