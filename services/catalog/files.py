"""Local weights as a configuration names them."""

import hashlib
from pathlib import Path


def absolute(file: Path, url: str) -> str:
    """Relative paths are relative to the file they stand in."""
    if not url or ("://" in url and not url.startswith("file://")):
        return url
    local = Path(url.removeprefix("file://")).expanduser()
    return f"file://{local if local.is_absolute() else (file.parent / local).resolve()}"


SAMPLE_BYTES = 64 * 1024


def stamp(url: str) -> str:
    """What tells local weights from others under the same name, on every host alike: their sizes, and
    samples of their bytes. "" where they are elsewhere or not there.
    """
    path = Path(url.removeprefix("file://"))
    if not url.startswith("file://") or not path.exists():
        return ""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    seen = hashlib.blake2b(digest_size=6)
    try:
        for one in files:
            size = one.stat().st_size
            seen.update(f"{one.relative_to(path)} {size}\n".encode())
            with one.open("rb") as file:
                for place in sorted({0, max(size // 2, 0), max(size - SAMPLE_BYTES, 0)}):
                    file.seek(place)
                    seen.update(file.read(SAMPLE_BYTES))
    except OSError:  # what is wrong with them is said when they are loaded
        return ""
    return seen.hexdigest()


def size_bytes(url: str) -> int:
    """Bytes of local weights; 0 where they are elsewhere or not there (a warning comes at load)."""
    path = Path(url.removeprefix("file://"))
    if not url.startswith("file://") or not path.exists():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
