"""The bus as an AsyncAPI 3.0 document: `stoker schema asyncapi`. Pure.

Nothing is written twice: subjects, messages and answers come from schemas/channels.py, who sends and receives
from permissions.py, streams from streams.py, buckets from descriptions.py, payloads from the Structs.
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from stoker.schemas.channels import CHANNELS, HEADERS, VALUES, Bytes, Channel, Nothing
from stoker.schemas.subjects import Subjects, of_bucket
from stoker.services.bus.descriptions import BUCKETS, STREAMS
from stoker.services.bus.permissions import Permissions, services
from stoker.services.bus.streams import stream_configs

VERSION = "3.0.0"
PARAMETERS = {
    "model": "Name of a model.",
    "job": "Id of a job; where others must not speak of it, with its seal: `id=Sseal`.",
    "gateway": "Name of a gateway.",
    "worker": "Name of a worker.",
    "source": "What the message was: `job` or `webhook`.",
    "name": "Name of a blob.",
    "part": "Number of the part.",
    "token": "Id of a file.",
    "term": "Of the scheduler's lease.",
    "kind": "What happened: assigned, loaded, launched, operated, …",
    "identity": "What it happened to.",
    "key": "Key in the bucket.",
}
_SCHEMAS = "#/components/schemas/{name}"


def document(version: str, prefix: str = "stoker") -> dict[str, Any]:
    """The document. version: of the distribution."""
    kinds = [one.kind for one in CHANNELS] + [one.answered.kind for one in CHANNELS if one.answered]
    structs = [kind for kind in (*kinds, *VALUES.values()) if kind not in (Nothing, Bytes)]
    shown, components = msgspec.json.schema_components(structs, ref_template=_SCHEMAS)
    schema_of = {_key(kind): _plain(schema) for kind, schema in zip(structs, shown, strict=True)}
    streams = {one.name: one.subjects[0] for one in stream_configs(Subjects(prefix)) if one.subjects}
    channels: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for one in CHANNELS:
        channels[one.name] = _channel(one, prefix, _stream_of(one.address(prefix), streams))
        messages[one.name] = _message(one.kind, schema_of, one.headers)
        if one.answered is not None:
            channels[one.answer_name] = _answers(one)
            messages[one.answer_name] = _message(one.answered.kind, schema_of)
    for bucket, text in BUCKETS.items():
        channels[bucket] = _bucket(bucket, text)
        messages[bucket] = _message(VALUES.get(bucket, Bytes), schema_of)
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "Stoker on NATS",
            "version": version,
            "description": "Dots, spaces, `*` and `>` in a name travel as `=XX`. All messages are JSON; where "
            "raw bytes follow it, a header says how long the JSON is.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"nats": {"host": "127.0.0.1:4222", "protocol": "nats"}},
        "channels": channels,
        "operations": dict(_operations(prefix, streams)),
        "components": {"messages": messages, "schemas": _plain(components)},
    }


def _key(kind: Any) -> str:
    return str(kind)


def _plain(schema: Any) -> Any:
    """A schema as AsyncAPI has it: what tells alternatives apart is named, its values stand in each of them."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    told = schema.get("discriminator")
    if isinstance(told, dict) and "mapping" in told:
        schema = schema | {"discriminator": told["propertyName"]}
    return {key: _plain(value) for key, value in schema.items()}


def _parameters(names: tuple[str, ...]) -> dict[str, Any]:
    return {"parameters": {one: {"description": PARAMETERS[one]} for one in names}} if names else {}


def _messages(name: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"}}


def _channel(channel: Channel, prefix: str, stream: str) -> dict[str, Any]:
    made: dict[str, Any] = {"address": channel.address(prefix), "summary": channel.summary}
    made |= {"messages": _messages(channel.name)} | _parameters(channel.parameters())
    return made | ({"x-stream": stream, "description": STREAMS[stream]} if stream else {})


def _answers(channel: Channel) -> dict[str, Any]:
    summary = f"Answers to {channel.name}: to the inbox that the question names as its reply subject."
    return {"address": None, "summary": summary, "messages": _messages(channel.answer_name)}


def _bucket(bucket: str, text: str) -> dict[str, Any]:
    made = {"address": f"$KV.{bucket}.{{key}}", "summary": text, "x-stream": of_bucket(bucket)}
    return made | {"messages": _messages(bucket)} | _parameters(("key",))


def _message(kind: Any, schema_of: dict[str, Any], headers: tuple[str, ...] = ()) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if headers:
        named = {one: {"type": "string", "description": HEADERS[one]} for one in headers}
        made["headers"] = {"type": "object", "properties": named}
    if kind is Bytes:
        return made | {"contentType": "application/octet-stream"}
    return made | ({} if kind is Nothing else {"payload": schema_of[_key(kind)]})


# Who sends and receives --------------------------------------------------------------------------


def covers(pattern: str, address: str) -> bool:
    """Whether a pattern of NATS has subjects of an address with `{parameters}`: all, or those of one value.

    The key of a bucket may have several tokens.
    """
    wanted, tokens = pattern.split("."), address.split(".")
    for number, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > number
        if number < len(tokens) and tokens[0] == "$KV" and tokens[number] == "{key}":
            return True
        if number >= len(tokens) or not (token in ("*", tokens[number]) or tokens[number].startswith("{")):
            return False
    return len(wanted) == len(tokens)


def _stream_of(address: str, streams: dict[str, str]) -> str:
    return next((name for name, subject in streams.items() if covers(subject, address)), "")


def _reads(permissions: Permissions, stream: str) -> bool:
    """Whether a service may read messages of a stream, beside hearing them as they are stored."""
    pattern = re.compile(rf"(?:DIRECT\.GET|STREAM\.MSG\.GET|CONSUMER\.[A-Z.*]+)\.{re.escape(stream)}(?:\.>)?")
    return bool(stream) and any(pattern.fullmatch(one) for one in permissions.asks)


def _operations(prefix: str, streams: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    places = [(one.name, one.address(prefix), one) for one in CHANNELS]
    buckets = [(bucket, f"$KV.{bucket}.{{key}}", None) for bucket in BUCKETS]
    for service, permissions in services(prefix).items():
        for name, address, channel in [*places, *buckets]:
            stream = _stream_of(address, streams) if channel else of_bucket(name)
            may = partial(_is_any, address)
            is_asked = channel is not None and channel.answered is not None and channel.answered.by == service
            if may(permissions.publish):
                yield f"{service}.send.{name}", _operation("send", service, name, channel)
            if may(permissions.subscribe) or is_asked or _reads(permissions, stream):
                yield f"{service}.receive.{name}", _operation("receive", service, name, channel)


def _is_any(address: str, patterns: tuple[str, ...]) -> bool:
    return any(covers(one, address) for one in patterns)


def _operation(action: str, service: str, name: str, channel: Channel | None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "action": action,
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
        "tags": [{"name": service}],
    }
    if channel is None or channel.answered is None:
        return made
    is_answering = channel.answered.by == service
    if action == "receive" and is_answering and channel.answered.queue:
        made["bindings"] = {"nats": {"queue": channel.answered.queue}}
    if (action == "receive") == is_answering:
        answer = channel.answer_name
        made["reply"] = {
            "channel": {"$ref": f"#/channels/{answer}"},
            "messages": [{"$ref": f"#/channels/{answer}/messages/{answer}"}],
        }
    return made
