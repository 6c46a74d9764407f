"""The streams and buckets of Stoker: declared by `stoker install-streams` and `stoker up`, and by nobody else.

`declare` makes them, and brings those of the version before into today's form. A service waits until those that
it uses are there (`wait_for_streams`).

| stream | holds | until |
|---|---|---|
| STOKER_JOBS | accepted jobs | acked: its result is stored; full = refused, nothing is pushed out |
| STOKER_RESULTS | how jobs ended: one record per job | `RESULT_TTL_S` |
| STOKER_EVENTS | what happened and why | a day, or 100,000 events |
| STOKER_HISTORY | jobs that ended, samples of queues: for a time axis | a day, or `MAX_HISTORY_BYTES` |
| STOKER_RETRIES | jobs that did not complete, as they were accepted | `RESULT_TTL_S`, or `MAX_RETRIES_BYTES` |
| STOKER_WEBHOOKS | terminal events that somebody wants posted | delivered, or a day |
| STOKER_QUARANTINE | what could not be handled, with its reason | a week, or 10,000 messages |
| STOKER_BLOBS | parts of large inputs and results, encrypted | `RESULT_TTL_S`; nothing is written twice |
| STOKER_FILES | parts of clients' files and of results of batches | `FILE_PARTS_TTL_S`; emptied when deleted |

STOKER_RESULTS also takes the verdicts of the leading scheduler, and stores them under the subjects of the jobs:
those of the newest term alone (`admit_leader`), so that an earlier leader which does not know yet that it was
replaced writes into nothing. What is stored there is told under `Subjects.ended`.
"""

import asyncio
import re
from functools import partial
from typing import Any

from nats.js import api

from stoker.schemas import subjects as names
from stoker.schemas.subjects import Subjects
from stoker.services.bus.connection import Bus
from stoker.services.bus.descriptions import BUCKETS, STREAMS
from stoker.services.bus.errors import BusError, CannotConnect, DiskFull, Missing, NoAnswer, Refused, named
from stoker.services.process.logs import get_logger
from stoker.services.process.running import CannotStart, StoppedAtStart

log = get_logger("streams")

USAGE_TTL_S = 400 * 86_400.0
"""What keys have used by day."""
RESULT_TTL_S = 3600.0
EVENTS_TTL_S = 24 * 3600.0
HISTORY_TTL_S = 24 * 3600.0
MAX_HISTORY_BYTES = 256 * 1024**2
MAX_RETRIES_BYTES = 64 * 1024**2
MIN_LEFT_OUT_BYTES = 1024**2
"""What is nice to have takes little of a small disk: the history, and jobs that may be run again."""
QUARANTINE_TTL_S = 7 * 24 * 3600.0
FILES_TTL_S = 7 * 24 * 3600.0
"""How long files, and batches after their last change, are kept."""
FILE_PARTS_TTL_S = FILES_TTL_S + 2 * 24 * 3600.0
"""Longer than files: a batch of a day writes parts of results long before they become a file."""
LEASE_TTL_S = 1.2
"""How long a leader lease outlives its holder: a new scheduler is there in under two seconds."""
DUPLICATE_WINDOW_S = 30.0
"""Repeats of a publication that the server itself drops; later ones the scheduler recognises."""
MAX_JOBS = 200_000
MAX_RESULTS_BYTES, MIN_RESULTS_BYTES = 8 * 1024**3, 64 * 1024**2
"""What results may take, which the server reserves on its disk: the most, and the least to start with."""
MAX_VALUE_BYTES = 512 * 1024
"""Of a value in a bucket: eight specs of the largest size, and far more than any other needs."""
READY_TIMEOUT_S = 30.0
READY_POLL_S = 0.05


def _config(prefix: str, name: str, subject: str, **form: Any) -> api.StreamConfig:
    """A stream of one subject. form: where it differs from what all have."""
    common: dict[str, Any] = {
        "description": STREAMS[name],
        "retention": api.RetentionPolicy.LIMITS,
        "duplicate_window": DUPLICATE_WINDOW_S,
    }
    return api.StreamConfig(name=name, subjects=[f"{prefix}.{subject}"], **(common | form))


