"""One batch, run by its owner from whatever state it is in to its end. The states are those of batch_states.py.

Four tasks: the states one after the other; `beat`, so that nobody else takes the batch; results that are
written as they come; and looking whether it is to stop. Results are written in two steps: parts that nothing
names yet, then the record that names them and says of which lines they are. So a successor has either both or
neither.
"""

import asyncio
import hashlib
import mmap
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import msgspec

from stoker.schemas import wire
from stoker.schemas.batches import BatchError, BatchRecord, BatchStatus, LineError, RequestCounts, Segment
from stoker.services.bus.errors import BusError
from stoker.services.gateway.batches.claim import AGAIN_S, BEAT_S, Claim, Lost, now
from stoker.services.gateway.batches.input_lines import Content, InputLines, read_lines
from stoker.services.gateway.batches.line_runs import LineRuns
from stoker.services.gateway.batches.progress import Progress, not_run, progress_of
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.batch_states import TRANSITIONS, has_ended, move
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import LimitExceeded, until
from stoker.services.records import files
from stoker.services.records.files import FileGone
from stoker.services.records.parts import into_file

log = get_logger("batches")

SAVE_EVERY_S = 0.5
LOOK_EVERY_S = 0.1
"""How often it is looked whether the batch is to stop."""
NOT_RUN_AT_ONCE = 1000
"""Lines without a result that are noted before they are written."""
EXPIRED = LineError("batch_expired", "the batch's completion window was over before this request was executed")
CANCELLED = LineError("batch_cancelled", "the batch was cancelled before this request was executed")

T = TypeVar("T")


