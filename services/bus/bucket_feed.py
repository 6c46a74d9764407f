"""Reading a key-value bucket in the order of its writes, without a consumer.

A consumer can be told to deliver to any subject, whoever made it may publish there or not; so nobody but the
operator may make one on a bucket. What is read here are batches of direct gets, which go to the reader's inbox
alone (nats-server 2.11 and newer). A bucket keeps the last write of each key: everything from the first place
on is its whole content, and what comes after a place are the changes since.
"""

import asyncio

import anyio
from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.services.bus.changes import COPY_MARK, Change
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, NoAnswer

BATCH, BATCH_BYTES = 256, 2 * 1024 * 1024
ANSWER_TIMEOUT_S = 2.0
"""The longest between two messages of a batch."""
NOTHING, BATCH_ENDED = "404", "204"


async def read_changes(bus: Bus, bucket: str, after: int = 0) -> list[Change]:
    """The last write of every key that was written after a place, in order. Raises BusError."""
    changes: list[Change] = []
    while True:
        batch, is_last = await _read_batch(bus, bucket, after, {"batch": BATCH, "max_bytes": BATCH_BYTES})
        if not batch and not is_last:  # the next one alone has more bytes
            batch, is_last = await _read_batch(bus, bucket, after, {"batch": 1})
        changes += batch
        if is_last:
            return changes
        after = batch[-1].place


async def _read_batch(bus: Bus, bucket: str, after: int, bounds: dict[str, int]) -> tuple[list[Change], bool]:
    """The next changes, and whether there are no more. bounds: how many, and how many bytes of them."""
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = bus.client.new_inbox()
    stop = bus.listen_now(inbox, answers.put_nowait)
    asked = {"seq": after + 1, "next_by_subj": f"$KV.{bucket}.>", **bounds}
    found: list[Change] = []
    try:
        bus.post(f"$JS.API.DIRECT.GET.KV_{bucket}", wire.encode(asked), inbox)
        while True:
            try:
                with anyio.fail_after(ANSWER_TIMEOUT_S):
                    answer = await answers.get()
            except TimeoutError:
                raise NoAnswer(f"reading the bucket {bucket}: no answer in {ANSWER_TIMEOUT_S:g} s") from None
            fields = answer.headers or {}
            status = fields.get("Status", "")
            if status == NOTHING:
                return found, True
            if status == BATCH_ENDED:
                return found, fields.get("Nats-Num-Pending") == "0"
            if status:
                raise BusError(f"reading the bucket {bucket}: {status} {fields.get('Description', '')}")
            found.append(_change(bucket, answer, fields))
    finally:
        stop()


def _change(bucket: str, answer: Msg, fields: dict[str, str]) -> Change:
    try:
        key = fields["Nats-Subject"].removeprefix(f"$KV.{bucket}.")
        place = int(fields["Nats-Sequence"])
    except (KeyError, ValueError) as error:
        raise BusError(f"reading the bucket {bucket}: an answer without {error}") from error
    return Change(key, b"" if "KV-Operation" in fields else answer.data, place, COPY_MARK in fields)
