"""Files by reference: what a payload names, and what a call has saved."""

import base64
import dataclasses
import mimetypes
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from stoker.functions.errors import ValidationError

MAX_NAME_CHARS = 100
"""Of a file's name on disk."""


class FileRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file by reference. url: below the gateway in a result; that, or a `data:` URL, in a payload."""

    url: str
    name: str = ""
    content_type: str = "application/octet-stream"
    size_bytes: int = 0


class Asset(msgspec.Struct, omit_defaults=True):
    """A file that has a place on disk. ref: as the url of a FileRef.

    local_path: in a payload, the file itself while the call runs, whatever the caller wrote there; in a result
    None. sha256: hexadecimal, of what the call has saved.
    """

    ref: str
    name: str = ""
    local_path: str | None = None
    mime_type: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None


class SavedFile(msgspec.Struct, frozen=True):
    """A file that a call has saved, on its way out: its bytes, or where they lie."""

    name: str
    content_type: str
    content: bytes = b""
    path: str = ""
    size_bytes: int = 0


def content_of(url: str) -> bytes:
    """The bytes of a file of a payload that is a `data:` URL. Raises ValidationError."""
    head, separator, data = url.partition(";base64,")
    if not separator or not head.startswith("data:"):
        raise ValidationError(
            "a file of a payload is a data: URL in base64, a file's id (file-…), or the url of a job's file"
        )
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except ValueError as error:
        raise ValidationError(f"the file is not base64: {error}") from error


def assets_in(value: Any) -> Iterator[Asset]:
    """Every asset in a payload, however deep."""
    if isinstance(value, Asset):
        yield value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from assets_in(getattr(value, name))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from assets_in(getattr(value, field.name))
    elif isinstance(value, dict):
        for inner in value.values():
            yield from assets_in(inner)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from assets_in(inner)


def place(asset: Asset, folder: Path, number: int, brought: str = "") -> None:
    """Lay the file of an asset into a folder and say where it is. Raises ValidationError.

    brought: where the file lies, when it did not come with the payload; it takes no more room by this.
    """
    said = "" if brought else asset.ref[len("data:") :].partition(";")[0]
    asset.mime_type = asset.mime_type or said or mimetypes.guess_type(asset.name)[0]
    ending = mimetypes.guess_extension(asset.mime_type or "") or ""
    name = re.sub(r"[^\w.-]", "_", Path(asset.name).name)[-MAX_NAME_CHARS:] or f"file{ending}"
    path = folder / f"{number}-{name}"
    if brought:
        link(brought, path)
    else:
        path.write_bytes(content_of(asset.ref))
    asset.local_path, asset.size_bytes = str(path), path.stat().st_size


def link(source: str, path: Path) -> None:
    """The same file under another name; a copy where the disk is another."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)
