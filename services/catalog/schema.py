"""A JSON Schema of configuration files, for editors: `stoker schema config`. Pure.

Made from the Structs that files are read into (their docstrings describe the keys), with the bounds that are
checked beside them. It refuses what can be seen in one file alone; `stoker check` sees more.
"""

import re
from collections.abc import Iterable
from typing import Any, get_args

import msgspec

from stoker.schemas.catalog import Feature
from stoker.schemas.drawing import MAX_CLIP_SKIP
from stoker.schemas.engine_options import OPTIONS, names_of
from stoker.schemas.formats import DIALECT
from stoker.services.catalog import multi_spec, profiles
from stoker.services.catalog.documents import IGNORED
from stoker.services.catalog.engines import READ, READ_BY_ALL, RESOLVED_ELSEWHERE
from stoker.services.catalog.kubeai import MAX_FILES, OTHER_ENGINES
from stoker.services.catalog.load import MAX_WORKERS, WORKER_ENGINES, WorkerEntry
from stoker.services.catalog.model_defaults import Defaults
from stoker.services.catalog.modes import (
    MAX_GUIDANCE,
    MAX_STEPS,
    EmbeddingEntry,
    LoraEntry,
    ModeEntry,
    StyleEntry,
)
from stoker.services.catalog.multi_spec import BalancingEntry, PrefixHashEntry, SpecEntry, WholeEntry
from stoker.services.catalog.profiles import GpuEntry, ProfileEntry
from stoker.services.catalog.short_form import (
    DEFAULTS_OF,
    ENGINE_FEATURES,
    ModelEntry,
)

Schema = dict[str, Any]
STRUCTS: tuple[type[msgspec.Struct], ...] = (
    ModelEntry,
    WorkerEntry,
    SpecEntry,
    WholeEntry,
    BalancingEntry,
    PrefixHashEntry,
    ProfileEntry,
    GpuEntry,
    ModeEntry,
    LoraEntry,
    EmbeddingEntry,
    StyleEntry,
    Defaults,
    *OPTIONS.values(),
)
SIZE = r"^\s*\d+(\.\d+)?\s*[KMGTkmgt]?[Ii]?[Bb]?\s*$"
AT_LEAST_0: Schema = {"minimum": 0}
OVER_0: Schema = {"exclusiveMinimum": 0}
MEMORY: Schema = {"pattern": SIZE, "minimum": 0}
BOUNDS: dict[type[msgspec.Struct], dict[str, Schema]] = {
    ModelEntry: {"slots": AT_LEAST_0, "run_timeout_s": OVER_0, "memory": MEMORY},
    WorkerEntry: {"count": {"minimum": 0, "maximum": MAX_WORKERS}},
    SpecEntry: {
        "minReplicas": AT_LEAST_0,
        "maxReplicas": {"minimum": 1},
        "targetRequests": AT_LEAST_0,
        "scaleDownDelaySeconds": AT_LEAST_0,
        "slots": AT_LEAST_0,
        "replicas": AT_LEAST_0,
        "memory": MEMORY,
        "files": {"maxItems": MAX_FILES},
        "resourceProfile": {"pattern": r"^([^:]+(:0*[1-9]\d*)?)?$"},
    },
    WholeEntry: {"runTimeoutSeconds": OVER_0, "waitingCostPerHour": AT_LEAST_0},
    PrefixHashEntry: {
        "meanLoadPercentage": {"minimum": 100},
        "meanLoadFactor": {"minimum": 100},
        "replication": {"minimum": 1},
        "prefixCharLength": {"minimum": 1},
        "prefixChatLength": {"minimum": 1},
    },
    ProfileEntry: {
        "inventory": AT_LEAST_0,
        "startTimeoutSeconds": OVER_0,
        "pricePerHour": AT_LEAST_0,
        "memory": MEMORY,
    },
    ModeEntry: {
        "default_size": {"pattern": r"^(\d+x\d+)?$"},
        "default_steps": {"minimum": 1, "maximum": MAX_STEPS},
        "default_guidance": {"minimum": 0, "maximum": MAX_GUIDANCE},
        "default_clip_skip": {"minimum": 1, "maximum": MAX_CLIP_SKIP},
    },
}
"""What is checked beside the types, by the key as it is written."""
_SAID = re.compile(r"(?:^|(?<=\. ))(\w+(?:, \w+)*): (.+?)(?=\. \w+(?:, \w+)*: |\.?$)")


