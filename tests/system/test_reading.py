"""What an operator reads with the `nats` command: services, streams, buckets, and every message as JSON."""

import asyncio
import json
from typing import Any

import jsonschema
import nats
from nats.aio.msg import Msg
from nats.js.errors import NoKeysError
from nats.js.kv import KeyValue

from stoker.schemas.subjects import CATALOG_BUCKET
from stoker.schemas.wire import JSON_LENGTH_HEADER
from stoker.services.bus.asyncapi import covers, document
from tests.conftest import System
from tests.waiting import eventually

SERVICES = {"stoker-gateway", "stoker-scheduler", "stoker-worker", "stoker-autoscaler"}


async def test_a_ping_shows_every_service(synthetic: System) -> None:
    client = await nats.connect(synthetic.nats)
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox)
    await client.publish("$SRV.PING", reply=inbox)
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        while {one["name"] for one in found} != SERVICES or len(found) < len(SERVICES) + 1:
            found.append(json.loads((await answers.next_msg(5)).data))
    workers = [one["metadata"]["worker"] for one in found if one["name"] == "stoker-worker"]
    assert sorted(workers) == ["worker-1", "worker-2"]
    await client.close()


async def keys_of(bucket: KeyValue) -> list[str]:
    """nats-py ends its list too early now and then."""

    async def found() -> list[str]:
        try:
            return await bucket.keys()
        except NoKeysError:
            return []

    keys: list[str] = await eventually(found)
    return keys


async def test_streams_and_buckets_have_readable_names_and_content(synthetic: System) -> None:
    client = await nats.connect(synthetic.nats)
    jetstream = client.jetstream()
    names = {stream.config.name for stream in await jetstream.streams_info()}
    assert {"STOKER_JOBS", "STOKER_RESULTS", "STOKER_EVENTS", "KV_stoker_catalog", "KV_stoker_leases"} <= names
    catalog = await jetstream.key_value(CATALOG_BUCKET)
    keys = {key for key in await keys_of(catalog) if not key.startswith("possible.")}
    assert keys == {"echo", "slow", "single", "revision.current"}
    entry = await catalog.get("echo")
    assert json.loads(entry.value or b"")["specs"][0]["engine"] == "synthetic"
    await client.close()


def check_against_the_document(heard: list[Msg]) -> None:
    """Every message is what `stoker schema asyncapi` says of its subject."""
    told = document("0.1.0")
    places = {name: one["address"] for name, one in told["channels"].items() if one["address"]}
    seen: set[str] = set()
    for message in heard:
        fitting = [name for name, address in places.items() if covers(message.subject, address)]
        name = min(
            fitting, key=lambda one: places[one].count("{")
        )  # text of several jobs has a token of its own
        payload = told["components"]["messages"][name].get("payload")
        if payload is not None:
            length = int((message.headers or {}).get(JSON_LENGTH_HEADER, len(message.data)))
            schema = payload | {"components": told["components"]}
            jsonschema.Draft7Validator(schema).validate(json.loads(message.data[:length]))
            seen.add(name)
    assert {"job", "out", "result", "ended", "finished", "queue", "worker_assign"} <= seen
    assert seen & {"heartbeat", "change"}, "a worker said what it has, or what of that has changed"


async def test_everything_said_about_a_job_is_json_on_a_subject_that_names_it(synthetic: System) -> None:
    client = await nats.connect(synthetic.nats)
    heard: list[Msg] = []

    async def listen(message: Msg) -> None:
        heard.append(message)

    await client.subscribe("stoker.>", cb=listen)
    await client.flush()
    job = await asyncio.to_thread(synthetic.submit, "slow", max_tokens=4)
    await asyncio.to_thread(synthetic.ended, job)
    await eventually(lambda: {"heartbeat", "change"} & {one.subject.split(".")[1] for one in heard})
    await client.flush()
    for message in heard:
        length = int((message.headers or {}).get(JSON_LENGTH_HEADER, len(message.data)))
        json.loads(message.data[:length] or b"null")
    check_against_the_document(heard)
    about = [message for message in heard if job.encode() in message.data or job in message.subject]
    kinds = {message.subject.split(".")[1] for message in about}
    assert {"jobs", "worker", "out", "result", "finished"} <= kinds
    await client.close()
