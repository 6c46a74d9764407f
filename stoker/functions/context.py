"""What a running function is given beside its payload: progress, cancelling, files, a log, a seed."""

import hashlib
import io
import logging
import math
import mimetypes
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stoker.functions.assets import Asset, FileRef, SavedFile, assets_in, content_of, place
from stoker.functions.children import Asked, Children
from stoker.functions.errors import Cancelled, ValidationError

PERCENT = 100
MAX_FILE_BYTES = 2 * 1024**3
"""Of a file that a call saves."""
MAX_INLINE_BYTES = 256 * 1024
"""A larger file that a call saves goes by the disk."""


class ActionContext:
    """One call. `job` names it. Made by Stoker; a function gets it as its first argument."""

    def __init__(
        self,
        job: str = "local",
        seed: int = 0,
        report: Callable[[int, int], None] = lambda step, steps: None,
        cancelled: threading.Event | None = None,
        children: Children | None = None,
        brought: Mapping[str, str] | None = None,
        saving: str = "",
    ) -> None:
        self.job = job
        self.seed = seed
        self.log = logging.LoggerAdapter(logging.getLogger("stoker.function"), {"job": job})
        self.files: list[SavedFile] = []
        self._report = report
        self._cancelled = cancelled if cancelled is not None else threading.Event()
        self._folder: Path | None = None
        self._children = children if children is not None else Children()
        self._brought = brought or {}
        """Where the payload's files lie that did not come with it, by what it says."""
        self._saving = saving
        """A folder for files that are saved, "" for none."""

    @property
    def run_id(self) -> str:
        """The job's id, as `job`."""
        return self.job

    def is_canceled(self) -> bool:
        """As `cancelled`."""
        return self.cancelled

    @property
    def cancelled(self) -> bool:
        """Whether the caller has gone or the time is over: stop soon, what you return is not read."""
        return self._cancelled.is_set()

    def raise_if_cancelled(self) -> None:
        """Raises Cancelled when the call was cancelled."""
        if self.cancelled:
            raise Cancelled("the call was cancelled")

    def wait_cancelled(self, seconds: float) -> bool:
        """Sleep, but wake at once when cancelled; whether it was."""
        return self._cancelled.wait(seconds)

    def call(self, name: str, payload: Any = None, *, returns: Any = None) -> Any:
        """Call another function, or a model, and wait for its result; as JSON has it, or as a `returns`.

        It is a job of its own, with the tenant, the priority and the deadline of this one, and is cancelled
        with it. Raises CallFailed when it does not complete, Cancelled when this call is cancelled.
        """
        return self._children.call(name, payload, returns)

    def children_from(self, children: Children) -> None:
        """Where the calls of this call go; Stoker calls this."""
        self._children = children

    async def call_async(self, name: str, payload: Any = None, *, returns: Any = None) -> Any:
        """As `call`, in an async function."""
        return await self._children.call_async(name, payload, returns)

    def gather(
        self, calls: Sequence[Asked], *, returns: Any = None, return_exceptions: bool = False
    ) -> list[Any]:
        """Several calls at once, each a pair of name and payload; their results in that order.

        When one fails the others are cancelled and its CallFailed is raised; with `return_exceptions` it stands
        in the place of its result, and the others go on.
        """
        return self._children.gather(calls, returns, return_exceptions=return_exceptions)

    async def gather_async(
        self, calls: Sequence[Asked], *, returns: Any = None, return_exceptions: bool = False
    ) -> list[Any]:
        """As `gather`, in an async function."""
        return await self._children.gather_async(calls, returns, return_exceptions=return_exceptions)

    def progress(self, done: float, total: float = 1.0) -> None:
        """Tell how far the call is: `progress(0.4)`, `progress(3, 10)`. Raises ValueError beyond the total."""
        if not (0 <= done <= total and 0 < total < math.inf):
            raise ValueError(f"progress({done:g}, {total:g}): done must be between 0 and the total")
        if float(done).is_integer() and float(total).is_integer() and total > 1:
            self._report(int(done), int(total))
        else:
            self._report(round(PERCENT * done / total), PERCENT)

    @property
    def folder(self) -> Path:
        """A temporary folder of this call; gone when it ends."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="stoker-call-"))
        return self._folder

    def save_file(self, content: bytes | Path, name: str, content_type: str = "") -> FileRef:
        """Keep a file with the result, as long as that is kept: as it is now, whatever becomes of it later.

        A large one is copied to the worker's disk, and is never in memory as a whole if it is given as a Path.
        Raises ValueError when it is too large, OSError when the disk has no room.
        """
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if size > MAX_FILE_BYTES:
            raise ValueError(f"{name} has {size} bytes; at most {MAX_FILE_BYTES} are kept")
        kind = content_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
        url = f"/v1/jobs/{self.job}/files/{len(self.files)}"
        if self._saving and size > MAX_INLINE_BYTES:
            place = Path(self._saving) / f"saved-{len(self.files)}"
            place.parent.mkdir(mode=0o700, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, place)
            else:
                place.write_bytes(content)
            size = place.stat().st_size
            self.files.append(SavedFile(name, kind, path=str(place), size_bytes=size))
        else:
            data = content.read_bytes() if isinstance(content, Path) else bytes(content)
            size = len(data)
            self.files.append(SavedFile(name, kind, data, size_bytes=size))
        return FileRef(url, name, kind, size)

    def save_bytes(self, name: str, content: bytes) -> Asset:
        """Keep a file with the result, as save_file does; an asset whose `ref` is its url."""
        kept = self.save_file(content, name)
        digest = hashlib.sha256(content).hexdigest()
        return Asset(kept.url, name, None, kept.content_type, kept.size_bytes, digest)

    def place_assets(self, payload: Any) -> None:
        """Lay the files of a payload's assets into `folder`; Stoker calls this. Raises ValidationError."""
        for number, asset in enumerate(assets_in(payload)):
            place(asset, self.folder, number, self._brought.get(asset.ref, ""))

    def save_image(self, image: Any, name: str = "image.png", format: str = "PNG") -> FileRef:
        """Keep a picture (PIL.Image) with the result."""
        buffer = io.BytesIO()
        image.save(buffer, format=format)
        return self.save_file(buffer.getvalue(), name, f"image/{format.lower()}")

    def read_file(self, ref: FileRef) -> bytes:
        """The bytes of a file of the payload: a `data:` URL, or (through a gateway) the id of a file, or the
        `url` of a file or a picture of an earlier job. Raises ValidationError."""
        brought = self._brought.get(ref.url)
        return content_of(ref.url) if brought is None else Path(brought).read_bytes()

    def file_path(self, ref: FileRef) -> Path:
        """Where a file of the payload lies while the call runs: for one that is too large for memory.

        It is there to be read, not to be changed. Raises ValidationError.
        """
        if (brought := self._brought.get(ref.url)) is not None:
            return Path(brought)
        digest = hashlib.sha256(ref.url.encode()).hexdigest()
        path = self.folder / f"file-{digest}"
        if not path.exists():
            path.write_bytes(content_of(ref.url))
        return path

    def read_image(self, ref: FileRef) -> Any:
        """A file of the payload as a picture (PIL.Image), read whole.

        Raises ValidationError where it is none, is cut short, or would unpack to more than Pillow takes.
        """
        from PIL import Image

        content = self.read_file(ref)
        try:
            image = Image.open(io.BytesIO(content))
            image.load()
        except Exception as error:  # decoders raise what they like for what they cannot read
            reason = str(error) or type(error).__name__
            raise ValidationError(f"the file is no picture that can be read: {reason}") from error
        return image

    def close(self) -> None:
        """Remove the temporary folder; Stoker calls this."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