def configuration_schema() -> Schema:
    """One schema for every kind of document."""
    _, named = msgspec.json.schema_components(STRUCTS)
    for kind in STRUCTS:
        named[kind.__name__] = _strict(kind, named[kind.__name__])
    named["ModelEntry"] |= {"allOf": [*_engine_rules(ENGINE_FEATURES, {}), *_short_rules()]}
    named["ModelEntry"]["properties"]["engine"] = _engine_names(ENGINE_FEATURES)
    named["WorkerEntry"]["properties"]["engines"]["items"] = _engine_names(WORKER_ENGINES)
    named["ModelEntry"]["properties"]["defaults"] = _ref("Defaults")
    named["ProfileEntry"]["if"] = {
        "properties": {"launcher": {"enum": ["docker", "nomad"]}},
        "required": ["launcher"],
    }
    named["ProfileEntry"]["then"] = {"required": ["image"], "properties": {"image": {"minLength": 1}}}
    named |= {"ModelDocument": _model_document(named), "ProfileDocument": _profile_document()}
    named |= {"Modes": _modes(), "ShortForm": _short_form()}
    of_kind: Schema = {
        "properties": {"kind": {"enum": [multi_spec.KIND, profiles.KIND]}},
        "if": {"properties": {"kind": {"const": multi_spec.KIND}}},
        "then": _ref("ModelDocument"),
        "else": _ref("ProfileDocument"),
    }
    is_modes = {"anyOf": [{"required": ["modes"]}, {"required": ["model_root"]}]}
    return {
        "$schema": DIALECT,
        "title": "Configuration of Stoker",
        "type": "object",
        "minProperties": 1,
        "if": is_modes,
        "then": _ref("Modes"),
        "else": {"if": {"required": ["kind"]}, "then": of_kind, "else": _ref("ShortForm")},
        "$defs": named,
    }


def described(kind: type[msgspec.Struct]) -> dict[str, str]:
    """What a Struct's docstrings say of its fields: `one, other: text.`, by the names as they are written."""
    names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for said, text in _SAID.findall(" ".join((base.__doc__ or "").split())):
            for name in said.split(", "):
                if name in names.values() or name in names:
                    found[names.get(name, name)] = text[:1].upper() + text[1:] + "."
    return found


def _strict(kind: type[msgspec.Struct], schema: Schema) -> Schema:
    """A Struct's schema with what its docstring says, its bounds, and no other keys."""
    schema = schema | {"additionalProperties": False}
    schema.pop("title", None)
    told = described(kind)
    for name, field in schema["properties"].items():
        for bound, value in BOUNDS.get(kind, {}).get(name, {}).items():
            field[bound] = value
        if name in told:
            field["description"] = told[name]
    return schema


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _any_case(name: str) -> str:
    return "".join(f"[{one.lower()}{one.upper()}]" if one.isalpha() else one for one in name)


def _engine_names(names: Iterable[str], shown: Iterable[str] = ()) -> Schema:
    """Engines in any case of letters; an editor offers `shown`."""
    names = list(names)
    pattern = "^(" + "|".join(_any_case(name) for name in names) + ")$"
    return {
        "type": "string",
        "description": "What runs it.",
        "anyOf": [{"enum": list(shown) or names}, {"pattern": pattern}],
    }


def _url_pattern(engine: str) -> str:
    schemes = "|".join((*READ.get(engine, READ_BY_ALL), *RESOLVED_ELSEWHERE))
    if engine in READ:
        return f"^({schemes})://.+"
    return f"^(?!hf://)({schemes})://.+|^(?!.*://)|^hf://[^/]+/[^/]+"


def _engine_rules(engines: Iterable[str], theirs: dict[str, str]) -> list[Schema]:
    """For each engine: its options, and where its weights come from. theirs: other names, by engine."""
    rules: list[Schema] = []
    for engine in engines:
        options = _ref(OPTIONS[engine].__name__) if names_of(engine) else {"maxProperties": 0}
        properties: Schema = {"options": options}
        if engine != "synthetic":
            properties["url"] = {"pattern": _url_pattern(engine)}
        pattern = f"^({_any_case(engine)}{theirs.get(engine, '')})$"
        is_it = {"required": ["engine"], "properties": {"engine": {"pattern": pattern}}}
        rules.append({"if": is_it, "then": {"properties": properties}})
    return rules


def _short_rules() -> list[Schema]:
    """Of `models.NAME`: that there is a url, and which defaults its features have."""
    is_synthetic = {"properties": {"engine": {"pattern": f"^{_any_case('synthetic')}$"}}}
    rules: list[Schema] = [{"anyOf": [is_synthetic, {"required": ["url"]}]}]
    for engine, features in ENGINE_FEATURES.items():
        names = sorted(set[str]().union(*(DEFAULTS_OF.get(one, ()) for one in features)))
        is_it: Schema = {
            "properties": {"engine": {"pattern": f"^{_any_case(engine)}$"}},
            "required": ["engine"],
        }
        told = {"properties": {"defaults": {"propertyNames": {"enum": names}}}}
        rules.append({"if": is_it | {"not": {"required": ["features"]}}, "then": told})
    return rules


