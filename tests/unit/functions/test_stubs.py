"""The typed client stub: a type checker takes what the gateway takes, and refuses what it refuses."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import msgspec

from stoker.functions.payload_types import describe_type
from stoker.functions.stubs import Described, stub_of
from tests.conftest import ROOT


class Leaf(msgspec.Struct, tag="leaf"):
    size: float
    next: "Leaf | None" = None


class Row(msgspec.Struct, array_like=True):
    a: int


class Ask(msgspec.Struct):
    a: int
    how: Literal["x", "y"] = "x"
    leaf: Leaf | None = None
    rows: list[Row] = []
    by: dict[int, bytes] = {}
    pair: tuple[int, str] | None = None
    free: Any = None


class Said(msgspec.Struct):
    text: str
    note: str | None = None


def function(name: str, payload: type, result: type, *, streams: bool = False) -> Described:
    return Described(name, describe_type(payload), describe_type(result), streams)


OTHER_SAID = msgspec.defstruct("Said", [("number", int)])
ODD = msgspec.defstruct("Odd", [("kind", str), ("field", int, 0)], rename={"kind": "class"})
NOTHING = msgspec.defstruct("Nothing", [])
FUNCTIONS = [
    function("ask", Ask, Said), function("tell", Said, Said, streams=True), function("count-all", Ask, OTHER_SAID),
    function("odd", ODD, ODD), function("none", NOTHING, NOTHING), function("leafy", Leaf, Leaf),
]  # fmt: skip


def test_the_stub_has_every_function_with_its_fields_and_result() -> None:
    text = stub_of(FUNCTIONS)
    leaf = "leaf: Leaf | None = ..., rows: list[list[Any]] = ..., by: dict[str, str] = ..."
    assert f"def run(self, function: Literal['ask'], /, *, a: int, how: Literal['x', 'y'] = ..., {leaf}" in text
    assert (
        "def run(self, function: Literal['tell'], /, *, text: str, note: str | None = ...) -> list[Said]"
        in text
    )
    assert (
        "def stream(self, function: Literal['tell'], /, *, text: str, note: str | None = ...) -> Iterator[Said]"
        in text
    )
    assert "async def submit(self, function: Literal['none'], /) -> AsyncJob" in text
    assert "class CountAllSaid(TypedDict):\n    number: int" in text, "another of the same name"
    assert (
        "class Leaf(TypedDict):\n    type: Literal['leaf']\n    size: float\n    next: NotRequired[Leaf | None]"
        in text
    )
    assert "Odd = TypedDict('Odd', {'class': 'str', 'field': 'NotRequired[int]'})" in text
    assert "function: Literal['odd'], /, **payload: Any)" in text
    assert "class Ask(" not in text, "a payload is its fields"


def test_one_function_needs_no_overload_and_none_is_a_stub_too() -> None:
    assert "@overload" not in stub_of([function("tell", Said, Said)])
    assert "class Client(stoker.Client):\n    ..." in stub_of([])


def test_a_type_checker_reads_it(tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text("from stoker import AsyncClient, Client\n")
    (tmp_path / "client.pyi").write_text(stub_of(FUNCTIONS))
    (tmp_path / "use.py").write_text("""\
from client import Client
with Client() as client:
    reveal_type(client.run("ask", a=1, how="y", leaf={"type": "leaf", "size": 2})["text"])
    reveal_type(client.run("tell", text="x"))
    client.run("ask", a="1")
    client.run("ask", a=1, hw="x")
    client.run("nobody")
""")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--python-version",
        "3.11",
        "--follow-imports=silent",
        "--config-file=",
        "use.py",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert 'use.py:3: note: Revealed type is "str"' in lines
    assert any(line.startswith("use.py:4: note: Revealed type is") and "client.Said" in line for line in lines)
    errors = sorted({line.split(": ")[0] for line in lines if ": error: " in line})
    assert errors == ["use.py:5", "use.py:6", "use.py:7"], done.stdout
