"""What changed in a worker's heartbeat since one that it said whole. Pure.

A change says everything that is different from its base, not from the change before: so any one of them can be
lost. Who has the base makes the whole heartbeat of it (`joined`); who has another one cannot, and must not try.
A worker sends a change only where that gives exactly the heartbeat that it means (`change_since`).
"""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from stoker.schemas.ranges import Count, Moment
from stoker.schemas.workers import EngineCapability, Heartbeat, ResidentModel, Resources, RunningJob

FULL_EVERY_S = 4.0
"""How often a worker says all of it: services of the version before, which know no changes, take one that is
silent for six seconds for gone. Once the version before knows changes too, it may be as long as a new reader
may wait that asks nobody."""


class Solicitation(msgspec.Struct, frozen=True, omit_defaults=True):
    """Say a whole heartbeat. reads_changes: from a leading scheduler that takes changes of it from now on; one
    that does not say so (of the version before) is told everything each time. None: not from one.
    """

    reads_changes: bool | None = False


class HeartbeatChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """What of a heartbeat is different from the whole one of the same life with the number `base`.

    models, running: those that are new or different; gone_models, gone_jobs: those that are not there any more.
    Every other field: as in Heartbeat, where it is different.
    """

    worker: str
    started_at: Moment
    seq: Count
    base: Count
    models: tuple[ResidentModel, ...] = ()
    gone_models: tuple[str, ...] = ()
    running: tuple[RunningJob, ...] = ()
    gone_jobs: tuple[str, ...] = ()
    engines: dict[str, EngineCapability] | UnsetType = UNSET
    coming: dict[str, EngineCapability] | UnsetType = UNSET
    memory_used_bytes: Count | UnsetType = UNSET
    is_draining: bool | UnsetType = UNSET
    failed_loads: dict[str, str] | UnsetType = UNSET
    load_failures: dict[str, Count] | None | UnsetType = UNSET
    rss_bytes: Count | UnsetType = UNSET
    resources: Resources | UnsetType = UNSET


_FIELDS = (
    "engines",
    "coming",
    "memory_used_bytes",
    "is_draining",
    "failed_loads",
    "load_failures",
    "rss_bytes",
    "resources",
)
"""Those that a change has as they are."""


def in_tiers(models: Sequence[ResidentModel]) -> dict[str, tuple[str, ...]]:
    """The fields of a heartbeat that repeat its models by tier."""

    def named(*tiers: str) -> tuple[str, ...]:
        return tuple(one.model for one in models if one.tier in tiers)

    return {
        "vram_models": named("hot"),
        "ram_models": named("parked"),
        "disk_models": named("warm", "parked", "base", "hot"),
    }


def change_since(base: Heartbeat, now: Heartbeat) -> HeartbeatChange | None:
    """What to say instead of `now` to who has `base`; None where it has to be said whole."""
    models = {one.model: one for one in base.models}
    jobs = {one.job: one for one in base.running}
    changed = {name: value for name in _FIELDS if (value := getattr(now, name)) != getattr(base, name)}
    change = HeartbeatChange(
        worker=now.worker,
        started_at=now.started_at,
        seq=now.seq,
        base=base.seq,
        models=tuple(one for one in now.models if models.get(one.model) != one),
        gone_models=tuple(models.keys() - {one.model for one in now.models}),
        running=tuple(one for one in now.running if jobs.get(one.job) != one),
        gone_jobs=tuple(jobs.keys() - {one.job for one in now.running}),
        **changed,
    )
    return change if joined(base, change) == now else None


def joined(base: Heartbeat, change: HeartbeatChange) -> Heartbeat:
    """The whole heartbeat that a change means. base: the one that it names."""
    assert (base.worker, base.started_at, base.seq) == (change.worker, change.started_at, change.base)
    values = {name: value for name in _FIELDS if (value := getattr(change, name)) is not UNSET}
    if change.models or change.gone_models:
        models = {one.model: one for one in base.models if one.model not in change.gone_models}
        kept = tuple((models | {one.model: one for one in change.models}).values())
        values |= {"models": kept} | in_tiers(kept)
    if change.running or change.gone_jobs:
        jobs = {one.job: one for one in base.running if one.job not in change.gone_jobs}
        values["running"] = tuple((jobs | {one.job: one for one in change.running}).values())
    return msgspec.structs.replace(base, seq=change.seq, **values)