def _short_form() -> Schema:
    text = {"type": "string", "pattern": r"^[^\s:.]+(\.[^\s:.]+)*:[^\s:.]+$"}
    return {
        "type": "object",
        "additionalProperties": False,
        "patternProperties": {f"^{IGNORED}": {}},
        "properties": {
            "models": _named("ModelEntry", "Models by the name that requests ask for."),
            "workers": _list(_ref("WorkerEntry"), "Workers that `stoker up` starts by itself."),
            "handlers": _list(text, "Functions that custom jobs may call, as package.module:function."),
            "styles": _list(_ref("StyleEntry"), "Styles that requests for pictures may ask for."),
            profiles.KEY: {
                "type": "object",
                "description": "What hardware there is, and who starts workers on it.",
                "additionalProperties": {"anyOf": [_ref("ProfileEntry"), {"type": "null"}]},
            },
        },
    }


def _named(kind: str, text: str) -> Schema:
    names = {"minLength": 1}
    return {"type": "object", "description": text, "propertyNames": names, "additionalProperties": _ref(kind)}


def _list(items: Schema, text: str) -> Schema:
    return {"type": "array", "description": text, "items": items}


def _modes() -> Schema:
    folder = {"type": "string", "minLength": 1}
    return {
        "type": "object",
        "additionalProperties": False,
        "patternProperties": {f"^{IGNORED}": {}},
        "required": ["model_root", "default_mode", "modes"],
        "properties": {
            "model_root": folder | {"description": "Folder of the models."},
            "lora_root": {"type": ["string", "null"], "description": "Folder of the LoRAs; else model_root."},
            "embedding_dir": {"type": ["string", "null"], "description": "Folder of textual inversions."},
            "default_mode": {"type": "string", "description": "The mode of requests that name none."},
            "modes": _named("ModeEntry", "Modes by name.") | {"minProperties": 1},
            "styles": _list(_ref("StyleEntry"), "Styles that requests for pictures may ask for."),
        },
    }


def _metadata() -> Schema:
    texts = {"type": ["object", "null"], "additionalProperties": {"type": "string"}}
    named = {"name": {"type": "string", "minLength": 1}, "labels": texts}
    return {"type": "object", "required": ["name"], "properties": named}


def _profile_document() -> Schema:
    properties = {"kind": {}, "apiVersion": {}, "metadata": _metadata()}
    spec = {"anyOf": [_ref("ProfileEntry"), {"type": "null"}]}
    return {
        "additionalProperties": False,
        "patternProperties": {f"^{IGNORED}": {}},
        "required": ["kind", "metadata"],
        "properties": properties | {"spec": spec},
    }


def _model_document(named: Schema) -> Schema:
    """`kind: Model`: what stands in `spec` applies to all `specs`, so a spec need not name its engine."""
    one = named["SpecEntry"]
    shown = ("VLLM", "OLlama", "LlamaCpp", "Diffusers", "Whisper", "OpenAI", "Function", *OTHER_ENGINES)
    names = (*multi_spec.ENGINES, *(name.lower() for name in OTHER_ENGINES))
    one["properties"]["engine"] = _engine_names(names, shown)
    one["required"] = []
    rules = _engine_rules(ENGINE_FEATURES, {})
    whole = named["WholeEntry"]["properties"]
    balancing = named["BalancingEntry"]["properties"]
    balancing["prefixHash"] = _ref("PrefixHashEntry")
    named["PrefixHashEntry"]["allOf"] = [
        {"not": {"required": pair}}
        for pair in (["meanLoadPercentage", "meanLoadFactor"], ["prefixCharLength", "prefixChatLength"])
    ]
    features = {"type": "array", "minItems": 1, "items": {"enum": list(get_args(Feature))}}
    whole["defaults"] = {"anyOf": [_ref("Defaults"), {"type": "null"}]}
    specs = {
        "type": "array",
        "minItems": 1,
        "maxItems": multi_spec.MAX_SPECS,
        "items": {"allOf": [_ref("SpecEntry"), {"required": ["name"]}, *rules]},
    }
    common = {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": one["properties"]
        | whole
        | {
            "features": {"anyOf": [features, {"type": "null"}]},
            "loadBalancing": {"anyOf": [_ref("BalancingEntry"), {"type": "null"}]},
            "owner": {"type": ["string", "null"]},
            "specs": specs,
        },
    }
    has_specs = {"anyOf": [{"required": ["specs"]}, {"properties": {"spec": {"required": ["specs"]}}}]}
    return {
        "additionalProperties": False,
        "patternProperties": {f"^{IGNORED}": {}},
        "required": ["kind", "metadata"],
        "properties": {
            "kind": {},
            "apiVersion": {},
            "metadata": _metadata(),
            "spec": common,
            "specs": specs,
            "status": {},
        },
        "if": {"not": has_specs},
        "then": {"properties": {"spec": {"required": ["engine"], "allOf": rules}}},
    }
