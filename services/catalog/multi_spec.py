"""`kind: Model` documents (document 004): one model, many specs.

What stands in `spec` applies to all `specs[]`, and what a spec sets itself wins; maps such as `env` are merged
by key. `specs` may stand beside `spec` or in it; without any, `spec` is the only one. Features and load
balancing are the whole model's.
"""

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec

from stoker.schemas.catalog import (
    DEFAULT_SPEC,
    DEFAULT_TARGET_REQUESTS,
    DEFAULT_WAITING_COST,
    Adapter,
    Feature,
    LoadBalancing,
    Model,
    ResourceProfile,
    Spec,
)
from stoker.schemas.subjects import BadName, check_name
from stoker.services.catalog.documents import Document, check_keys, convert, shown
from stoker.services.catalog.engines import check_options, check_url
from stoker.services.catalog.files import absolute, size_bytes, stamp
from stoker.services.catalog.kubeai import (
    SERVER_ENGINES,
    KubeAiFields,
    OtherEngine,
    other_engine,
    read_files,
    replica_bounds,
    warnings_of,
)
from stoker.services.catalog.model_defaults import check_defaults
from stoker.services.catalog.profiles import document_name
from stoker.services.catalog.short_form import ENGINE_FEATURES
from stoker.services.catalog.sizes import MAX_SLOTS, check_count, check_seconds, read_size

KIND = "Model"
MAX_SPECS = 64
ENGINES = {"function": "custom"} | {name: name for name in ENGINE_FEATURES}
"""Engines by the name in lower case."""
MODEL_FIELDS = {"features", "loadBalancing", "defaults", "runTimeoutSeconds", "waitingCostPerHour", "owner"}
"""Fields of the whole model: they stand in `spec` only."""
MERGED_MAPS = ("env", "options")
_PROFILE = re.compile(r"(.+?)(?::(\d+))?")


class AdapterEntry(msgspec.Struct, frozen=True):
    name: str
    url: str


class SpecEntry(KubeAiFields, frozen=True, kw_only=True, rename="camel"):
    """One spec, after the model's own values were laid below it; with the fields of kubeai.py.

    name: of the spec. url: of its weights: hf://, file://, ollama://. engine: what runs it. args, env: of the
    engine's own server. options: of the engine. resourceProfile: name:count; without one, workers that somebody
    else starts serve it. minReplicas: replicas that always run. maxReplicas: the most that run, draining ones
    included. targetRequests: what one replica is meant to hold; 0 is a standby. scaleDownDelaySeconds: the
    least that a replica stays when it is not needed. simultaneousScaleUpGroup: specs of one group race.
    adapters: LoRAs; asked for as model_name. memory: what it takes when loaded; else it is measured. slots:
    jobs at a time on one replica; 0 is the engine's own number.
    """

    name: str = DEFAULT_SPEC
    url: str = ""
    engine: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = msgspec.field(default_factory=dict)
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    resource_profile: str = ""
    min_replicas: int = 0
    max_replicas: int | None = None
    target_requests: int = DEFAULT_TARGET_REQUESTS
    scale_down_delay_seconds: float = 30.0
    simultaneous_scale_up_group: str = ""
    adapters: tuple[AdapterEntry, ...] = ()
    memory: int | str = 0
    slots: int = 0


class WholeEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Values of the whole model that are read as they stand.

    defaults: of requests that leave them unset. runTimeoutSeconds: the longest run. waitingCostPerHour: what an
    hour of one request's waiting is worth, beside the prices of profiles.
    """

    defaults: dict[str, Any] | None = None
    run_timeout_seconds: float | None = None
    waiting_cost_per_hour: float = DEFAULT_WAITING_COST


class PrefixHashEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """prefixChatLength and meanLoadFactor are other spellings of the two.

    meanLoadPercentage, meanLoadFactor: of the mean load, that a replica may have before the next one is taken.
    replication: points of a replica on the ring. prefixCharLength, prefixChatLength: characters of a prompt
    that choose the replica.
    """

    mean_load_percentage: int | None = None
    mean_load_factor: int | None = None
    replication: int = 256
    prefix_char_length: int | None = None
    prefix_chat_length: int | None = None


class BalancingEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    strategy: Literal["LeastLoad", "PrefixHash"] = "LeastLoad"
    prefix_hash: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a spec is written, and where the model's own values are. warnings: what is odd, and no error."""

    document: Document
    model: str
    common: Mapping[str, Any]
    common_path: tuple[str | int, ...]
    warnings: list[str]


