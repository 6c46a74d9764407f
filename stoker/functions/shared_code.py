"""What of Stoker a host in another environment needs: a folder with `stoker.functions`, and with msgspec."""

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec


def shared_code(root: Path, *, with_msgspec: bool) -> Path:
    """The folder below `root`, made where it is not there: links to this installation, nothing else of it."""
    package = Path(__file__).resolve().parent
    places = {"stoker/functions": package}
    if with_msgspec:
        places["msgspec"] = Path(msgspec.__file__).resolve().parent
    start = (package.parent / "__init__.py").read_bytes()
    digest = hashlib.blake2b(repr(sorted(places.items())).encode() + start, digest_size=10).hexdigest()
    folder = root / f"shared-{digest}"
    if folder.exists():
        return folder
    part = root / f"{folder.name}.{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)
    for name, place in places.items():
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        (part / name).symlink_to(place, target_is_directory=True)
    (part / "stoker" / "__init__.py").write_bytes(start)
    with suppress(OSError):  # another process was quicker
        part.rename(folder)
    shutil.rmtree(part, ignore_errors=True)
    return folder
