"""How large messages may be, so that the server never has to refuse one: it would end the sender's connection.

A stored job travels once more inside an assignment, with the model's spec, the names of models that may go, and
headers. So a job may be smaller than a message by what all of that can be (`WRAPPING_BYTES`). The parts have
bounds of their own: a spec `MAX_SPEC_BYTES` (checked where configurations are read), the names `MAX_EVICTIONS`
times `MAX_NAME_BYTES`.
"""

from collections.abc import Mapping

from stoker.schemas.subjects import MAX_NAME_BYTES

MAX_SPEC_BYTES = 64 * 1024
MAX_EVICTIONS = 64
ESCAPED = 6
"""The most bytes that JSON makes of one byte of a name."""
FIXED_BYTES = 4 * 1024
"""Numbers, names of fields, the reply subject and headers."""
MAX_SUBJECT_CHARS = 3500
"""Of subject and reply together: the server takes command lines of 4096 bytes."""
WRAPPING_BYTES = MAX_SPEC_BYTES + MAX_EVICTIONS * (ESCAPED * MAX_NAME_BYTES + 3) + FIXED_BYTES


def max_job_bytes(max_payload: int) -> int:
    """The largest job, as JSON, where the server takes messages of `max_payload` bytes."""
    return max_payload - WRAPPING_BYTES


def message_bytes(payload: bytes, headers: Mapping[str, str] | None) -> int:
    """What the server counts of a message."""
    if not headers:
        return len(payload)
    lines = sum(len(name.encode()) + len(value.encode()) + 4 for name, value in headers.items())
    return len("NATS/1.0\r\n") + lines + len("\r\n") + len(payload)