def model_document(document: Document, warnings: list[str]) -> Model:
    """A `kind: Model` document; its profiles are not known yet. Raises ConfigurationError.

    warnings: what is taken and means nothing here is added to them.
    """
    check_keys(document, (), document.content, ("kind", "apiVersion", "metadata", "spec", "specs", "status"))
    name = document_name(document)
    try:
        check_name(name)
    except BadName as error:
        raise document.place("metadata", "name").error(str(error)) from error
    common = document.content.get("spec") or {}
    known = {*_written_names(SpecEntry), *MODEL_FIELDS, "specs"}
    check_keys(document, ("spec",), common, known)
    source = _Source(document, name, common, ("spec",), warnings)
    specs = _specs(source)
    features = _features(document, common, specs)
    names = WholeEntry.__struct_encode_fields__
    whole: WholeEntry = convert(
        document, ("spec",), {key: common[key] for key in names if key in common}, WholeEntry
    )
    check_defaults(document, ("spec", "defaults"), whole.defaults or {})
    run_timeout_s = 600.0 if whole.run_timeout_seconds is None else whole.run_timeout_seconds
    check_seconds(document, ("spec", "runTimeoutSeconds"), run_timeout_s)
    if not 0 <= whole.waiting_cost_per_hour < math.inf:
        raise document.place("spec", "waitingCostPerHour").error(
            f"must be 0 or more, not {whole.waiting_cost_per_hour:g}"
        )
    return Model(
        name=name,
        features=features,
        specs=specs,
        owner=_owner(document, common),
        labels=_labels(document),
        defaults=whole.defaults or {},
        run_timeout_s=run_timeout_s,
        waiting_cost_per_hour=whole.waiting_cost_per_hour,
        created_at=int(document.file.stat().st_mtime),
        load_balancing=_balancing(document, common),
    )


def _owner(document: Document, common: Mapping[str, Any]) -> str:
    owner = common.get("owner") or ""
    if not isinstance(owner, str):
        raise document.place("spec", "owner").error(f"must be a text, not {shown(owner)}")
    return owner


def _labels(document: Document) -> dict[str, str]:
    labels = document.content["metadata"].get("labels") or {}
    if not isinstance(labels, dict):
        raise document.place("metadata", "labels").error(f"must be names and values, not {shown(labels)}")
    for name, value in labels.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise document.place("metadata", "labels", name).error(
                f"must be a text in quotes, not {shown(value)}"
            )
    return dict(labels)


