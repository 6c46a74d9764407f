"""Messages of a later version: more fields, new words, new kinds. Nothing of them may make a service deaf."""

from typing import Any, get_args

import msgspec
import pytest
from msgspec import inspect

from stoker.schemas import wire
from stoker.schemas.catalog import Model, ResourceProfile
from stoker.schemas.discovery import Schema
from stoker.schemas.fleet import Explanation, JobsPage, JobView, ModelReplicas, PlatformEvent, QueueDepth
from stoker.schemas.job_events import Failed, LiveEvent, StoredRecord, Terminal
from stoker.schemas.jobs import Job, JobHead
from stoker.schemas.skew import UNKNOWN_IS
from stoker.schemas.workers import (
    Assignment,
    AssignmentAnswer,
    Finished,
    Heartbeat,
    ModelCommand,
    Replay,
    ReplayRequest,
    Revocation,
)
from stoker.services.records.results import Result, read_record

MESSAGES: list[Any] = [
    Model, ResourceProfile, Schema, Explanation, JobsPage, JobView, ModelReplicas, PlatformEvent, QueueDepth,
    LiveEvent, Terminal, StoredRecord, Job, JobHead, Assignment, AssignmentAnswer, Finished, Heartbeat, ModelCommand,
    Replay, ReplayRequest, Revocation,
]  # fmt: skip
"""Everything that is read from NATS, but for keys: they open nothing when they are not understood."""
PART_OF_A_REQUEST = {"role", "output_format", "src", "task"}
"""What a job asks for: where it is not understood the job ends, with the reason."""


def structs_of(kind: Any) -> dict[type, inspect.StructType]:
    """Every Struct that a message may have inside."""
    found: dict[type, inspect.StructType] = {}
    todo = [inspect.type_info(kind)]
    while todo:
        form = todo.pop()
        if isinstance(form, inspect.StructType):
            if form.cls not in found:
                found[form.cls] = form
                todo += [field.type for field in form.fields]
        elif isinstance(form, inspect.UnionType):
            todo += form.types
        elif isinstance(form, inspect.ListType | inspect.VarTupleType):
            todo.append(form.item_type)
        elif isinstance(form, inspect.DictType):
            todo.append(form.value_type)
    return found


def words_of(form: inspect.Type) -> frozenset[Any]:
    if isinstance(form, inspect.VarTupleType):
        return words_of(form.item_type)
    types = form.types if isinstance(form, inspect.UnionType) else (form,)
    return frozenset(word for one in types if isinstance(one, inspect.LiteralType) for word in one.values)


@pytest.mark.parametrize("kind", MESSAGES, ids=str)
def test_every_set_of_words_says_what_an_unknown_one_is_and_no_message_refuses_fields(kind: Any) -> None:
    for cls, form in structs_of(kind).items():
        assert not form.forbid_unknown_fields, f"{cls.__name__} refuses what a later version adds"
        for field in form.fields:
            words = words_of(field.type)
            assert not words or words in UNKNOWN_IS or field.name in PART_OF_A_REQUEST, (
                f"{cls.__name__}.{field.name}"
            )


BEAT = {
    "worker": "w", "started_at": 1.0, "seq": 1, "spec": "", "profile": "", "device": "cpu", "host": "h",
    "engines": {"text": {"slots": 1, "prefetch": 0, "features": ["TextGeneration"], "novel": 1}},
    "memory_total_bytes": 1, "memory_used_bytes": 0,
    "models": [
        {"model": "a", "spec": "s", "engine": "e", "tier": "hot"},
        {"model": "b", "spec": "s", "engine": "e", "tier": "frozen", "loaded_from": "tape", "mood": "good"},
    ],
}  # fmt: skip


def test_a_worker_with_a_tier_that_is_not_known_is_seen_and_the_model_is_taken_for_cold() -> None:
    beat: Heartbeat = wire.decode(Heartbeat, msgspec.json.encode(BEAT))
    assert [(one.model, one.tier, one.loaded_from) for one in beat.models] == [
        ("a", "hot", "warm"),
        ("b", "cold", "cold"),
    ]


END = {
    "event": "failed",
    "job": "j",
    "model": "m",
    "created_at": 1.0,
    "finished_at": 2.0,
    "message": "too sunny",
}


def test_an_end_with_a_kind_of_failure_that_is_not_known_is_an_internal_one() -> None:
    end = wire.decode(Terminal, msgspec.json.encode({**END, "kind": "weather", "more": []}))
    assert (end.kind, end.message) == ("internal", "too sunny")


def test_a_way_to_end_that_is_not_known_is_an_end_all_the_same() -> None:
    later = {**END, "event": "evaporated", "worker": "w", "attempt": 3}
    found = read_record(msgspec.json.encode(later), None)
    assert isinstance(found, Result) and isinstance(found.event, Failed)
    assert (found.event.job, found.event.worker, found.event.attempt, found.event.kind) == (
        "j",
        "w",
        3,
        "internal",
    )
    assert "evaporated" in found.event.message
    with pytest.raises(wire.UnreadableMessage):
        read_record(b'{"event": "evaporated"}', None)


def test_other_words_of_later_versions_are_read_as_what_promises_least() -> None:
    view = wire.decode(JobView, b'{"id":"j","model":"m","status":"dreaming","created_at":1}')
    assert view.status == "running"
    told = wire.decode(Finished, b'{"job":"j","model":"m","attempt":1,"outcome":"abandoned","kind":"odd"}')
    assert (told.outcome, told.kind) == ("lost", "internal")
    event = wire.decode(PlatformEvent, b'{"kind":"dreamt","subject":"w","at":1,"reason":"r"}')
    assert event.kind == "other"
    model = wire.decode(
        Model,
        b'{"name":"m","features":["Telepathy","TextGeneration"],"specs":[{"name":"s","engine":"e","url":"","new":1}],'
        b'"load_balancing":{"strategy":"Magic"}}',
    )
    assert (model.features, model.load_balancing.strategy) == (("TextGeneration",), "LeastLoad")


@pytest.mark.parametrize(
    "payload",
    [
        b'{"worker":"w"}',
        msgspec.json.encode({**BEAT, "models": [{"model": "a", "spec": "s", "engine": "e", "tier": 7}]}),
        msgspec.json.encode({**BEAT, "models": [{"tier": "odd"}]}),
        b"[]",
    ],
)
def test_what_is_wrong_in_another_way_is_still_refused(payload: bytes) -> None:
    with pytest.raises(wire.UnreadableMessage):
        wire.decode(Heartbeat, payload)


def test_a_message_of_nothing_but_unknown_words_is_refused_and_not_read_for_ever() -> None:
    models = [{"model": "a", "spec": "s", "engine": "e", "tier": "odd"}] * 200
    with pytest.raises(wire.UnreadableMessage):
        wire.decode(Heartbeat, msgspec.json.encode({**BEAT, "models": models}))


def test_a_job_that_asks_for_what_is_not_known_is_known_by_its_head() -> None:
    job = b'{"id":"j","model":"m","gateway":"g","created_at":1,"input":{"kind":"video"},"webhook":"http://x/"}'
    with pytest.raises(wire.UnreadableMessage, match="video"):
        wire.decode(Job, job)
    head: JobHead = wire.decode(JobHead, job)
    assert (head.as_job().id, head.as_job().webhook, head.as_job().input.__class__.__name__) == (
        "j", "http://x/", "LoadInput",
    )  # fmt: skip


def test_the_rules_name_words_that_exist() -> None:
    for words, word in UNKNOWN_IS.items():
        assert word in words or not isinstance(word, str), (words, word)
    assert get_args(Terminal)