class Run:
    """`run` a batch that was taken."""

    def __init__(self, gateway: Gateway, claim: Claim) -> None:
        self._gateway = gateway
        self._claim = claim
        self._input: tuple[InputLines, tuple[BatchError, ...]] | None = None
        self._progress: Progress | None = None
        self._runs: LineRuns | None = None
        self._saving = anyio.Lock()
        self._series = 0

    async def run(self) -> None:
        """Until the batch has ended. Raises Lost."""
        try:
            await until(asyncio.Event(), self._go_on, self._beat, self._save_often, self._look_for_stop)
        except Lost:
            raise
        except Exception as error:
            log.exception("batch.failed", batch=self._claim.record.id)
            message = f"an internal error ({type(error).__name__}); the log of the gateway says more"
            await self._end("failed", BatchError("internal_error", message))

    async def _go_on(self) -> None:
        while not has_ended(self._claim.record.status):
            if self._input is None and self._claim.record.status != "finalizing":
                try:
                    self._input = await self._read_input()
                except FileGone as error:
                    await self._end("failed", BatchError("input_file_gone", f"the input file: {error}"))
                    continue
            match self._claim.record.status:
                case "validating":
                    await self._validate()
                case "in_progress" | "cancelling":
                    await self._run_lines()
                case "finalizing":
                    await self._end("completed")

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await self._claim.beat()

    async def _save_often(self) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            try:
                await self._save()
            except (BusError, LimitExceeded) as error:
                log.warning("batch.not_saved", batch=self._claim.record.id, error=str(error))

    async def _look_for_stop(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._runs is not None and self._is_to_stop():
                self._runs.stop()
                await self._runs.cancel_under_way()

    def _is_to_stop(self) -> bool:
        """Whether somebody has cancelled the batch, or its window is over."""
        record = self._claim.record
        return record.status == "cancelling" or now() >= record.expires_at

    # States ---------------------------------------------------------------------------------------

    async def _read_input(self) -> tuple[InputLines, tuple[BatchError, ...]]:
        """The lines of the input file, and what is wrong with them. Raises FileGone."""
        content = await self._patiently(self._content)
        return await asyncio.to_thread(read_lines, content, self._claim.record.endpoint)

    async def _content(self) -> Content:
        found = await files.kept_file(self._gateway.bus, self._claim.record.input_file_id)
        if found is None:
            raise FileGone("it is no longer kept")
        with tempfile.TemporaryDirectory(prefix="stoker-batch-") as folder:
            path = Path(folder) / "input.jsonl"
            async with aclosing(files.read(self._gateway.bus, found.segments)) as parts:
                size = await into_file(path, parts)
            with path.open("rb") as file:  # what is mapped stays when its name goes
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""

    async def _validate(self) -> None:
        assert self._input is not None
        lines, errors = self._input
        if errors:
            await self._end("failed", *errors)
            return
        counts = RequestCounts(len(lines))
        await self._move("in_progress", lambda record: msgspec.structs.replace(record, counts=counts))

    async def _run_lines(self) -> None:
        assert self._input is not None
        lines, errors = self._input
        if errors:  # cancelled before it was looked at
            await self._end("failed", *errors)
            return
        progress = self._progress = progress_of(self._claim.record, len(lines))
        self._runs = LineRuns(self._gateway, self._claim, lines, progress)
        if self._is_to_stop():
            self._runs.stop()
        await self._runs.run()
        self._runs = None
        batch = self._claim.record
        why = CANCELLED if batch.status == "cancelling" else EXPIRED
        left = list(progress.left())
        for first in range(0, len(left), NOT_RUN_AT_ONCE):
            for line in left[first : first + NOT_RUN_AT_ONCE]:
                progress.note(line, not_run(batch.id, line, lines.request(line).custom_id, why))
            await self._patiently(self._save)
        await self._patiently(self._save)
        if self._claim.record.status == "cancelling":
            await self._end("cancelled")
        elif left:
            await self._end("expired")
        else:
            await self._move("finalizing", lambda record: record)

    async def _move(self, status: BatchStatus, change: Callable[[BatchRecord], BatchRecord]) -> None:
        """Into another state, unless it is in one from which that cannot be: somebody has cancelled it."""

        def moved(record: BatchRecord) -> BatchRecord:
            if status not in TRANSITIONS[record.status]:
                return record
            return move(change(record), status, now())

        await self._claim.update(moved)

    async def _end(self, status: BatchStatus, *errors: BatchError) -> None:
        """What is written becomes files, and the batch has ended, unless it was cancelled meanwhile."""
        record = self._claim.record
        output = await self._patiently(partial(self._make_file, record.outputs, "output"))
        failures = await self._patiently(partial(self._make_file, record.failures, "error"))

        def with_files(found: BatchRecord) -> BatchRecord:
            return msgspec.structs.replace(found, output_file_id=output, error_file_id=failures, errors=errors)

        await self._move(status, with_files)
        log.info("batch.state", batch=record.id, status=self._claim.record.status)

    async def _make_file(self, segments: tuple[Segment, ...], kind: str) -> str | None:
        """The file of these results, by name: the same however often it is made. None: there are none."""
        if not segments:
            return None
        batch = self._claim.record
        name = files.PREFIX + hashlib.blake2b(f"{batch.id} {kind}".encode(), digest_size=12).hexdigest()
        filename = f"{batch.id}_{kind}.jsonl"
        made = files.record_of(name, filename, "batch_output", now(), batch.tenant, segments)
        await files.keep_file(self._gateway.bus, made)
        return name

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` gives, asked again for as long as NATS is away."""
        while True:
            try:
                return await ask()
            except (BusError, LimitExceeded, wire.UnreadableMessage) as error:
                log.warning("batch.waits", batch=self._claim.record.id, reason=str(error))
                await asyncio.sleep(AGAIN_S)

    # Results --------------------------------------------------------------------------------------

    async def _save(self) -> None:
        """Write the results that have come. Raises BusError, LimitExceeded, Lost."""
        async with self._saving:
            progress = self._progress
            if progress is None or not progress.has_unwritten:
                return
            what = progress.unwritten()
            record = self._claim.record
            try:
                outputs = await self._appended(record.outputs, "output", what.outputs)
                failures = await self._appended(record.failures, "error", what.failures)
            except (BusError, LimitExceeded):
                self._series += 1  # a part that is still on its way must not come upon a later one
                raise
            bits, counts = progress.with_written(what)
            await self._claim.update(
                lambda found: msgspec.structs.replace(
                    found, outputs=outputs, failures=failures, done=bytes(bits), counts=counts
                )
            )
            progress.wrote(what)

    async def _appended(self, segments: tuple[Segment, ...], kind: str, text: bytes) -> tuple[Segment, ...]:
        """The segments with a text behind them."""
        if not text:
            return segments
        record = self._claim.record
        token = f"{record.id}-{record.claim}-{self._series}-{kind}"
        if segments and segments[-1].token == token:
            return (*segments[:-1], await files.append(self._gateway.bus, segments[-1], text))
        return (*segments, await files.append(self._gateway.bus, files.new_segment(token), text))
