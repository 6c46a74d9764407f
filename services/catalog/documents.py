"""YAML with places: every value knows its file and line, and errors say the closest known key."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_VALUES = 100_000
"""Of one document: an alias stands for all that it names, and aliases of aliases for more than fits anywhere.
"""
SHOWN_CHARS = 80


class ConfigurationError(ValueError):
    """Something in the configuration is wrong; the message begins with file and line. field: its path."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands."""

    file: Path
    line: int
    field: str

    def error(self, message: str) -> ConfigurationError:
        at = f"{self.file}:{self.line}: "
        return ConfigurationError(at + (f"{self.field}: " if self.field else "") + message, self.field or None)


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: plain values, and the line of each path of keys."""

    file: Path
    content: Any
    lines: dict[tuple[str | int, ...], int]

    def place(self, *path: str | int) -> Place:
        """Where a value stands, or where its parent does when it is not there itself."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        field = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")
        return Place(self.file, self.lines.get(known, 1), field)


def read(file: Path) -> list[Document]:
    """Every document of a file. Raises ConfigurationError when it cannot be read, is not YAML, or is empty."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ConfigurationError(f"{file}: larger than {MAX_FILE_BYTES} bytes; is this a configuration?")
        text = file.read_text()
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file}: not a text file ({error.reason})") from error
    try:
        documents = _documents(file, text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError(f"{file}:{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{file}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise ConfigurationError(f"{file}:1: not valid YAML: nested too deeply, or in itself") from error
    if not documents:  # an editor truncates before it writes: that must not empty the catalog
        raise ConfigurationError(f"{file}: there is nothing in it")
    return documents


def _documents(file: Path, text: str) -> list[Document]:
    """Raises ConfigurationError, yaml.YAMLError, and RecursionError for what is nested without an end."""
    documents: list[Document] = []
    for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
        lines: dict[tuple[str | int, ...], int] = {}
        content = _plain(file, node, (), lines)
        if content is not None:
            documents.append(Document(file, content, lines))
    return documents


def _plain(
    file: Path, node: yaml.Node, path: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]
) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if len(lines) > MAX_VALUES:
        line = node.start_mark.line + 1
        raise ConfigurationError(f"{file}:{line}: more than {MAX_VALUES} values, aliases written out")
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in found:
                raise ConfigurationError(f"{file}:{line}: the key {key!r} stands here twice")
            lines[(*path, key)] = line
            found[key] = _plain(file, value_node, (*path, key), lines)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(file, item, (*path, index), lines) for index, item in enumerate(node.value)]
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (ValueError, KeyError) as error:  # such as a date in month 99
        line = node.start_mark.line + 1
        raise ConfigurationError(
            f"{file}:{line}: not valid YAML: {shown(node.value)} is not {node.tag}"
        ) from error


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
