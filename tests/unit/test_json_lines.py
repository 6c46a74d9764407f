"""Files of JSON lines, with what JSON allows within a line."""

from pathlib import Path

import msgspec
import pytest

from stoker.json_lines import read_json_lines


class Said(msgspec.Struct, frozen=True):
    text: str


class Wrong(ValueError):
    """The file cannot be read."""


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    path.write_text('{"text": "a\u2028b\u2029c\x85d"}\n\n{"text": "e"}')
    assert read_json_lines(path, Said, Wrong) == [Said("a\u2028b\u2029c\x85d"), Said("e")]


def test_what_is_wrong_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    path.write_text('{"text": "\u2028"}\n{"text": 1}\n')
    with pytest.raises(Wrong, match=r"said\.jsonl:2: Expected `str`"):
        read_json_lines(path, Said, Wrong)
