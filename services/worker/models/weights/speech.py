"""Whether a folder is a Whisper for CTranslate2, read from the header of its model.bin, never from its name.

model.bin, little-endian: version, name of the specification, revision, count of variables; then each variable:
name, rank, dimensions, type, bytes, content (model_spec.py of ctranslate2).
"""

import math
import struct
from pathlib import Path
from typing import BinaryIO

from stoker.services.worker.models.weights.detect import UnknownCheckpoint

WHISPER = "WhisperSpec"
NEEDED = ("config.json", "tokenizer.json")
VERSIONS = range(4, 64)
"""Of the format, which was 6 in 2022, when the first Whisper was written in it."""
MOST_VARIABLES = 100_000
_CONVERT = (
    "ct2-transformers-converter --model NAME --copy_files tokenizer.json preprocessor_config.json makes one"
)


def whisper_parameters(folder: Path) -> int:
    """How many numbers its weights have. Raises UnknownCheckpoint for what is no Whisper, or not all of it."""
    file = folder / "model.bin"
    if not file.is_file():
        raise UnknownCheckpoint(f"{folder.name} is no folder of CTranslate2: it has no model.bin; {_CONVERT}")
    for name in NEEDED:
        if not (folder / name).is_file():
            raise UnknownCheckpoint(f"{folder.name} has no {name}; {_CONVERT}")
    if not any(folder.glob("vocabulary.*")):
        raise UnknownCheckpoint(f"{folder.name} has no vocabulary.json; {_CONVERT}")
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            return _parameters(opened, folder.name, size)
    except (struct.error, UnicodeDecodeError) as error:
        raise UnknownCheckpoint(
            f"{folder.name}/model.bin is not a model of CTranslate2, or is truncated"
        ) from error


def _parameters(file: BinaryIO, name: str, size: int) -> int:
    """Raises UnknownCheckpoint, struct.error, UnicodeDecodeError."""
    version = _number(file, "<I")
    kind = _text(file) if version in VERSIONS else "something else"
    if kind != WHISPER:
        raise UnknownCheckpoint(f"{name}/model.bin is not a Whisper for CTranslate2, but {kind[:40]!r}")
    _number(file, "<I")  # revision
    count = _number(file, "<I")
    if count > MOST_VARIABLES:
        raise UnknownCheckpoint(f"{name}/model.bin says that it has {count} variables")
    parameters = 0
    for _ in range(count):
        _text(file)
        parameters += math.prod(_number(file, "<I") for _ in range(_number(file, "<B")))
        _number(file, "<B")  # type
        end = file.seek(_number(file, "<I"), 1)
        if end > size:
            raise UnknownCheckpoint(
                f"{name}/model.bin is truncated: it has {size} bytes and promises {end} or more"
            )
    return parameters


def _number(file: BinaryIO, kind: str) -> int:
    found: int = struct.unpack(kind, file.read(struct.calcsize(kind)))[0]
    return found


def _text(file: BinaryIO) -> str:
    return file.read(_number(file, "<H")).rstrip(b"\0").decode()
