"""The request that `stoker run` and `stoker chat` make of what is given to them."""

import base64
import mimetypes
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from stoker.cli.app import fail

MAX_IMAGE_BYTES = 20 * 1024 * 1024

System = Annotated[str, typer.Option(help="What the model is told before all else.")]
Schema = Annotated[
    Path | None, typer.Option(help="A file with a JSON Schema; the answer is JSON that follows it.")
]
Format = Annotated[str, typer.Option(help="json: the answer is JSON of some shape.")]
Seed = Annotated[int | None, typer.Option(help="Seed; random otherwise.")]
MaxTokens = Annotated[int | None, typer.Option(help="Longest answer.")]
Temperature = Annotated[float | None, typer.Option(help="0 = always the same.")]
TopP = Annotated[float | None, typer.Option(help="Of the likeliest tokens with this chance together.")]
TopK = Annotated[int | None, typer.Option(help="Of so many likeliest tokens.")]
MinP = Annotated[float | None, typer.Option(help="Of tokens with this share of the likeliest's chance.")]
Stop = Annotated[list[str] | None, typer.Option(help="Ends the answer; repeatable.")]
Image = Annotated[list[Path] | None, typer.Option(help="A picture for a model that sees; repeatable.")]


@dataclass(frozen=True, slots=True)
class Options:
    """How an answer is made; None leaves it to the model."""

    seed: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    stop: tuple[str, ...] = ()
    response_format: dict[str, Any] | None = None

    def fields(self) -> dict[str, Any]:
        """Of a request."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in found.items() if value not in (None, ())}


def response_format(schema: Path | None, form: str) -> dict[str, Any] | None:
    """What the answer is to look like. Ends the program where that is no schema."""
    import json

    if form not in ("", "json", "text"):
        fail(f"--format must be json or text, not {form!r}", 2)
    if schema is None:
        return {"type": "json_object"} if form == "json" else None
    try:
        read = json.loads(schema.read_text())
    except (OSError, ValueError) as error:
        fail(f"--schema {schema}: {error}", 2)
    if not isinstance(read, dict):
        fail(f"--schema {schema}: a JSON Schema is an object", 2)
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": read}}


def data_url(path: Path) -> str:
    """A picture's file as a URL. Ends the program where it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        fail(f"--image {path}: {error.strerror}", 2)
    if len(content) > MAX_IMAGE_BYTES:
        fail(f"--image {path}: {len(content)} bytes; at most {MAX_IMAGE_BYTES}", 2)
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def user_message(text: str, images: list[Path]) -> dict[str, Any]:
    """What a person says, with pictures."""
    if not images:
        return {"role": "user", "content": text}
    pictures = [{"type": "image_url", "image_url": {"url": data_url(one)}} for one in images]
    return {"role": "user", "content": [{"type": "text", "text": text}, *pictures]}


def with_input(prompt: str) -> str:
    """The prompt, and what is piped in, below it."""
    piped = _piped()
    return f"{prompt}\n\n{piped}" if prompt and piped else prompt or piped


def _piped() -> str:
    """What a pipe or a file brings on the standard input; "" where it is a terminal, or nothing."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):  # closed, or not a file at all
        return ""
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return ""
    return sys.stdin.read().strip()
