"""The states of a batch, and the one function that changes them. Pure.

| state | what happens | ends |
|---|---|---|
| validating | every line of the input file is looked at | lines are right, or not; cancelled |
| in_progress | lines are jobs on the queue | all are done; cancelled; the window is over |
| finalizing | the results become files | always |
| cancelling | what is under way is cancelled, what is done is kept | always |

Every one of them may end as `failed`: where the input file is wrong, or is gone, or by an error of ours.
"""

import msgspec

from stoker.schemas.batches import (
    COMPLETION_WINDOW,
    BatchAnswer,
    BatchErrors,
    BatchRecord,
    BatchStatus,
)

TRANSITIONS: dict[BatchStatus, frozenset[BatchStatus]] = {
    "validating": frozenset({"in_progress", "cancelling", "failed"}),
    "in_progress": frozenset({"finalizing", "cancelling", "expired", "failed"}),
    "finalizing": frozenset({"completed", "failed"}),
    "cancelling": frozenset({"cancelled", "failed"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "expired": frozenset(),
    "cancelled": frozenset(),
}
TIMED = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
"""States whose beginning the answer tells."""


class BadTransition(RuntimeError):
    """A batch cannot go from the one state to the other."""


def has_ended(status: BatchStatus) -> bool:
    return not TRANSITIONS[status]


def move(record: BatchRecord, status: BatchStatus, now: float) -> BatchRecord:
    """The batch in another state; one that has ended is nobody's. Raises BadTransition."""
    if status not in TRANSITIONS[record.status]:
        raise BadTransition(f"a batch that is {record.status} cannot become {status}")
    moved = msgspec.structs.replace(record, status=status, times={**record.times, status: int(now)})
    if has_ended(status):
        return msgspec.structs.replace(moved, owner="", done=b"", reserved=0)
    return moved


def answer_of(record: BatchRecord) -> BatchAnswer:
    """A batch as clients see it."""
    answer = BatchAnswer(
        id=record.id,
        endpoint=record.endpoint,
        input_file_id=record.input_file_id,
        completion_window=COMPLETION_WINDOW,
        status=record.status,
        created_at=record.created_at,
        expires_at=record.expires_at,
        request_counts=record.counts,
        errors=BatchErrors(record.errors) if record.errors else None,
        output_file_id=record.output_file_id,
        error_file_id=record.error_file_id,
        metadata=record.metadata,
    )
    times = {f"{status}_at": at for status, at in record.times.items() if status in TIMED}
    return msgspec.structs.replace(answer, **times)