def stream_configs(subjects: Subjects) -> list[api.StreamConfig]:
    """What each stream must look like."""
    prefix = subjects.prefix
    ended = api.RePublish(
        src=f"{prefix}.result.{names.ANY_GATEWAY}.*", dest=f"{prefix}.ended.{{{{wildcard(1)}}}}"
    )
    stream = partial(_config, prefix)
    return [
        stream(
            names.JOBS_STREAM,
            "jobs.*",
            retention=api.RetentionPolicy.WORK_QUEUE,
            discard=api.DiscardPolicy.NEW,
            max_msgs=MAX_JOBS,
            allow_direct=True,
        ),
        stream(
            names.RESULTS_STREAM,
            "result.*.*",
            republish=ended,
            discard=api.DiscardPolicy.OLD,
            max_msgs_per_subject=1,
            max_age=RESULT_TTL_S,
            max_bytes=MAX_RESULTS_BYTES,
            allow_direct=True,
        ),
        stream(names.EVENTS_STREAM, "events.*.*", max_age=EVENTS_TTL_S, max_msgs=100_000, allow_direct=True),
        stream(names.HISTORY_STREAM, "history.*", max_age=HISTORY_TTL_S, max_bytes=MAX_HISTORY_BYTES),
        stream(
            names.RETRIES_STREAM,
            "retry.*",
            max_msgs_per_subject=1,
            max_age=RESULT_TTL_S,
            max_bytes=MAX_RETRIES_BYTES,
            allow_direct=True,
        ),
        stream(
            names.WEBHOOKS_STREAM, "webhook.*", retention=api.RetentionPolicy.WORK_QUEUE, max_age=EVENTS_TTL_S
        ),
        stream(names.QUARANTINE_STREAM, "quarantine.*", max_age=QUARANTINE_TTL_S, max_msgs=10_000),
        stream(
            names.BLOBS_STREAM,
            "blob.*.*",
            discard=api.DiscardPolicy.NEW,
            discard_new_per_subject=True,
            max_msgs_per_subject=1,
            max_age=RESULT_TTL_S,
            allow_direct=True,
        ),
        stream(
            names.FILES_STREAM, "file.*.*", max_msgs_per_subject=1, max_age=FILE_PARTS_TTL_S, allow_direct=True
        ),
    ]


async def declare(bus: Bus) -> bool:
    """Create or upgrade every stream and bucket; whether no job was accepted here before.

    Raises CannotConnect when JetStream is not ready, BusError.
    """
    deadline = asyncio.get_running_loop().time() + READY_TIMEOUT_S
    while True:
        try:
            return await _declare_all(bus)
        except NoAnswer as error:
            if asyncio.get_running_loop().time() > deadline:
                raise CannotConnect(
                    f"JetStream does not answer ({error}); start nats-server with JetStream enabled"
                ) from error
            await asyncio.sleep(READY_POLL_S)


async def is_declared(bus: Bus, stream: str) -> bool:
    """Whether a stream is there. Raises BusError where that could not be found out."""
    try:
        with named(f"looking for the stream {stream}"):
            await bus.jetstream.stream_info(stream)
    except Missing:
        return False
    return True


async def wait_for_streams(bus: Bus, stopping: asyncio.Event, *streams: str) -> None:
    """Return when these are there.

    Raises CannotStart after `READY_TIMEOUT_S`, with what to do; StoppedAtStart when `stopping` is set before.
    """
    deadline = asyncio.get_running_loop().time() + READY_TIMEOUT_S
    for stream in streams:
        problem = await _why_missing(bus, stream)
        while problem:
            if asyncio.get_running_loop().time() > deadline:
                raise CannotStart(problem)
            if stopping.is_set():
                raise StoppedAtStart(f"told to stop while it waited: {problem}")
            await asyncio.sleep(READY_POLL_S)
            problem = await _why_missing(bus, stream)


async def _why_missing(bus: Bus, stream: str) -> str:
    """Why a stream cannot be used, and what to do; "" when it is there."""
    try:
        if await is_declared(bus, stream):
            return ""
    except NoAnswer as error:
        return f"JetStream does not answer ({error}); start nats-server with JetStream enabled"
    remedy = "run `stoker install-streams` once, as a NATS user that may make streams"
    return f"the stream {stream} is not there; {remedy}"


async def _declare_all(bus: Bus) -> bool:
    is_new = not await is_declared(bus, names.JOBS_STREAM)
    for config in stream_configs(bus.subjects):
        await _declare_fitting(bus, config.evolve(num_replicas=bus.replicas))
    for bucket in (names.CATALOG_BUCKET, names.REPLICAS_BUCKET, names.KEYS_BUCKET, names.SECRETS_BUCKET):
        await _declare_bucket(bus, bucket, 0.0)
    await _declare_bucket(bus, names.SCHEDULES_BUCKET, 0.0)
    await _declare_bucket(bus, names.USAGE_BUCKET, USAGE_TTL_S)
    await _declare_bucket(bus, names.LEASES_BUCKET, LEASE_TTL_S)
    await _declare_bucket(bus, names.CONVERSATIONS_BUCKET, RESULT_TTL_S)
    for bucket in (names.FILES_BUCKET, names.BATCHES_BUCKET, names.UPLOADS_BUCKET):
        await _declare_bucket(bus, bucket, FILES_TTL_S)
    return is_new


async def _declare_fitting(bus: Bus, config: api.StreamConfig) -> None:
    """Declare a stream; one that reserves more than the disk has gets half of it, and half of that, …

    Raises CannotConnect when there is no room for the least either.
    """
    while True:
        try:
            await _declare_stream(bus, config)
            return
        except DiskFull as error:
            smaller = (config.max_bytes or 0) // 2
            if smaller < least_bytes(config.name):
                least = least_bytes(config.name) // 1024**2
                raise CannotConnect(
                    f"the disk of the NATS server is too full for the stream {config.name}, which needs "
                    f"{least} MB ({error}); make room there, and start again"
                ) from error
            log.warning("stream.smaller", stream=config.name, max_bytes=smaller, reason="the disk has no more")
            config = config.evolve(max_bytes=smaller)


