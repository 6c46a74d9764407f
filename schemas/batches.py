"""OpenAI's files and batches: what is asked and answered, and what is kept of them. Times are Unix seconds."""

from typing import Literal

import msgspec

from stoker.schemas.ranges import Count

Purpose = Literal["batch", "user_data", "assistants", "batch_output"]
"""What a file is for; the last is made by batches alone."""
BatchStatus = Literal[
    "validating", "in_progress", "finalizing", "cancelling", "completed", "failed", "expired", "cancelled"
]
COMPLETION_WINDOW = "24h"


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """Parts 0 to parts - 1 under one token of the stream STOKER_FILES. size: of all of them, bytes.

    key: that the parts are encrypted with; b"": those of the version before are not. is_even: each part but
    the last has the largest size.
    """

    token: str
    parts: Count
    size: Count
    key: bytes = b""
    is_even: bool = False


class FileRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of a file beside its bytes. tenant: the key whose it is. size: bytes."""

    id: str
    filename: str
    purpose: Purpose
    size: Count
    created_at: int
    expires_at: int
    tenant: str = ""
    segments: tuple[Segment, ...] = ()


class FileObject(msgspec.Struct, frozen=True):
    """A file as clients see it. bytes: its size."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: Purpose
    expires_at: int
    status: Literal["processed"] = "processed"
    object: Literal["file"] = "file"


class FileList(msgspec.Struct, frozen=True):
    data: tuple[FileObject, ...]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False
    object: str = "list"


class FileDeleted(msgspec.Struct, frozen=True):
    id: str
    deleted: bool = True
    object: str = "file"


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True):
    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None


class BatchError(msgspec.Struct, frozen=True):
    """Why a batch failed. line: of the input file, counted from 1. param: the field that is wrong."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(msgspec.Struct, frozen=True):
    data: tuple[BatchError, ...]
    object: str = "list"


class RequestCounts(msgspec.Struct, frozen=True):
    """Lines of a batch. failed: those that stand in the error file."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as it is now."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: BatchStatus
    created_at: int
    expires_at: int
    request_counts: RequestCounts
    errors: BatchErrors | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    metadata: dict[str, str] | None = None
    object: Literal["batch"] = "batch"


class BatchList(msgspec.Struct, frozen=True):
    data: tuple[BatchAnswer, ...]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False
    object: str = "list"


class BatchRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What is kept of a batch, and who runs it.

    times: when it came into each state. done: a bit for each line that stands in `outputs` or `failures`.
    reserved: no line from this one on has been given to the queue. owner: the gateway process that runs it, ""
    for none; claim: how often it was taken; beat: counted up by its owner for as long as it lives.
    """

    id: str
    endpoint: str
    input_file_id: str
    status: BatchStatus
    created_at: int
    expires_at: int
    tenant: str = ""
    metadata: dict[str, str] | None = None
    times: dict[str, int] = {}
    errors: tuple[BatchError, ...] = ()
    counts: RequestCounts = RequestCounts()
    done: bytes = b""
    reserved: Count = 0
    outputs: tuple[Segment, ...] = ()
    failures: tuple[Segment, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None
    owner: str = ""
    claim: Count = 0
    beat: Count = 0


class BatchModel(msgspec.Struct, frozen=True):
    """Of the body of a line, what every endpoint needs."""

    model: str


class BatchLine(msgspec.Struct, frozen=True):
    """One line of an input file, as it is checked before the batch begins."""

    custom_id: str
    method: str
    url: str
    body: BatchModel


class LineRequest(msgspec.Struct, frozen=True):
    """One line of an input file that was found right."""

    custom_id: str
    body: msgspec.Raw


class LineResponse(msgspec.Struct, frozen=True):
    """request_id: the line's first job."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class LineError(msgspec.Struct, frozen=True):
    code: str
    message: str


class LineResult(msgspec.Struct, frozen=True):
    """One line of an output or error file."""

    id: str
    custom_id: str
    response: LineResponse | None
    error: LineError | None
