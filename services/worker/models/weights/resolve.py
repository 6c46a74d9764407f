"""From a model's url to a path on this machine: `file://`, a plain path, or `hf://owner/name[/file]`.

`ollama://name` is Ollama's own affair: the path is the name, and the engine pulls it. `http://` and `https://`
are servers that run already: the path stands for the address.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCHEMES = ("file", "hf", "ollama", "http", "https")
OLLAMA = "ollama://"
SERVERS = ("http://", "https://")
"""Of servers that have the weights themselves: nothing is fetched."""
Percent = Callable[[float], None]


class WeightsError(Exception):
    """Weights cannot be had; says what and where."""


def local_path(url: str) -> Path | None:
    """Where the weights lie when the url names this machine's own disk, else None."""
    if url.startswith("file://"):
        return Path(url.removeprefix("file://")).expanduser()
    if "://" not in url:
        return Path(url).expanduser() if url else None
    return None


def size_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def resolve(url: str, report: Percent) -> Path:
    """The path of the weights, downloaded first where they are not here. Blocks: run it in a thread.

    Raises WeightsError.
    """
    path = local_path(url)
    if path is not None:
        if not _is_there(path):
            raise WeightsError(f"{path} does not exist on this worker")
        return path
    if url.startswith("hf://"):
        return _from_hub(url.removeprefix("hf://"), report)
    if url.startswith(OLLAMA):
        return Path(url.removeprefix(OLLAMA))
    if url.startswith(SERVERS):
        return Path(url)
    scheme = url.split("://", 1)[0]
    raise WeightsError(f"{scheme}:// is not supported; use one of {', '.join(SCHEMES)}")


def is_cached(url: str) -> Path | None:
    """Where the weights are on this machine's disk already, without asking any hub."""
    path = local_path(url)
    if path is not None:
        return path if _is_there(path) else None
    if not url.startswith("hf://"):
        return None
    try:
        return _from_hub(url.removeprefix("hf://"), lambda _: None, is_offline=True)
    except WeightsError:
        return None


def _is_there(path: Path) -> bool:
    """Whether there is something; a path that cannot be one, as its name is too long, has nothing."""
    try:
        return path.exists()
    except OSError:
        return False


def _from_hub(name: str, report: Percent, *, is_offline: bool = False) -> Path:
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise WeightsError("hf:// needs huggingface_hub: pip install 'stoker[hub]'") from None
    parts = name.split("/")
    if len(parts) < 2 or not all(parts[:2]):
        raise WeightsError(f"hf://{name}: write hf://owner/name or hf://owner/name/file")
    repository, file = "/".join(parts[:2]), "/".join(parts[2:])
    bar = _progress_bar(report)
    try:
        if file:
            return Path(hf_hub_download(repository, file, local_files_only=is_offline, tqdm_class=bar))
        return Path(snapshot_download(repository, local_files_only=is_offline, tqdm_class=bar))
    except LocalEntryNotFoundError as error:
        raise WeightsError(f"hf://{name} is not in the cache and the hub is out of reach") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise WeightsError(f"hf://{name}: {error}") from error


def _progress_bar(report: Percent) -> type[Any]:
    """A tqdm class whose only output is `report(percent)`."""
    from tqdm import tqdm

    lock = threading.Lock()

    class Reporting(tqdm):  # type: ignore[misc]  # tqdm has no types
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            kwargs["file"] = Path(os.devnull).open("w")  # noqa: SIM115  # tqdm keeps it open
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            if self.total and self.unit == "B":
                with lock:
                    report(min(100.0 * self.n / self.total, 100.0))
            return shown

    return Reporting