def least_bytes(stream: str | None) -> int:
    """What a stream has to have to be of use."""
    return MIN_RESULTS_BYTES if stream == names.RESULTS_STREAM else MIN_LEFT_OUT_BYTES


async def _declare_stream(bus: Bus, config: api.StreamConfig) -> None:
    try:
        with named(f"making the stream {config.name}"):
            await bus.jetstream.add_stream(config)
    except DiskFull:
        raise
    except Refused:  # it is there, in another form
        with named(f"upgrading the stream {config.name}"):
            found = (await bus.jetstream.stream_info(config.name)).config
            config = config.evolve(max_bytes=_kept_bytes(found, config))
            if config.name == names.RESULTS_STREAM:
                config = _admitting(config, bus.subjects, admitted_term(found, bus.subjects))
                if _form(found) == _form(config):
                    return
            await bus.jetstream.update_stream(config)
        log.info("stream.upgraded", stream=config.name)


class NotLeading(BusError):
    """A scheduler of a later term has been admitted."""


async def admit_leader(bus: Bus, term: int) -> None:
    """Have the results stream take the verdicts of this term, and of no earlier one.

    To be called by each new leader before it acts, and again now and then: a service of the version before that
    starts puts the stream back into its own form. Raises NotLeading, BusError.
    """
    with named("admitting the leader to the results"):
        found = (await bus.jetstream.stream_info(names.RESULTS_STREAM)).config
        admitted = admitted_term(found, bus.subjects)
        if admitted > term:
            raise NotLeading(f"term {admitted} is admitted, this is {term}")
        [declared] = [one for one in stream_configs(bus.subjects) if one.name == names.RESULTS_STREAM]
        wanted = _admitting(found.evolve(republish=declared.republish), bus.subjects, term)
        if _of_verdicts(found) != _of_verdicts(wanted):
            await bus.jetstream.update_stream(wanted)


def admitted_term(config: api.StreamConfig, subjects: Subjects) -> int:
    """The term whose verdicts the results stream takes; 0 for none."""
    pattern = re.compile(re.escape(subjects.prefix) + r"\.verdict\.([0-9]+)\.\*")
    terms = [int(found[1]) for subject in config.subjects or () if (found := pattern.fullmatch(subject))]
    return max(terms, default=0)


def _admitting(config: api.StreamConfig, subjects: Subjects, term: int) -> api.StreamConfig:
    """The same stream, taking verdicts of this term (0: of none)."""
    prefix = subjects.prefix
    taken = [f"{prefix}.result.*.*"]
    if not term:
        return config.evolve(subjects=taken)
    verdicts = f"{prefix}.verdict.{term}.*"
    stored = f"{prefix}.result.{names.ANY_GATEWAY}.{{{{wildcard(1)}}}}"
    transform = api.SubjectTransform(src=verdicts, dest=stored)
    return config.evolve(subjects=[*taken, verdicts], subject_transform=transform)


def _kept_bytes(found: api.StreamConfig, wanted: api.StreamConfig) -> int | None:
    """What a stream that is there may hold: as much as it has, where the disk had no room for more."""
    has: int = found.max_bytes or 0
    most: int = wanted.max_bytes or 0
    return (has if least_bytes(wanted.name) <= has < most else most) or None


def _form(config: api.StreamConfig) -> tuple[object, ...]:
    """What `stream_configs` says of a stream, comparable with what the server says of it."""
    limits = (config.max_msgs, config.max_msgs_per_subject, config.max_bytes)
    return (
        *_of_verdicts(config),
        tuple(limit or -1 for limit in limits),
        config.max_age or 0.0,
        config.discard,
        config.num_replicas,
        config.duplicate_window,
    )


def _of_verdicts(config: api.StreamConfig) -> tuple[object, ...]:
    """What of a stream's form verdicts need."""
    return config.subjects, config.subject_transform, config.republish


async def _declare_bucket(bus: Bus, bucket: str, ttl_s: float) -> None:
    """ttl_s: how long a value is kept; 0 = for ever."""
    try:
        with named(f"reading the bucket {bucket}"):
            found = (await bus.jetstream.stream_info(f"KV_{bucket}")).config
    except Missing:
        config = api.KeyValueConfig(
            bucket=bucket,
            description=BUCKETS[bucket],
            ttl=ttl_s or None,
            history=1,
            direct=True,
            max_value_size=MAX_VALUE_BYTES,
            replicas=bus.replicas,
        )
        with named(f"making the bucket {bucket}"):
            await bus.jetstream.create_key_value(config)
        return
    form = {
        "max_age": ttl_s,
        "num_replicas": bus.replicas,
        "max_msg_size": MAX_VALUE_BYTES,
        "description": BUCKETS[bucket],
    }
    if {name: getattr(found, name) or 0.0 for name in form} != form:
        with named(f"upgrading the bucket {bucket}"):
            await bus.jetstream.update_stream(found.evolve(**form))
