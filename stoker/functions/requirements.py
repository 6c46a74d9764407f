"""The little of Python's texts of versions and requirements that choosing an environment takes."""

import hashlib
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

from stoker.functions.layout import source_files

_CLAUSE = re.compile(r"\s*(~=|===|==|!=|<=|>=|<|>)\s*(\d+(?:\.\d+)*)(\.\*)?\s*")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def is_met(specifier: str, version: tuple[int, int]) -> bool:
    """Whether a Python, by its first two numbers, fits `>=3.11,<4`; what cannot be read is not met.

    A clause with a third number (`!=3.11.3`) counts as what it says of the first two.
    """
    return all(_holds(clause, version) for clause in specifier.split(",") if clause.strip())


def _holds(clause: str, version: tuple[int, int]) -> bool:
    found = _CLAUSE.fullmatch(clause)
    if found is None:
        return False
    sign, numbers = found[1], tuple(int(part) for part in found[2].split("."))
    asked = (*numbers, 0)[:2]
    is_inside = len(numbers) > 2
    match sign:
        case ">=":
            return version >= asked
        case ">":
            return version > asked or (is_inside and version == asked)
        case "<":
            return version < asked or (is_inside and version == asked and numbers[2] > 0)
        case "<=":
            return version <= asked
        case "!=":
            return is_inside or version != asked if len(numbers) > 1 else version[0] != numbers[0]
        case "~=":
            return version[0] == numbers[0] and (version[1] == asked[1] if is_inside else version >= asked)
        case _:
            return version[: len(numbers[:2])] == numbers[:2]


def name_of(requirement: str) -> str:
    """The name in a requirement such as `Pillow[x]>=11`, in small letters with dashes."""
    found = _NAME.match(requirement.strip())
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found is not None else ""


def stamp_of(requirement: str, folder: Path) -> str:
    """Of the file or the folder that a requirement (`name @ file:///…`) names, by content; "" for others."""
    _, separator, url = requirement.partition("@")
    parsed = urlparse(url.partition(";")[0].strip())
    if not separator or parsed.scheme != "file":
        return ""
    place = folder / unquote(parsed.path)
    digest = hashlib.blake2b(digest_size=10)
    for file in source_files(place, ("*.py", "*.toml")) if place.is_dir() else [place]:
        if file.exists():
            digest.update(str(file).encode() + file.read_bytes())
    return digest.hexdigest()
