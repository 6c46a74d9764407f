"""Local weights as a configuration names them."""

from pathlib import Path


def absolute(file: Path, url: str) -> str:
    """Relative paths are relative to the file they stand in."""
    if not url or ("://" in url and not url.startswith("file://")):
        return url
    local = Path(url.removeprefix("file://")).expanduser()
    return f"file://{local if local.is_absolute() else (file.parent / local).resolve()}"


def size_bytes(url: str) -> int:
    """Bytes of local weights; 0 where they are elsewhere or not there (a warning comes at load)."""
    path = Path(url.removeprefix("file://"))
    if not url.startswith("file://") or not path.exists():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
