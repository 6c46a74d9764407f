"""The input file of a batch: its lines, and what is wrong with them. Pure.

The file lies on a disk and is mapped into memory, so that a large one takes none that others need.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from stoker.schemas.batches import BatchError, BatchLine, LineRequest

MAX_LINES = 50_000
MAX_ERRORS = 100
"""That are told of one file."""
MAX_ID_CHARS = 512
METHOD = "POST"
BOM = "\ufeff".encode()
"""What some editors write at the beginning of a file."""
COUNTED_BYTES = 1024 * 1024
"""In which lines are counted at a time."""

Span = tuple[int, int]
Content = bytes | mmap.mmap


@dataclass(frozen=True, slots=True)
class InputLines:
    """A file's lines that are not empty. spans: where each begins and ends in the content."""

    content: Content
    spans: tuple[Span, ...]

    def __len__(self) -> int:
        return len(self.spans)

    def request(self, index: int) -> LineRequest:
        """A line that was found right."""
        begin, end = self.spans[index]
        return msgspec.json.decode(self.content[begin:end], type=LineRequest)


def read_lines(content: Content, endpoint: str) -> tuple[InputLines, tuple[BatchError, ...]]:
    """The lines of a file, and why a batch cannot be made of it: () where it can."""
    starts = range(0, len(content), COUNTED_BYTES)
    if sum(content[at : at + COUNTED_BYTES].count(b"\n") for at in starts) > 2 * MAX_LINES:
        return InputLines(content, ()), (_too_many(),)
    seen: dict[str, int] = {}
    spans: list[Span] = []
    errors: list[BatchError] = []
    for number, span in _numbered(content):
        if len(spans) == MAX_LINES:
            errors.append(_too_many())
            break
        spans.append(span)
        error = _error_of(content[span[0] : span[1]], number, endpoint, seen)
        if error is not None and len(errors) < MAX_ERRORS:
            errors.append(error)
    if not spans:
        errors.append(BatchError("empty_file", "the input file has no lines"))
    return InputLines(content, tuple(spans)), tuple(errors)


def _too_many() -> BatchError:
    return BatchError("too_many_lines", f"a batch has at most {MAX_LINES} lines: make several")


def _numbered(content: Content) -> Iterator[tuple[int, Span]]:
    """Lines that are not empty, with their numbers from 1."""
    begin, number = len(BOM) if content[: len(BOM)] == BOM else 0, 0
    while begin < len(content):
        end = content.find(b"\n", begin)
        end = len(content) if end < 0 else end
        number += 1
        if content[begin:end].strip():
            yield number, (begin, end)
        begin = end + 1


def _error_of(line: bytes, number: int, endpoint: str, seen: dict[str, int]) -> BatchError | None:
    """What is wrong with a line; None for nothing. seen: the lines of the custom ids before."""
    try:
        found = msgspec.json.decode(line, type=BatchLine)
    except msgspec.ValidationError as error:
        return _misfit(str(error), number)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return BatchError("invalid_json_line", f"this line is not valid JSON: {error}", number)
    if not 0 < len(found.custom_id) <= MAX_ID_CHARS:
        message = f"custom_id has 1 to {MAX_ID_CHARS} characters"
        return BatchError("invalid_custom_id", message, number, "custom_id")
    if found.custom_id in seen:
        message = f"custom_id {found.custom_id!r} is that of line {seen[found.custom_id]} already"
        return BatchError("duplicate_custom_id", message, number, "custom_id")
    seen[found.custom_id] = number
    if found.method != METHOD:
        return BatchError(
            "invalid_method", f"method must be {METHOD!r}, not {found.method!r}", number, "method"
        )
    if found.url != endpoint:
        message = f"url must be {endpoint!r}, the endpoint of the batch, not {found.url!r}"
        return BatchError("mismatched_url", message, number, "url")
    return None


def _misfit(said: str, number: int) -> BatchError:
    """A line that is JSON and no request. said: by msgspec."""
    message, _, at = said.partition(" - at `$")
    field = at.strip("`.")
    if "missing required field `" in message:
        missing = message.split("`")[1]
        field = f"{field}.{missing}" if field else missing
        return BatchError("missing_required_parameter", f"{field} is missing", number, field)
    if not field:
        return BatchError("invalid_json_line", f"a line is a JSON object: {message}", number)
    return BatchError("invalid_type", f"{field}: {message}", number, field)
