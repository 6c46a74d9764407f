"""OpenAI's uploads: a file that is sent in parts. Times are Unix seconds."""

from typing import Literal

import msgspec

from stoker.schemas.batches import FileObject, Purpose, Segment
from stoker.schemas.ranges import Count

UploadStatus = Literal["pending", "completed", "cancelled", "expired"]


class ExpiresAfter(msgspec.Struct, frozen=True):
    """When the file expires. seconds: after its creation."""

    anchor: Literal["created_at"]
    seconds: int


class UploadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """bytes: of the whole file."""

    bytes: int
    filename: str
    purpose: str
    mime_type: str = ""
    expires_after: ExpiresAfter | None = None


class UploadCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """part_ids: in the order of their bytes. md5: hexadecimal, of the whole file; it is checked."""

    part_ids: tuple[str, ...]
    md5: str | None = None


class UploadObject(msgspec.Struct, frozen=True, kw_only=True):
    """An upload as clients see it. file: what it has become."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: UploadStatus
    file: FileObject | None = None
    object: Literal["upload"] = "upload"


class PartObject(msgspec.Struct, frozen=True):
    """A part that has come."""

    id: str
    created_at: int
    upload_id: str
    object: Literal["upload.part"] = "upload.part"


class UploadRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag="upload"):
    """What is kept of an upload. expires_at: when it is given up. file_expires_s: after its creation.

    part_ids: that it is being completed with; nothing changes them.
    """

    id: str
    filename: str
    purpose: Purpose
    size: Count
    created_at: int
    expires_at: int
    status: UploadStatus = "pending"
    tenant: str = ""
    file_expires_s: int | None = None
    part_ids: tuple[str, ...] = ()


class PartRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag="part"):
    """Bytes that no file names yet. file: that will. upload: that they belong to; "": sent in one request.

    segment: while they come (`is_whole` not yet), one with as many parts as there may be. expires_at: when
    they are given up.
    """

    id: str
    segment: Segment
    created_at: int
    expires_at: int
    file: str = ""
    upload: str = ""
    is_whole: bool = False
