"""YAML as plain values, within bounds.

A text of two hundred bytes can stand for more values than fit into any memory: an alias stands for all that its
anchor names, and that may have aliases in it. So what a document would be with its aliases written out is
counted first (`_Weighing`), without writing them out, and is refused where it is too much; only then values are
made.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

MAX_VALUES = 100_000
"""Of one document, aliases written out."""
MAX_TEXT_CHARS = 8 * 1024 * 1024
"""Of all keys and values of one document, aliases written out."""
MAX_DEPTH = 64
"""Of mappings and lists in each other, aliases written out."""
SHOWN_CHARS = 80
MERGE_TAG = "tag:yaml.org,2002:merge"

Path = tuple[str | int, ...]
Lines = dict[Path, int]
"""The line of each path of keys, from 1."""


class WrongAt(ValueError):
    """What is wrong with a text, and in which line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def composed(text: str) -> Iterator[yaml.Node]:
    """The documents of a text as nodes. Raises WrongAt for one that is too large, yaml.YAMLError."""
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            loader.values = 0
            if node is not None:
                _Weighing().of(node)
                yield node
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Stops at a document that is too large as it stands. values: of this one, until now."""

    values = 0
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        is_key = isinstance(parent, yaml.MappingNode) and index is None
        self.values += not is_key
        self.depth += 1
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]  # PyYAML has no types here
        _check(line, self.values, 0, self.depth)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _check(line: int, values: int, chars: int, depth: int) -> None:
    if values > MAX_VALUES:
        raise WrongAt(line, f"more than {MAX_VALUES} values, aliases written out")
    if chars > MAX_TEXT_CHARS:
        raise WrongAt(line, f"more than {MAX_TEXT_CHARS} characters, aliases written out")
    if depth > MAX_DEPTH:
        raise WrongAt(line, f"nested more than {MAX_DEPTH} deep, aliases written out")


@dataclass(frozen=True, slots=True)
class _Weight:
    values: int
    chars: int
    depth: int


class _Weighing:
    """What nodes are with their aliases written out. Each is counted once: an alias is the node that it
    names."""

    def __init__(self) -> None:
        self._known: dict[int, _Weight | None] = {}
        """By the node's identity; None: this node is being counted."""

    def of(self, node: yaml.Node) -> _Weight:
        """Raises WrongAt where it is too much, or has itself in it."""
        if id(node) in self._known:
            known = self._known[id(node)]
            if known is None:
                raise WrongAt(line_of(node), "an alias stands in what it names: that has no end")
            return known
        self._known[id(node)] = None
        values, chars, depth = 1, 0, 0
        for child in _children(node):
            line = line_of(node if id(child) in self._known else child)  # an alias has the line of its anchor
            weight = self.of(child)
            values, chars, depth = values + weight.values, chars + weight.chars, max(depth, weight.depth)
            _check(line, values, chars, depth + 1)
        if isinstance(node, yaml.ScalarNode):
            chars += len(node.value)
        elif isinstance(node, yaml.MappingNode):
            values -= len(node.value)  # keys
        found = self._known[id(node)] = _Weight(values, chars, depth + 1)
        return found


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def line_of(node: yaml.Node) -> int:
    """From 1."""
    line: int = node.start_mark.line + 1
    return line


def plain(node: yaml.Node, lines: Lines, ignored: str = "") -> Any:
    """A node that `composed` gave, as plain values; `lines` gets the line of each.

    Keys at the top that begin with `ignored` are left out. Raises WrongAt.
    """
    return _Making(lines, ignored).value(node, ())


class _Making:
    """Values of one document."""

    def __init__(self, lines: Lines, ignored: str) -> None:
        self._lines = lines
        self._ignored = ignored
        self._scalars = yaml.SafeLoader("")

    def value(self, node: yaml.Node, path: Path) -> Any:
        self._lines.setdefault(path, line_of(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, frozenset())
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return self._scalars.construct_object(node)
        except (ValueError, KeyError) as error:  # such as a date in month 99
            value = repr(node.value)
            short = value if len(value) <= SHOWN_CHARS else f"{value[:SHOWN_CHARS]}…"
            raise WrongAt(line_of(node), f"not valid YAML: {short} is not {node.tag}") from error

    def _mapping(self, node: yaml.MappingNode, path: Path, others: frozenset[str]) -> dict[str, Any]:
        """others: keys that are there already, and win over those of this mapping."""
        own: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        pairs: list[tuple[str, yaml.Node]] = []
        for key_node, value_node in node.value:
            if key_node.tag == MERGE_TAG:
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            key = _key(key_node)
            if key in own:
                raise WrongAt(line_of(key_node), f"the key {key!r} stands here twice")
            own[key] = None
            if (not path and self._ignored and key.startswith(self._ignored)) or key in others:
                continue
            self._lines[(*path, key)] = line_of(key_node)
            pairs.append((key, value_node))
        known = others | own.keys()
        found: dict[str, Any] = {}
        for source in merged:
            if not isinstance(source, yaml.MappingNode):
                raise WrongAt(line_of(source), "<< takes a mapping, or a list of mappings")
            found |= self._mapping(source, path, known | found.keys())
        return found | {key: self.value(value, (*path, key)) for key, value in pairs}


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise WrongAt(line_of(node), "a key must be a word, not a list or a mapping")
    return str(node.value)