def _written_names(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    return kind.__struct_encode_fields__


def _specs(source: _Source) -> tuple[Spec, ...]:
    document = source.document
    paths: list[tuple[str | int, ...]] = [("specs",), ("spec", "specs")]
    places = [path for path in paths if _at(document.content, path) is not None]
    if len(places) > 1:
        raise document.place("spec", "specs").error("specs stand here and beside spec; write them in one place")
    if not places:
        return (_spec(source, source.common_path, {}),)
    [path] = places
    entries = _at(document.content, path)
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_SPECS:
        raise document.place(*path).error(f"must be a list of 1 to {MAX_SPECS} specs")
    specs: dict[str, Spec] = {}
    for index, entry in enumerate(entries):
        spec = _spec(source, (*path, index), entry)
        if "name" not in entry:
            raise document.place(*path, index, "name").error("missing required field: name")
        if spec.name in specs:
            raise document.place(*path, index, "name").error(f"a spec {spec.name!r} is there already")
        specs[spec.name] = spec
    return tuple(specs.values())


def _at(content: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def merged(common: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """A spec's fields over those of the model; maps are merged by key."""
    found = {key: value for key, value in common.items() if key not in MODEL_FIELDS | {"specs"}} | dict(entry)
    for key in MERGED_MAPS:
        if isinstance(common.get(key), dict) and isinstance(entry.get(key), dict):
            found[key] = {**common[key], **entry[key]}
    return found


def _spec(source: _Source, path: tuple[str | int, ...], entry: Any) -> Spec:
    document = source.document
    if not isinstance(entry, dict):
        raise document.place(*path).error(f"must be a mapping, not {shown(entry)}")
    for key in entry:
        if key in MODEL_FIELDS:
            raise document.place(*path, key).error(
                f"{key} applies to the whole model: write it once, as spec.{key}"
            )
    check_keys(document, path, entry, _written_names(SpecEntry))
    given: SpecEntry = convert(document, path, merged(source.common, entry), SpecEntry)
    _check_numbers(document, path, given)
    other = other_engine(given.engine, given.url)
    engine = _engine(document, path, given, other)
    check_options(document, (*path, "options"), engine, given.options)
    check_url(document, (*path, "url"), engine, given.url)
    profile = _PROFILE.fullmatch(given.resource_profile)
    if profile is not None and ":" in profile[1]:
        message = f"must look like name or name:count, not {given.resource_profile!r}"
        raise document.place(*path, "resourceProfile").error(message)
    count = int(profile[2] or 1) if profile is not None else 1
    if count < 1:
        raise document.place(*path, "resourceProfile").error("the count after the colon must be 1 or more")
    url = absolute(document.file, given.url)
    least, most = replica_bounds(given, given.min_replicas, given.max_replicas)
    files = read_files(document, path, given.files)
    written = merged(source.common, entry)
    source.warnings.extend(warnings_of(f"model {source.model}, spec {given.name}", written, engine, other))
    return Spec(
        name=given.name,
        engine=engine,
        url=url,
        profile=profile[1] if profile is not None else "",
        profile_count=count,
        options=given.options,
        args=given.args if other is None else (),
        env=given.env,
        adapters=tuple(Adapter(one.name, absolute(document.file, one.url)) for one in given.adapters),
        size_bytes=size_bytes(url),
        stamp=stamp(url),
        memory_bytes=read_size(document, (*path, "memory"), given.memory),
        slots=given.slots,
        files=files if engine in SERVER_ENGINES else (),
        min_replicas=least,
        max_replicas=most or 0,
        target_requests=given.target_requests,
        scale_down_delay_s=given.scale_down_delay_seconds,
        scale_group=given.simultaneous_scale_up_group,
    )


def _engine(
    document: Document, path: tuple[str | int, ...], given: SpecEntry, other: OtherEngine | None
) -> str:
    """The engine of here. Raises ConfigurationError where there is none, or where it needs a url."""
    engine = other.name if other is not None else ENGINES.get(given.engine.lower())
    if engine is None:
        known = "VLLM, OLlama, LlamaCpp, Diffusers, Whisper, FasterWhisper, Infinity, Function"
        raise document.place(*path, "engine").error(f"unknown engine {given.engine!r}; there are {known}")
    if not given.url and engine not in ("synthetic", "custom"):
        raise document.place(*path, "url").error("missing required field: url")
    return engine


def _check_numbers(document: Document, path: tuple[str | int, ...], given: SpecEntry) -> None:
    try:
        check_name(given.name)
    except BadName as error:
        raise document.place(*path, "name").error(str(error)) from error
    for field in ("minReplicas", "targetRequests", "scaleDownDelaySeconds", "slots", "replicas"):
        value = getattr(given, _FIELDS[field])
        if value is not None:
            most = MAX_SLOTS if field == "slots" else sys.float_info.max
            check_count(document, (*path, field), value, most)
    if given.max_replicas is not None and given.max_replicas < max(given.min_replicas, 1):
        raise document.place(*path, "maxReplicas").error(
            f"must be at least minReplicas and 1, not {given.max_replicas}"
        )


_FIELDS = dict(zip(SpecEntry.__struct_encode_fields__, SpecEntry.__struct_fields__, strict=True))


def _features(document: Document, common: Mapping[str, Any], specs: tuple[Spec, ...]) -> tuple[Feature, ...]:
    known: tuple[Feature, ...] = get_args(Feature)
    written = common.get("features")
    if written is None:
        return _unwritten_features(document, common, specs[0])
    if not isinstance(written, list) or not written:
        raise document.place("spec", "features").error(f"must be a list of {', '.join(known)}")
    for index, feature in enumerate(written):
        if feature not in known:
            raise document.place("spec", "features", index).error(
                f"unknown feature {feature!r}; there are {', '.join(known)}"
            )
    return tuple(written)


def _unwritten_features(document: Document, common: Mapping[str, Any], first: Spec) -> tuple[Feature, ...]:
    """Those of the first spec's engine, as it is written."""
    specs = document.content.get("specs") or common.get("specs") or [{}]
    other = other_engine(str(specs[0].get("engine") or common.get("engine")), first.url)
    of_engine: tuple[Feature, ...] = ENGINE_FEATURES.get(first.engine, ("TextGeneration",))
    return other.features if other is not None else of_engine


def _balancing(document: Document, common: Mapping[str, Any]) -> LoadBalancing:
    path = ("spec", "loadBalancing")
    given: BalancingEntry = convert(document, path, common.get("loadBalancing") or {}, BalancingEntry)
    inner = (*path, "prefixHash")
    hashed: PrefixHashEntry = convert(document, inner, given.prefix_hash, PrefixHashEntry)
    mean = _one_of(document, inner, hashed, "meanLoadPercentage", "meanLoadFactor", 125)
    length = _one_of(document, inner, hashed, "prefixCharLength", "prefixChatLength", 100)
    if mean < 100:
        name = "meanLoadPercentage" if hashed.mean_load_percentage is not None else "meanLoadFactor"
        raise document.place(*inner, name).error(f"must be at least 100, not {mean}")
    for field, value in (("replication", hashed.replication), ("prefixCharLength", length)):
        if value < 1:
            raise document.place(*inner, field).error(f"must be 1 or more, not {value}")
    return LoadBalancing(given.strategy, mean, hashed.replication, length)


def _one_of(
    document: Document, path: tuple[str | int, ...], given: PrefixHashEntry, name: str, other: str, default: int
) -> int:
    """A number that has two spellings. Raises ConfigurationError where both are written."""
    first, second = (value for key, value in msgspec.to_builtins(given).items() if key in (name, other))
    if first is not None and second is not None:
        raise document.place(*path, other).error(f"is another spelling of {name}: write one of them")
    return next((value for value in (first, second) if value is not None), default)


def with_launchers(model: Model, profiles: Mapping[str, ResourceProfile]) -> tuple[Model, tuple[str, ...]]:
    """The model with the launcher of each spec's profile; warnings about profiles that nobody defined."""
    warnings: list[str] = []
    specs: list[Spec] = []
    for spec in model.specs:
        profile = profiles.get(spec.profile)
        if spec.profile and profile is None:
            warnings.append(
                f"model {model.name}, spec {spec.name}: no resource profile {spec.profile!r} is defined: "
                "its workers must be started by somebody else"
            )
        launcher = profile.launcher if profile is not None and profile.launcher != "static" else ""
        specs.append(msgspec.structs.replace(spec, launcher=launcher))
    return msgspec.structs.replace(model, specs=tuple(specs)), tuple(warnings)
