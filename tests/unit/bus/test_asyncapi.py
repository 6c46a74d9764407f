"""The document of the bus: it names what the other tables have, and every reference in it leads somewhere."""

import inspect
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from stoker.schemas.channels import CHANNELS, ENDPOINTS
from stoker.schemas.subjects import Subjects
from stoker.services.bus.asyncapi import covers, document
from stoker.services.bus.descriptions import BUCKETS
from stoker.services.bus.permissions import services

DOCUMENT = document("1.2.3")
NO_CHANNEL = {"every", "prefix"}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for one in value.values():
            yield from references(one)
    elif isinstance(value, list):
        for one in value:
            yield from references(one)


def at(reference: str) -> Any:
    found: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def operations(service: str, action: str) -> set[str]:
    return {
        name.split(".")[2] for name, one in DOCUMENT["operations"].items()
        if name.startswith(f"{service}.{action}.") and one["action"] == action
    }  # fmt: skip


def test_every_subject_has_a_channel() -> None:
    methods = {name for name, _ in inspect.getmembers(Subjects, inspect.isfunction) if name[0] != "_"}
    several = {"worker", "scheduler", "history"}
    names = {one.name for one in CHANNELS}
    assert methods - several - NO_CHANNEL <= names
    assert all(any(name.startswith(f"{one}_") for name in names) for one in several)


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert len(found) > 200
    for reference in found:
        assert at(reference) is not None


def test_every_channel_has_parameters_a_summary_and_a_message() -> None:
    addresses = [one["address"] for one in DOCUMENT["channels"].values() if one["address"]]
    assert len(addresses) == len(set(addresses)) == len(CHANNELS) + len(BUCKETS)
    for name, channel in DOCUMENT["channels"].items():
        assert channel["summary"], name
        tokens = {token[1:-1] for token in (channel["address"] or "").split(".") if token.startswith("{")}
        assert tokens == channel.get("parameters", {}).keys()
        assert list(channel["messages"]) == [name]
    channels = DOCUMENT["channels"]
    assert channels["job"]["address"] == "stoker.jobs.{model}"
    assert (channels["job"]["x-stream"], channels["event"]["x-stream"]) == ("STOKER_JOBS", "STOKER_EVENTS")
    assert "x-stream" not in channels["heartbeat"]


def test_a_prefix_stands_in_every_subject() -> None:
    own = document("1", "acme")["channels"]
    assert all(one["address"].split(".")[0] in ("acme", "$KV") for one in own.values() if one["address"])


def test_every_schema_is_one() -> None:
    whole = {"components": DOCUMENT["components"]}
    for message in DOCUMENT["components"]["messages"].values():
        jsonschema.Draft7Validator.check_schema(message.get("payload", {}) | whole)


def test_who_sends_and_who_receives_is_what_the_permissions_say() -> None:
    assert {"job", "cancel", "scheduler_job", "worker_replay"} <= operations("gateway", "send")
    assert "worker_assign" not in operations("gateway", "send")
    assert {"worker_assign", "queue", "verdict", "event"} <= operations("scheduler", "send")
    assert {"heartbeat", "finished", "cancel", "job"} <= operations("scheduler", "receive")
    assert operations("client", "send") == {"requests"}
    assert operations("client", "receive") == set()
    assert operations("worker", "send") >= {"heartbeat", "out", "result", "calls"}
    assert not operations("worker", "receive") & {"result", "job", "stoker_keys"}
    for service, permissions in services().items():
        for pattern in permissions.publish:
            if not pattern.startswith(("$JS", "_INBOX")):
                sent = [name for name in operations(service, "send")]
                assert any(covers(pattern, DOCUMENT["channels"][name]["address"]) for name in sent), pattern


def test_what_is_answered_has_a_reply_on_both_sides() -> None:
    for name, channel in ENDPOINTS.items():
        assert channel.answered is not None
        own = DOCUMENT["operations"][f"{channel.answered.by}.receive.{name}"]
        assert own["reply"]["channel"] == {"$ref": f"#/channels/{name}_answer"}
        asked = [one for key, one in DOCUMENT["operations"].items() if key.endswith(f".send.{name}")]
        assert asked, name
        assert all("reply" in one for one in asked if one["tags"][0]["name"] != channel.answered.by)
    assert DOCUMENT["operations"]["gateway.receive.calls"]["bindings"] == {"nats": {"queue": "gateways"}}


@pytest.mark.parametrize(
    ("pattern", "address", "is_covered"),
    [
        ("a.*", "a.{x}", True),
        ("a.b", "a.{x}", True),
        ("a.b", "a.c", False),
        ("a.*", "a.{x}.c", False),
        ("a.*.c", "a.{x}", False),
        ("a.>", "a.{x}.c", True),
        ("a.>", "a", False),
    ],
)
def test_a_pattern_covers_what_nats_matches(pattern: str, address: str, is_covered: bool) -> None:
    assert covers(pattern, address) is is_covered
