"""What is done of a batch: which lines have a result, and results that are not written yet. Pure."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from stoker.schemas import wire
from stoker.schemas.batches import BatchRecord, LineError, LineResponse, LineResult, RequestCounts
from stoker.services.gateway.edge.problems import RequestError, openai_error


def job_name(batch: str, line: int, answer: int) -> str:
    """The job of an answer of a line: the same whichever gateway asks."""
    return f"{batch}-{line}-{answer}"


def _request_id(batch: str, line: int) -> str:
    return "batch_req_" + hashlib.blake2b(f"{batch} {line}".encode(), digest_size=12).hexdigest()


def answered(batch: str, line: int, custom_id: str, answer: object) -> LineResult:
    """A line that was answered."""
    body = msgspec.Raw(wire.encode(answer))
    response = LineResponse(200, job_name(batch, line, 0), body)
    return LineResult(_request_id(batch, line), custom_id, response, None)


def refused(batch: str, line: int, custom_id: str, error: RequestError) -> LineResult:
    """A line that has failed, as its route would have answered it."""
    body = msgspec.Raw(wire.encode(openai_error(error)))
    response = LineResponse(error.status, job_name(batch, line, 0), body)
    return LineResult(_request_id(batch, line), custom_id, response, None)


def not_run(batch: str, line: int, custom_id: str, error: LineError) -> LineResult:
    """A line that the batch ended without."""
    return LineResult(_request_id(batch, line), custom_id, None, error)


@dataclass(frozen=True, slots=True)
class Unwritten:
    """Results that are to be written now: lines of either file, and which lines they are of."""

    lines: tuple[int, ...]
    outputs: bytes
    failures: bytes


@dataclass(slots=True)
class Progress:
    """done: bits of lines that are written or wait to be; written: of those that are written."""

    total: int
    written: bytearray
    counts: RequestCounts
    _done: bytearray = field(default_factory=bytearray)
    _waiting: list[tuple[int, bool, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._done = bytearray(self.written)

    def note(self, line: int, result: LineResult) -> None:
        """A line has its result."""
        assert not _has(self._done, line), f"line {line} has a result already"
        _set(self._done, line)
        is_failure = result.response is None or result.response.status_code != 200
        self._waiting.append((line, is_failure, wire.encode(result) + b"\n"))

    def left(self) -> Iterator[int]:
        """Lines that have no result."""
        return (line for line in range(self.total) if not _has(self._done, line))

    def is_left(self, line: int) -> bool:
        return not _has(self._done, line)

    @property
    def has_unwritten(self) -> bool:
        return bool(self._waiting)

    def unwritten(self) -> Unwritten:
        """Everything that waits to be written."""
        return Unwritten(
            tuple(line for line, _, _ in self._waiting),
            b"".join(text for _, is_failure, text in self._waiting if not is_failure),
            b"".join(text for _, is_failure, text in self._waiting if is_failure),
        )

    def wrote(self, what: Unwritten) -> None:
        """It is written: what `with_written` says of it holds."""
        self.written, self.counts = self.with_written(what)
        del self._waiting[: len(what.lines)]

    def with_written(self, what: Unwritten) -> tuple[bytearray, RequestCounts]:
        """Bits and counts as they are once it is written."""
        bits = bytearray(self.written)
        for line in what.lines:
            _set(bits, line)
        failed = sum(is_failure for _, is_failure, _ in self._waiting[: len(what.lines)])
        counts = RequestCounts(
            self.total, self.counts.completed + len(what.lines) - failed, self.counts.failed + failed
        )
        return bits, counts


def progress_of(record: BatchRecord, total: int) -> Progress:
    """Where the last owner of a batch stopped."""
    room = -(-total // 8)
    written = bytearray(record.done[:room].ljust(room, b"\0"))
    return Progress(total, written, msgspec.structs.replace(record.counts, total=total))


def _has(bits: bytearray, index: int) -> bool:
    return bool(bits[index // 8] >> index % 8 & 1)


def _set(bits: bytearray, index: int) -> None:
    bits[index // 8] |= 1 << index % 8
